// The questions of a finished run: chosen by kind and by who answered, with given and true answers beside each other.

import { language, text, type Word } from "./i18n";
import type { Question } from "./run";
import type { Drawn } from "./shapes";

const VARIANTS: Record<Question["variant"], Word> = {
  model: "variantModel",
  blind: "variantBlind",
  shuffled: "variantShuffled",
};

export class Questions {
  private all: Question[] = [];
  private readonly list: HTMLElement;
  private readonly count: HTMLElement;
  private readonly who: HTMLSelectElement;
  private readonly kind: HTMLSelectElement;
  private readonly wrong: HTMLInputElement;

  constructor(private readonly section: HTMLElement, private readonly onChosen: (drawn: Drawn[]) => void) {
    this.list = section.querySelector("ol")!;
    this.count = section.querySelector(".count")!;
    this.who = section.querySelector<HTMLSelectElement>("[name=who]")!;
    this.kind = section.querySelector<HTMLSelectElement>("[name=kind]")!;
    this.wrong = section.querySelector<HTMLInputElement>("[name=wrong]")!;
    for (const field of [this.who, this.kind, this.wrong]) field.addEventListener("change", () => this.fill());
  }

  show(questions: Question[]): void {
    this.all = questions;
    this.section.hidden = questions.length === 0;
    this.translate();
  }

  /** Write everything anew, in the reader's language; a run with questions in it shows those first. */
  translate(): void {
    const languages = new Set(this.all.map((question) => question.language));
    const own = languages.has(language()) ? language() : [...languages][0];
    const asked = this.all.filter((question) => question.language === own);
    options(this.who, [...new Set(asked.map(({ variant }) => variant))].map((name) => [name, text(VARIANTS[name])]));
    const kinds = [...new Set(asked.map(({ type }) => type))].sort();
    options(this.kind, [["", text("all")], ...kinds.map((kind): [string, string] => [kind, kind.replaceAll("_", " ")])]);
    this.fill();
  }

  private fill(): void {
    const languages = new Set(this.all.map((question) => question.language));
    const own = languages.has(language()) ? language() : [...languages][0];
    const answered = this.all.filter((one) => one.variant === this.who.value && one.language === own);
    const shown = answered.filter(
      (one) => ["", one.type].includes(this.kind.value) && (!this.wrong.checked || one.right === false),
    );
    this.list.replaceChildren(...shown.map((question) => this.item(question)));
    const [right, wrong] = [true, false].map((mark) => shown.filter((one) => one.right === mark).length);
    const numbers = { shown: shown.length, all: answered.length, right: right!, wrong: wrong! };
    this.count.textContent = shown.length > 0 ? text("count", numbers) : text("none");
  }

  private item(question: Question): HTMLElement {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "question";
    button.setAttribute("aria-pressed", "false");
    button.append(mark(question), row("asked", "", question.question, question.language));
    button.append(row("given", text("answered"), question.answer || text("empty"), question.language));
    if (question.right !== true) button.append(row("true", text("truth"), question.reference, question.language));
    button.addEventListener("click", () => {
      const again = button.getAttribute("aria-pressed") === "true";
      for (const other of this.list.querySelectorAll("[aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(!again));
      this.onChosen(again ? [] : drawn(question));
    });
    item.append(button);
    return item;
  }
}

function drawn(question: Question): Drawn[] {
  return [
    ...question.true.map((shape): Drawn => ({ shape, source: "true" })),
    ...question.given.map((shape): Drawn => ({ shape, source: "given" })),
  ];
}

/** Right or wrong, as a sign and as a word; how near, where that is measured. */
function mark(question: Question): HTMLElement {
  const element = document.createElement("span");
  const near = [
    question.iou === null ? "" : text("overlap", { value: question.iou.toFixed(2) }),
    question.error_deg === null ? "" : text("away", { value: question.error_deg.toFixed(1) }),
  ].filter(Boolean);
  const verdict = question.right === null ? [] : [question.right ? `✓ ${text("correct")}` : `✗ ${text("wrong")}`];
  element.className = `mark ${question.right === null ? "" : question.right ? "correct" : "wrong"}`;
  element.textContent = [question.type.replaceAll("_", " "), ...verdict, ...near].join(" · ");
  return element;
}

function row(kind: string, title: string, content: string, lang: string): HTMLElement {
  const element = document.createElement("span");
  element.className = `row ${kind}`;
  const value = document.createElement("span");
  value.lang = lang;
  value.textContent = content;
  if (title !== "") {
    const name = document.createElement("span");
    name.className = "title";
    name.textContent = `${title}: `;
    element.append(name);
  }
  element.append(value);
  return element;
}

function options(field: HTMLSelectElement, entries: [string, string][]): void {
  const before = field.value;
  field.replaceChildren(...entries.map(([value, content]) => new Option(content, value)));
  if (entries.some(([value]) => value === before)) field.value = before;
}
