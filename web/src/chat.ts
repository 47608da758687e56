// Talk to the server that this page came from: OpenAI's chat completions, and the sphere's own endpoints.

import type { BoxShape, MaskShape, PointShape, Shape } from "./shapes";

export interface Turn {
  role: "user" | "assistant";
  content: string;
}

export type Task = "detect" | "segment" | "point";

/** The server said no; the message is its own. */
export class Refused extends Error {}

/** The answer ended before its end mark. */
export class Broken extends Error {}

interface Found {
  boxes?: BoxShape[];
  masks?: MaskShape[];
  points?: PointShape[];
}

// The key of the endpoint that each task asks, and of its text.
const TEXTS: Record<Task, string> = { detect: "description", segment: "question", point: "question" };

export class Server {
  private key = "";

  private constructor(readonly models: readonly string[], readonly needsKey: boolean) {}

  /** Ask once whether a model is served here; null if none is. */
  static async find(key = ""): Promise<Server | null> {
    if (!location.protocol.startsWith("http")) return null;
    try {
      const reply = await fetch("v1/models", { headers: headers(key) });
      if (reply.status === 401) return new Server([], true);
      if (!reply.ok) return null;
      const { data } = (await reply.json()) as { data: { id: string }[] };
      const server = new Server(data.map(({ id }) => id), false);
      server.key = key;
      return data.length > 0 ? server : null;
    } catch {
      return null; // a page of another server, which is no endpoint of OpenAI's
    }
  }

  /** Upload a panorama; null if the server has no endpoints of the sphere. */
  async upload(picture: Blob): Promise<string | null> {
    const reply = await fetch("v1/panoramas", {
      method: "POST",
      body: picture,
      headers: { ...headers(this.key), "Content-Type": picture.type },
    });
    if (reply.status === 404 || reply.status === 405) return null;
    const { id } = (await checked(reply).then((good) => good.json())) as { id: string };
    return id;
  }

  /** Stream the answer to the last of the turns, piece by piece. */
  async *answer(panorama: string, turns: readonly Turn[], signal: AbortSignal): AsyncGenerator<string> {
    const messages = turns.map(({ role, content }, index) =>
      index > 0
        ? { role, content }
        : { role, content: [{ type: "image_url", image_url: { url: panorama } }, { type: "text", text: content }] },
    );
    const body = JSON.stringify({ model: this.models[0], messages, stream: true });
    const reply = await checked(await this.post("v1/chat/completions", body, signal));
    let ended = false;
    for await (const data of events(reply)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      const chunk = JSON.parse(data) as {
        choices?: { delta?: { content?: string | null } }[];
        error?: { message?: string };
      };
      if (chunk.error !== undefined) throw new Refused(chunk.error.message ?? data);
      const piece = chunk.choices?.[0]?.delta?.content;
      if (piece) yield piece;
    }
    if (!ended) throw new Broken();
  }

  /** Ask one of the sphere’s endpoints about an uploaded panorama. */
  async shapes(task: Task, panorama: string, asked: string, language: string, signal: AbortSignal): Promise<Shape[]> {
    const body = JSON.stringify({ panorama, [TEXTS[task]]: asked, language });
    const reply = await checked(await this.post(`v1/${task}`, body, signal));
    const { boxes = [], masks = [], points = [] } = (await reply.json()) as Found;
    return [...boxes, ...masks, ...points];
  }

  private post(path: string, body: string, signal: AbortSignal): Promise<Response> {
    const type = { "Content-Type": "application/json" };
    return fetch(path, { method: "POST", body, signal, headers: { ...headers(this.key), ...type } });
  }
}

/** The data of server-sent events. */
async function* events(reply: Response): AsyncGenerator<string> {
  const reader = reply.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value ?? "")).split(/\r?\n/);
    rest = done ? "" : (lines.pop() ?? "");
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
    }
    if (done) return;
  }
}

async function checked(reply: Response): Promise<Response> {
  if (reply.ok) return reply;
  const body = await reply.text();
  let message = `${reply.status} ${reply.statusText}`;
  try {
    message = (JSON.parse(body) as { error: { message: string } }).error.message;
  } catch {
    // No error in OpenAI's form: the status says it.
  }
  throw new Refused(message);
}

function headers(key: string): Record<string, string> {
  return key === "" ? {} : { Authorization: `Bearer ${key}` };
}
