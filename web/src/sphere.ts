// The sphere: Photo Sphere Viewer with outlines on it, turned by mouse, touch and keys.

import "@photo-sphere-viewer/core/index.css";
import "@photo-sphere-viewer/markers-plugin/index.css";
import { EquirectangularAdapter, Viewer } from "@photo-sphere-viewer/core";
import { type MarkerConfig, MarkersPlugin } from "@photo-sphere-viewer/markers-plugin";
import { dense, type Direction, wrapped } from "./geometry";
import type { Outline, Source } from "./shapes";

const COLOURS: Record<Source, string> = { given: "#ffa41b", true: "#35d5e6", asked: "#ff5d8f", view: "#ffffff" };
const STEP_DEG = 5;
// Great circles are straight here. Long sides have points between, for a side may be seen whose ends are behind.
const LONG_SIDE_DEG = 30;
const ZOOM_STEP = 8;
const radians = (degrees: number): number => (degrees * Math.PI) / 180;
const degrees = (angle: number): number => (angle * 180) / Math.PI;

export interface Looks {
  moved: (direction: Direction, fovDeg: number) => void;
  chosen: (direction: Direction) => void;
}

export class Sphere {
  private viewer: Viewer | null = null;
  private outlines: readonly Outline[] = [];
  private texts = { loading: "", zoomIn: "", zoomOut: "", fullscreen: "" };

  constructor(private readonly container: HTMLElement, private readonly looks: Looks) {
    container.addEventListener("keydown", (event) => this.key(event));
  }

  /** Whether this browser can draw the sphere at all. */
  static readonly possible = document.createElement("canvas").getContext("webgl2") !== null;

  /** Show a panorama; the promise is kept once it is drawn, and broken if it cannot be. */
  async show(url: string): Promise<void> {
    if (this.viewer === null) {
      this.viewer = this.create();
      this.name(this.texts);
    }
    const shown = await this.viewer.setPanorama(url, { transition: false, showLoader: false });
    if (shown === false) return; // another one was asked for meanwhile
    this.look([0, 0]);
    this.draw(this.outlines);
    this.report();
  }

  look([yawDeg, pitchDeg]: Direction): void {
    this.viewer?.rotate({ yaw: radians(yawDeg), pitch: radians(pitchDeg) });
  }

  draw(outlines: readonly Outline[]): void {
    this.outlines = outlines;
    if (this.viewer === null || this.viewer.state.textureData === null) return;
    const markers = this.viewer.getPlugin<MarkersPlugin>(MarkersPlugin);
    markers.setMarkers(outlines.flatMap((outline, index) => markersOf(outline, index)));
  }

  /** Name the buttons in the reader's language. */
  name(texts: { loading: string; zoomIn: string; zoomOut: string; fullscreen: string }): void {
    this.texts = texts;
    this.viewer?.setOption("lang", texts);
  }

  private create(): Viewer {
    const viewer = new Viewer({
      container: this.container,
      // The shader casts a ray for each pixel: exact at the poles too, where triangles bend the picture.
      adapter: EquirectangularAdapter.withConfig({ shader: true, useXmpData: false }),
      plugins: [MarkersPlugin],
      navbar: ["zoom", "fullscreen"],
      keyboard: false,
      mousewheelCtrlKey: false,
      minFov: 20,
      maxFov: 100,
      defaultZoomLvl: 25,
      canvasBackground: "#101418",
    });
    for (const event of ["position-updated", "zoom-updated", "size-updated"] as const) {
      viewer.addEventListener(event, () => this.report());
    }
    viewer.addEventListener("click", ({ data }) => this.looks.chosen([wrapped(degrees(data.yaw)), degrees(data.pitch)]));
    return viewer;
  }

  private report(): void {
    if (this.viewer === null) return;
    const { yaw, pitch } = this.viewer.getPosition();
    const direction: Direction = [wrapped(degrees(yaw)), degrees(pitch)];
    this.container.dataset["yawDeg"] = direction[0].toFixed(4);
    this.container.dataset["pitchDeg"] = direction[1].toFixed(4);
    this.container.dataset["fovDeg"] = this.viewer.state.vFov.toFixed(4);
    this.looks.moved(direction, this.viewer.state.vFov);
  }

  private key(event: KeyboardEvent): void {
    if (this.viewer === null || event.ctrlKey || event.metaKey || event.altKey || event.target !== this.container) return;
    const { yaw, pitch } = this.viewer.getPosition();
    const here: Direction = [degrees(yaw), degrees(pitch)];
    const step = (event.shiftKey ? 3 : 1) * STEP_DEG;
    const zoom = this.viewer.getZoomLevel();
    const actions: Record<string, () => void> = {
      ArrowLeft: () => this.look([here[0] - step, here[1]]),
      ArrowRight: () => this.look([here[0] + step, here[1]]),
      ArrowUp: () => this.look([here[0], Math.min(90, here[1] + step)]),
      ArrowDown: () => this.look([here[0], Math.max(-90, here[1] - step)]),
      Home: () => this.look([0, 0]),
      "+": () => this.viewer?.zoom(zoom + ZOOM_STEP),
      "=": () => this.viewer?.zoom(zoom + ZOOM_STEP),
      "-": () => this.viewer?.zoom(zoom - ZOOM_STEP),
      Enter: () => this.looks.chosen([wrapped(here[0]), here[1]]),
    };
    const action = actions[event.key];
    if (action === undefined) return;
    event.preventDefault();
    action();
  }
}

function markersOf(outline: Outline, index: number): MarkerConfig[] {
  const dashed = outline.source === "true" ? "7 4" : outline.source === "view" ? "2 6" : "none";
  const pieces = outline.pieces.map(
    (rings, piece): MarkerConfig => ({
      id: `outline-${index}-${piece}`,
      polygon: rings.map((ring) => dense(ring, LONG_SIDE_DEG).map(([yaw, pitch]): [number, number] => [radians(yaw), radians(pitch)])),
      svgStyle: {
        fill: outline.source === "view" ? "none" : COLOURS[outline.source],
        fillOpacity: outline.filled ? "0.35" : "0.08",
        fillRule: "evenodd",
        stroke: COLOURS[outline.source],
        strokeWidth: "2.5",
        strokeDasharray: dashed,
      },
      className: `outline ${outline.source}`,
      data: outline.label,
    }),
  );
  if (outline.label === "" && !outline.point) return pieces;
  const element = document.createElement("span");
  element.className = `name ${outline.source}${outline.point ? " point" : ""}`;
  element.textContent = outline.label;
  const name: MarkerConfig = {
    id: `name-${index}`,
    element,
    position: { yaw: radians(outline.anchor[0]), pitch: radians(outline.anchor[1]) },
    anchor: outline.point ? "center center" : outline.below ? "top center" : "bottom center",
    zIndex: 10,
  };
  return [...pieces, name];
}
