// The sphere, as `panollava.vlm.geometry` has it: x right, y up, z forward; yaw positive to the right, pitch positive up.
// Directions and boxes are degrees. A box is a rectangle on the tangent plane of its centre.

export type Direction = readonly [yawDeg: number, pitchDeg: number];
export type Ray = readonly [number, number, number];

export interface Box {
  yaw_deg: number;
  pitch_deg: number;
  width_deg: number;
  height_deg: number;
}

// No tangent-plane rectangle is wider than 180 degrees; wider answers are drawn at this extent.
const MAX_EXTENT_DEG = 179;

const radians = (degrees: number): number => (degrees * Math.PI) / 180;
const degrees = (angle: number): number => (angle * 180) / Math.PI;

/** Wrap a yaw to [-180, 180). */
export function wrapped(yawDeg: number): number {
  return ((((yawDeg + 180) % 360) + 360) % 360) - 180;
}

export function toRay([yawDeg, pitchDeg]: Direction): Ray {
  const [yaw, pitch] = [radians(yawDeg), radians(pitchDeg)];
  return [Math.cos(pitch) * Math.sin(yaw), Math.sin(pitch), Math.cos(pitch) * Math.cos(yaw)];
}

/** The direction of a ray of any length. */
export function toDirection([x, y, z]: Ray): Direction {
  return [wrapped(degrees(Math.atan2(x, z))), degrees(Math.atan2(y, Math.hypot(x, z)))];
}

/** The four corners of a box, counter-clockwise as seen from the centre of the sphere, from the lower left one. */
export function boxCorners(box: Box): Direction[] {
  const [yaw, pitch] = [radians(box.yaw_deg), radians(box.pitch_deg)];
  const x = Math.tan(radians(Math.min(box.width_deg, MAX_EXTENT_DEG)) / 2);
  const y = Math.tan(radians(Math.min(box.height_deg, MAX_EXTENT_DEG)) / 2);
  const right = [Math.cos(yaw), 0, -Math.sin(yaw)] as const;
  const up = [-Math.sin(yaw) * Math.sin(pitch), Math.cos(pitch), -Math.cos(yaw) * Math.sin(pitch)] as const;
  const forward = toRay([box.yaw_deg, box.pitch_deg]);
  return ([[-x, -y], [x, -y], [x, y], [-x, y]] as const).map(([a, b]) =>
    toDirection([
      a * right[0] + b * up[0] + forward[0],
      a * right[1] + b * up[1] + forward[1],
      a * right[2] + b * up[2] + forward[2],
    ]),
  );
}

/** A closed ring, the last point joined to the first, with points on its great circles at most `stepDeg` apart. */
export function dense(ring: readonly Direction[], stepDeg: number): Direction[] {
  const rays = ring.map(toRay);
  return rays.flatMap((ray, index) => arc(ray, rays[(index + 1) % rays.length]!, stepDeg));
}

/** The angle between two directions in degrees. */
export function distance(a: Direction, b: Direction): number {
  return degrees(angle(toRay(a), toRay(b)));
}

/** A ring with yaws that go on past the seam, and how often it turns round the vertical axis. */
export function unwrapped(ring: readonly Direction[]): { points: Direction[]; turns: number } {
  const points: Direction[] = [];
  let yaw = ring[0]?.[0] ?? 0;
  for (const [next, pitch] of ring) {
    yaw += wrapped(next - yaw);
    points.push([yaw, pitch]);
  }
  const first = points[0] ?? [0, 0];
  const end = yaw + wrapped(first[0] - yaw);
  return { points, turns: Math.round((end - first[0]) / 360) };
}

function arc(a: Ray, b: Ray, stepDeg: number): Direction[] {
  const whole = angle(a, b);
  const steps = Math.max(1, Math.ceil(degrees(whole) / stepDeg));
  const sine = Math.max(Math.sin(whole), 1e-12);
  return Array.from({ length: steps }, (_, step) => {
    if (step === 0) return toDirection(a);
    const t = step / steps;
    const [p, q] = [Math.sin((1 - t) * whole) / sine, Math.sin(t * whole) / sine];
    return toDirection([p * a[0] + q * b[0], p * a[1] + q * b[1], p * a[2] + q * b[2]]);
  });
}

function angle(a: Ray, b: Ray): number {
  const difference = Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
  return 2 * Math.atan2(difference, Math.hypot(a[0] + b[0], a[1] + b[1], a[2] + b[2]));
}
