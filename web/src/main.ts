// The page: a panorama as a sphere and flat, what is drawn on it, and the columns of questions and of talk.

import "./page.css";
import { Server } from "./chat";
import { Compass, inWords, whole } from "./compass";
import { Conversation } from "./conversation";
import { FlatView } from "./flat";
import { type Direction, distance } from "./geometry";
import { language, setLanguage, text, translate } from "./i18n";
import { NoPanorama, opened } from "./picture";
import { Questions } from "./questions";
import { type Panorama, questionsOf, readRun } from "./run";
import { centreOf, type Drawn, outlineOf, type Shape } from "./shapes";
import { Sphere } from "./sphere";

const run = readRun();
// As in the default settings of the model: eight views around the horizon.
const views = run.views ?? {
  centres: Array.from({ length: 8 }, (_, index): Direction => [45 * index - 180, 0]),
  fov_deg: 90,
};

function find<E extends Element = HTMLElement>(selector: string): E {
  return document.querySelector<E>(selector)!;
}

const page = {
  empty: find("#empty"),
  error: find("#error"),
  marked: find("#marked"),
  what: find<HTMLButtonElement>("#what"),
  showViews: find<HTMLInputElement>("#show-views"),
  showNames: find<HTMLInputElement>("#show-names"),
  panoramas: find<HTMLSelectElement>("#panoramas"),
  file: find<HTMLInputElement>("#file"),
};

let answers: Drawn[] = [];
let asked: Direction | null = null;
let direction: Direction = [0, 0];
let view: Direction | null = null;
let url: string | null = null;
let served = false;
let opening = 0;

const compass = new Compass(find<SVGElement>("#dial"), find("#look"));
const sphere = new Sphere(find("#sphere"), { moved: turned, chosen: mark });
const flat = new FlatView(find("#flat"), (chosen) => {
  sphere.look(chosen);
  turned(chosen, 90);
});
const conversation = new Conversation(find("#talk"), (shapes: Shape[]) => {
  show(shapes.map((shape) => ({ shape, source: "given" })));
});
const questions = new Questions(find("#questions"), show);

/** Draw shapes in place of the earlier ones, and look at the first. */
function show(drawn: Drawn[]): void {
  answers = drawn;
  asked = null;
  draw();
  const first = drawn.find(({ source }) => source === "true") ?? drawn[0];
  if (first !== undefined) sphere.look(centreOf(first.shape));
}

function draw(): void {
  const drawn = [...answers];
  if (asked !== null) drawn.push({ shape: { label: "", yaw_deg: asked[0], pitch_deg: asked[1] }, source: "asked" });
  if (view !== null && page.showViews.checked) {
    const [yaw_deg, pitch_deg] = view;
    const size = { width_deg: views.fov_deg, height_deg: views.fov_deg };
    drawn.unshift({ shape: { label: "", yaw_deg, pitch_deg, ...size }, source: "view" });
  }
  const outlines = drawn.map(outlineOf).map((outline) => ({
    ...outline,
    label: page.showNames.checked ? outline.label : "",
  }));
  sphere.draw(outlines);
  flat.draw(outlines);
  for (const source of ["given", "true"]) {
    find(`.key.${source}`).hidden = !answers.some((one) => one.source === source);
  }
  page.marked.textContent = asked === null ? "" : `+ ${inWords(asked)}`;
  page.what.hidden = !served || asked === null;
}

function turned(where: Direction, fovDeg: number): void {
  direction = where;
  compass.turn(where, fovDeg);
  flat.turn(where);
  const nearest = [...views.centres].sort((a, b) => distance(a, where) - distance(b, where))[0] ?? null;
  if (String(nearest) === String(view)) return;
  view = nearest;
  if (page.showViews.checked) draw();
}

function mark(where: Direction): void {
  asked = where;
  draw();
}

async function open(picture: Blob, name: string, about: Panorama | null): Promise<void> {
  page.error.hidden = true;
  opening += 1;
  const mine = opening;
  let next: string;
  try {
    next = await opened(picture, name);
  } catch (error) {
    if (!(error instanceof NoPanorama)) throw error;
    complain(error.message);
    return;
  }
  if (mine !== opening) return; // another one was chosen meanwhile
  if (url !== null) URL.revokeObjectURL(url);
  url = next;
  delete find("#stage").dataset["shown"];
  [answers, asked] = [[], null];
  page.empty.hidden = true;
  find("#stage").hidden = false;
  flat.show(url);
  draw();
  turned([0, 0], 90);
  conversation.about(picture);
  questions.show(about === null ? [] : await questionsOf(about));
  if (Sphere.possible) await sphere.show(url);
  else complain(text("noWebgl"));
  if (mine !== opening) return;
  find("#stage").dataset["shown"] = name; // the page is complete
}

function complain(message: string): void {
  page.error.textContent = message;
  page.error.hidden = false;
}

/** Show a panorama of the run. */
async function openFromRun(panorama: Panorama): Promise<void> {
  try {
    const reply = await fetch(panorama.picture);
    if (reply.ok) await open(await reply.blob(), panorama.id, panorama);
    else complain(`${panorama.id}: ${await reply.text()}`);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    complain(text("unreachable"));
  }
}

async function connect(key = ""): Promise<void> {
  if (run.model === false) return;
  const server = await Server.find(key);
  if (server === null) return;
  served = !server.needsKey;
  conversation.connect(server);
}

function named(): void {
  translate();
  sphere.name({
    loading: text("loading"), zoomIn: text("zoomIn"), zoomOut: text("zoomOut"), fullscreen: text("fullscreen"),
  });
  compass.translate();
  questions.translate();
  draw();
}

function start(): void {
  const panoramas = run.panoramas ?? [];
  page.panoramas.replaceChildren(...panoramas.map(({ id }) => new Option(id)));
  find("#of-run").hidden = panoramas.length < 2;
  page.panoramas.addEventListener("change", () => void openFromRun(panoramas[page.panoramas.selectedIndex]!));
  page.file.addEventListener("change", () => {
    const file = page.file.files?.[0];
    if (file !== undefined) void open(file, file.name, null);
    page.file.value = "";
  });
  for (const button of document.querySelectorAll(".choose")) button.addEventListener("click", () => page.file.click());
  find("#language").addEventListener("click", () => {
    setLanguage(language() === "en" ? "ko" : "en");
    named();
  });
  for (const box of [page.showViews, page.showNames]) box.addEventListener("change", draw);
  page.what.addEventListener("click", () => {
    const [yaw, pitch] = asked ?? direction;
    void conversation.ask(text("whatQuestion", { yaw: whole(yaw), pitch: whole(pitch) }));
  });
  find("form.key").addEventListener("submit", (event) => {
    event.preventDefault();
    void connect(find<HTMLInputElement>("#key").value);
  });
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
    });
  }
  document.addEventListener("drop", (event) => {
    const file = event.dataTransfer?.files[0];
    if (file !== undefined) void open(file, file.name, null);
  });
  named();
  void connect();
  // A link names a panorama of the run behind its #.
  const wanted = decodeURIComponent(location.hash.slice(1));
  const first = panoramas.find(({ id }) => id === wanted) ?? panoramas[0];
  if (first === undefined) return;
  page.panoramas.selectedIndex = panoramas.indexOf(first);
  void openFromRun(first);
}

start();
