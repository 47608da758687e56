// The flat view: the whole panorama as a picture, with the same outlines as on the sphere and the direction of the look.

import { dense, type Direction, unwrapped, wrapped } from "./geometry";
import type { Outline } from "./shapes";

const SVG = "http://www.w3.org/2000/svg";
// Great circles are curves here.
const STEP_DEG = 3;
const TURNS = [-360, 0, 360];

export class FlatView {
  private readonly image: HTMLImageElement;
  private readonly lines: SVGSVGElement;
  private readonly names: HTMLElement;
  private readonly look: HTMLElement;

  constructor(private readonly element: HTMLElement, onChosen: (direction: Direction) => void) {
    this.image = element.querySelector("img")!;
    this.lines = element.querySelector("svg")!;
    this.names = element.querySelector(".names")!;
    this.look = element.querySelector(".look")!;
    element.addEventListener("click", (event) => {
      const area = element.getBoundingClientRect();
      const [x, y] = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
      onChosen([wrapped(360 * x - 180), 90 - 180 * y]);
    });
  }

  show(url: string): void {
    this.image.src = url;
    this.element.hidden = false;
  }

  draw(outlines: readonly Outline[]): void {
    this.lines.replaceChildren(...outlines.flatMap(paths));
    this.names.replaceChildren(...outlines.filter(({ label, point }) => label !== "" || point).map(name));
  }

  turn([yawDeg, pitchDeg]: Direction): void {
    place(this.look, [yawDeg, pitchDeg]);
  }
}

/** A filled shape, and its line; the line of a ring round a pole is open at the ends of the picture. */
function paths(outline: Outline): SVGElement[] {
  return outline.pieces.flatMap((rings) => {
    const unrolled = rings.map((ring) => unwrapped(dense(ring, STEP_DEG)));
    const area = unrolled.map(({ points, turns }) => `M${steps([...points, ...roundPole(points, turns)])}Z`).join("");
    const line = unrolled.map(({ points, turns }) => `M${steps([...points, end(points, turns)])}`).join("");
    return TURNS.flatMap((turn) => [
      path(area, `area ${outline.source}${outline.filled ? " filled" : ""}`, turn),
      path(line, "shadow", turn),
      path(line, `line ${outline.source}`, turn),
    ]);
  });
}

function path(d: string, kind: string, turn: number): SVGElement {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("d", d);
  element.setAttribute("class", kind);
  element.setAttribute("transform", `translate(${turn} 0)`);
  return element;
}

function end(points: readonly Direction[], turns: number): Direction {
  const [yaw, pitch] = points[0] ?? [0, 0];
  return [yaw + 360 * turns, pitch];
}

/** What closes a ring that goes round a pole: along that edge of the picture, and back. */
function roundPole(points: readonly Direction[], turns: number): Direction[] {
  if (turns === 0) return [];
  const pole = points.reduce((sum, [, pitch]) => sum + pitch, 0) > 0 ? 90 : -90;
  const last = end(points, turns);
  return [last, [last[0], pole], [points[0]![0], pole]];
}

function steps(points: readonly Direction[]): string {
  return points.map(([yaw, pitch]) => `${yaw.toFixed(3)} ${(-pitch).toFixed(3)}`).join("L");
}

function name(outline: Outline): HTMLElement {
  const element = document.createElement("span");
  element.className = `name ${outline.source}${outline.point ? " point" : ""}`;
  element.textContent = outline.label;
  place(element, outline.anchor);
  element.style.translate = outline.point ? "-50% -50%" : insidePicture(outline);
  return element;
}

/** How a name is moved from its anchor, so that it stays inside the picture. */
function insidePicture({ anchor, below }: Outline): string {
  const across = (wrapped(anchor[0]) + 180) / 360;
  const down = below ? anchor[1] > -78 : anchor[1] > 78;
  return `${across < 0.1 ? 0 : across > 0.9 ? -100 : -50}% ${down ? 0 : -100}%`;
}

function place(element: HTMLElement, [yawDeg, pitchDeg]: Direction): void {
  element.style.left = `${((wrapped(yawDeg) + 180) / 360) * 100}%`;
  element.style.top = `${((90 - pitchDeg) / 180) * 100}%`;
}
