// The compass: where the look goes, in degrees, on a dial and in words.

import { type Direction, wrapped } from "./geometry";
import { text, type Word } from "./i18n";

const SIDES: Word[] = ["front", "right", "back", "left"];

export class Compass {
  private direction: Direction = [0, 0];

  constructor(private readonly dial: SVGElement, private readonly words: HTMLElement) {}

  turn(direction: Direction, fovDeg: number): void {
    this.direction = direction;
    this.dial.querySelector(".cone")!.setAttribute("d", cone(fovDeg));
    this.dial.querySelector(".needle")!.setAttribute("transform", `rotate(${direction[0].toFixed(1)})`);
    this.words.textContent = inWords(direction);
  }

  translate(): void {
    this.words.textContent = inWords(this.direction);
  }
}

export function inWords([yawDeg, pitchDeg]: Direction): string {
  const side = SIDES[Math.round(((wrapped(yawDeg) + 360) % 360) / 90) % 4]!;
  return `${text(side)} · ${text("yaw")} ${whole(yawDeg)}°, ${text("pitch")} ${whole(pitchDeg)}°`;
}

/** A whole number of degrees, without a negative zero. */
export function whole(value: number): number {
  return Math.round(value) + 0;
}

function cone(fovDeg: number): string {
  const half = (Math.min(fovDeg, 170) * Math.PI) / 360;
  const [x, y] = [20 * Math.sin(half), -20 * Math.cos(half)];
  return `M0 0L${(-x).toFixed(2)} ${y.toFixed(2)}A20 20 0 0 1 ${x.toFixed(2)} ${y.toFixed(2)}Z`;
}
