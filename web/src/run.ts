// What `panollava view` put into the page: panoramas, and the questions of a finished run.

import type { Shape } from "./shapes";

export interface Question {
  variant: "model" | "blind" | "shuffled";
  language: string;
  task: string;
  type: string;
  turn: number;
  question: string;
  reference: string;
  answer: string;
  right: boolean | null;
  iou: number | null;
  error_deg: number | null;
  given: Shape[];
  true: Shape[];
}

export interface Panorama {
  id: string;
  picture: string; // a URL of this server, or a data URI
  questions: string | Question[]; // a URL of this server, or the questions themselves
}

export interface Run {
  /** False where surely no model answers, so that nobody looks for one. */
  model?: boolean;
  panoramas?: Panorama[];
  /** The centres (yaw, pitch) of the encoder's views and their field of view, in degrees. */
  views?: { centres: [number, number][]; fov_deg: number };
}

export function readRun(): Run {
  return JSON.parse(document.getElementById("run")!.textContent ?? "{}") as Run;
}

export async function questionsOf({ questions }: Panorama): Promise<Question[]> {
  if (typeof questions !== "string") return questions;
  const reply = await fetch(questions);
  if (!reply.ok) throw new TypeError(`${questions}: ${reply.status}`);
  return (await reply.json()) as Question[];
}
