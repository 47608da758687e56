// What is drawn on a panorama: boxes, masks and directions, given by the model or true; and their spelling in answers.

import { type Box, boxCorners, type Direction } from "./geometry";

export interface BoxShape extends Box {
  label: string;
  outline?: Direction[];
}

export interface MaskShape {
  label: string;
  polygons: Direction[][][]; // of each piece: its rings; what lies inside an odd number of them is masked
}

export interface PointShape {
  label: string;
  yaw_deg: number;
  pitch_deg: number;
}

export type Shape = BoxShape | MaskShape | PointShape;

/** Who says so: the model, or the data. */
export type Source = "given" | "true" | "asked" | "view";

export interface Drawn {
  shape: Shape;
  source: Source;
}

/** One outline to draw: its pieces with their rings, sides on great circles, and the place of its name. */
export interface Outline {
  label: string;
  source: Source;
  pieces: Direction[][][];
  anchor: Direction;
  point: boolean;
  filled: boolean;
  /** Whether the name stands below its anchor: true names stand below, given ones above, and hide each other less. */
  below: boolean;
}

export function outlineOf({ shape, source }: Drawn): Outline {
  const below = source === "true";
  const common = { label: shape.label, source, below, filled: "polygons" in shape };
  if ("polygons" in shape) {
    return { ...common, pieces: shape.polygons, anchor: extreme(shape.polygons.flat(2), below), point: false };
  }
  if (!("width_deg" in shape)) {
    return { ...common, pieces: [], anchor: [shape.yaw_deg, shape.pitch_deg], point: true };
  }
  return { ...common, pieces: [[shape.outline ?? boxCorners(shape)]], anchor: middleOfSide(shape, below), point: false };
}

/** Where to look to see a shape. */
export function centreOf(shape: Shape): Direction {
  return "polygons" in shape ? outlineOf({ shape, source: "given" }).anchor : [shape.yaw_deg, shape.pitch_deg];
}

/** The middle of the upper or lower side of a box, which may lie beyond a pole. */
function middleOfSide(box: Box, lower: boolean): Direction {
  const pitch = box.pitch_deg + (lower ? -0.5 : 0.5) * Math.min(box.height_deg, 179);
  return Math.abs(pitch) <= 90 ? [box.yaw_deg, pitch] : [box.yaw_deg + 180, Math.sign(pitch) * 180 - pitch];
}

/** The highest or lowest of some directions. */
function extreme(ring: readonly Direction[], lowest: boolean): Direction {
  const first = ring[0] ?? [0, 0];
  return ring.reduce((best, point) => (lowest ? point[1] < best[1] : point[1] > best[1]) ? point : best, first);
}

const NUMBER = String.raw`\s*([+-]?\d+(?:\.\d+)?)\s*°?\s*`;
const BOX = new RegExp(String.raw`([^;\[\]\n]*)\[${NUMBER},${NUMBER},${NUMBER},${NUMBER}\]`, "g");
const DIRECTION = new RegExp(`^${NUMBER},${NUMBER}$`);

/** The boxes or the direction that an answer spells, `red cube [35, -12, 20, 15]; …` or `35, -12`. */
export function shapesInAnswer(text: string): Shape[] {
  const plain = text.replaceAll(/[−–]/g, "-");
  const direction = DIRECTION.exec(plain.trim());
  if (direction !== null) {
    const [yaw_deg, pitch_deg] = direction.slice(1).map(Number) as [number, number];
    return Math.abs(pitch_deg) <= 90 ? [{ label: "", yaw_deg, pitch_deg }] : [];
  }
  return [...plain.matchAll(BOX)].flatMap((found) => {
    const [yaw_deg, pitch_deg, width_deg, height_deg] = found.slice(2).map(Number) as [number, number, number, number];
    const possible = Math.abs(pitch_deg) <= 90 && width_deg > 0 && height_deg > 0 && Math.max(width_deg, height_deg) < 180;
    return possible ? [{ label: (found[1] ?? "").trim(), yaw_deg, pitch_deg, width_deg, height_deg }] : [];
  });
}
