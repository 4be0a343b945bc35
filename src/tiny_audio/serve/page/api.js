// Requests to the server, and the events of its answers.

const KEY = "tiny-audio-key";

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

export async function modelName() {
  const response = await fetch("/health");
  return (await response.json()).model;
}

// Send a recording; yield {type, ...} for each finished piece, and for the whole.
export async function* transcribe(blob, name, signal) {
  const form = new FormData();
  form.append("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "word");
  form.append("stream", "true");
  form.append("file", blob, name);
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch("/v1/audio/transcriptions", { method: "POST", body: form, headers, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Refused("The server cannot be reached.", 0);
  }
  if (!response.ok) throw new Refused(await messageOf(response), response.status);
  for await (const event of events(response.body)) {
    if (event.error) throw new Refused(event.error.message, response.status);
    yield event;
  }
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let ended = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const event = JSON.parse(part.slice("data: ".length));
      ended = Boolean(event.error) || event.type === "transcript.text.done";
      yield event;
    }
  }
  if (!ended) throw new Refused("The connection broke off.", 0);
}
