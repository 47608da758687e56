// The chat column: questions and streamed answers about the panorama, with what an answer names drawn on the sphere.

import { Broken, Refused, type Server, type Task, type Turn } from "./chat";
import { language, text } from "./i18n";
import { centreOf, type Shape, shapesInAnswer } from "./shapes";

export class Conversation {
  private server: Server | null = null;
  private picture: Blob | null = null;
  private turns: Turn[] = [];
  private uploaded: Promise<string | null> = Promise.resolve(null);
  private running: AbortController | null = null;
  private readonly form: HTMLFormElement;
  private readonly question: HTMLTextAreaElement;
  private readonly task: HTMLSelectElement;
  private readonly log: HTMLElement;
  private readonly stop: HTMLButtonElement;
  private readonly send: HTMLButtonElement;

  constructor(private readonly section: HTMLElement, private readonly onShapes: (shapes: Shape[]) => void) {
    this.form = section.querySelector("form.ask")!;
    this.question = section.querySelector("textarea")!;
    this.task = section.querySelector("select")!;
    this.log = section.querySelector("[role=log]")!;
    this.stop = section.querySelector("button.stop")!;
    this.send = section.querySelector("button[type=submit].send")!;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.ask(this.question.value.trim());
    });
    this.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    this.stop.addEventListener("click", () => this.running?.abort());
    section.querySelector("button.new")!.addEventListener("click", () => this.restart());
  }

  /** Talk to a server from now on. */
  connect(server: Server): void {
    this.server = server;
    this.section.hidden = false;
    this.form.hidden = server.needsKey;
    this.section.querySelector<HTMLElement>("form.key")!.hidden = !server.needsKey;
    this.upload();
  }

  /** Talk about another panorama from now on. */
  about(picture: Blob): void {
    this.picture = picture;
    this.restart();
    this.upload();
  }

  private restart(): void {
    this.running?.abort();
    this.turns = [];
    this.log.replaceChildren();
    this.onShapes([]);
  }

  private upload(): void {
    if (this.server === null || this.server.needsKey || this.picture === null) return;
    const known = this.server.upload(this.picture);
    this.uploaded = known;
    known.then(
      (id) => {
        this.task.hidden = id === null;
      },
      (error: unknown) => this.fail(error),
    );
  }

  /** Ask a question; its answer appears as it comes. */
  async ask(question: string): Promise<void> {
    if (this.server === null || this.picture === null || this.running !== null || question === "") return;
    const running = new AbortController();
    this.running = running;
    this.busy(true);
    this.message("user", question);
    this.question.value = "";
    const answer = this.message("assistant", "");
    try {
      const task = this.task.hidden ? "ask" : this.task.value;
      if (task === "ask") await this.stream(question, answer, running.signal);
      else await this.find(task as Task, question, answer, running.signal);
    } catch (error) {
      if (running.signal.aborted) answer.append(` (${text("stopped")})`);
      else {
        if (answer.textContent === "") answer.parentElement!.remove();
        if (this.question.value === "") this.question.value = question;
        this.fail(error);
      }
    } finally {
      this.running = null;
      this.busy(false);
    }
  }

  private async stream(question: string, answer: HTMLElement, signal: AbortSignal): Promise<void> {
    const turns: Turn[] = [...this.turns, { role: "user", content: question }];
    let content = "";
    for await (const piece of this.server!.answer(await dataUri(this.picture!), turns, signal)) {
      content += piece;
      answer.textContent = content;
      this.log.scrollTop = this.log.scrollHeight;
    }
    this.turns = [...turns, { role: "assistant", content }];
    if (content === "") answer.textContent = text("empty");
    this.offer(shapesInAnswer(content), answer);
  }

  private async find(task: Task, question: string, answer: HTMLElement, signal: AbortSignal): Promise<void> {
    const shapes = await this.server!.shapes(task, (await this.uploaded)!, question, language(), signal);
    answer.textContent = shapes.map(inWords).join("; ") || text("nothingFound");
    this.offer(shapes, answer);
  }

  /** Draw what an answer names, and let the reader come back to it. */
  private offer(shapes: Shape[], answer: HTMLElement): void {
    if (shapes.length === 0) return;
    this.onShapes(shapes);
    const button = document.createElement("button");
    button.type = "button";
    button.dataset["text"] = "onSphere";
    button.textContent = text("onSphere");
    button.addEventListener("click", () => this.onShapes(shapes));
    answer.after(button);
  }

  private busy(busy: boolean): void {
    this.log.setAttribute("aria-busy", String(busy)); // screen readers wait for the whole answer
    // The focus stays in the form if it was there; a question from elsewhere does not take it.
    const inside = this.form.contains(document.activeElement);
    this.stop.hidden = !busy;
    this.send.hidden = busy;
    if (inside) (busy ? this.stop : this.question).focus();
  }

  private message(role: "user" | "assistant" | "error", content: string): HTMLElement {
    const item = document.createElement("div");
    item.className = `message ${role}`;
    if (role !== "error") {
      const who = document.createElement("span");
      who.className = "who";
      who.dataset["text"] = role === "user" ? "you" : "model";
      who.textContent = text(role === "user" ? "you" : "model");
      item.append(who);
    }
    const body = document.createElement("p");
    body.textContent = content;
    item.append(body);
    this.log.append(item);
    this.log.scrollTop = this.log.scrollHeight;
    return body;
  }

  private fail(error: unknown): void {
    if (error instanceof Refused) this.message("error", text("refused", { message: error.message }));
    else if (error instanceof Broken) this.message("error", text("broken"));
    else if (error instanceof TypeError) this.message("error", text("unreachable"));
    else throw error;
  }
}

function inWords(shape: Shape): string {
  const numbers = "polygons" in shape
    ? centreOf(shape)
    : "width_deg" in shape
      ? [shape.yaw_deg, shape.pitch_deg, shape.width_deg, shape.height_deg]
      : [shape.yaw_deg, shape.pitch_deg];
  return `${shape.label} [${numbers.map(Math.round).join(", ")}]`.trim();
}

function dataUri(picture: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(String(reader.result)));
    reader.addEventListener("error", () => reject(new TypeError(String(reader.error))));
    reader.readAsDataURL(picture);
  });
}
