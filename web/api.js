// The server: which models it has, a photo's classes, where they are seen, and what people say that it shows.

const MOST_TRIES = 6;
const LONGEST_WAIT_S = 10;
let key = "";

// Whether it can be one: what a header may hold.
export function useKey(given) {
  const isOne = /^[\x21-\x7e]+$/.test(given);
  if (isOne) key = given;
  return isOne;
}

export function hasKey() {
  return key !== "";
}

// What went wrong, by the name of its text; `detail` is the server's own sentence.
export class Failure extends Error {
  constructor(name, detail = "", status = 0) {
    super(name);
    [this.detail, this.status] = [detail, status];
  }
}

// {models, texts}: their names, and of which a text may stand beside the photo.
export async function models(signal, waiting) {
  const { models, texts = [] } = (await patient("GET", "/v1/models", null, signal, waiting)).content;
  return { models, texts };
}

// A photo, or a form of it with what was written beside it.
export function asked(photo, words) {
  if (!words) return photo;
  const form = new FormData();
  form.append("image", photo);
  form.append("text", words);
  return form;
}

// {content, ms, headers}: the answer, and how long the server took for it
export function classes(model, body, signal, waiting) {
  return patient("POST", `/predictions/${encodeURIComponent(model)}`, body, signal, waiting);
}

export async function explain(model, version, body, signal, waiting) {
  const path = `/explanations/${encodeURIComponent(model)}/${encodeURIComponent(version)}`;
  return (await patient("POST", path, body, signal, waiting)).content;
}

// The classes of a version, by their names.
export async function labels(model, version) {
  const path = `/v2/models/${encodeURIComponent(model)}/versions/${encodeURIComponent(version)}`;
  return (await ask("GET", path, null, new AbortController().signal)).content.parameters.labels;
}

// `label` null: none of the classes. It goes out even if the page is closed.
export function feedback(id, label, signal, waiting) {
  const body = new Blob([JSON.stringify({ id, label })], { type: "application/json" });
  return patient("POST", "/feedback", body, signal, waiting);
}

// As `ask`; a server that is busy is asked again, after as long as it says. `waiting` is told of each wait.
async function patient(method, path, body, signal, waiting) {
  for (let tries = 1; ; tries += 1) {
    try {
      const started = performance.now();
      const { content, headers } = await ask(method, path, body, signal);
      return { content, headers, ms: Math.round(performance.now() - started) };
    } catch (failure) {
      const wait = failure.retryAfter;
      if (!(wait > 0 && wait <= LONGEST_WAIT_S) || tries === MOST_TRIES) throw failure;
      waiting(failure, wait);
      await pause(wait, signal);
    }
  }
}

async function ask(method, path, body, signal) {
  const headers = { accept: "application/json" };
  if (key) headers["x-api-key"] = key;
  const isPhoto = !body || body.type !== "application/json";
  if (body instanceof Blob) headers["content-type"] = !isPhoto || body.type.startsWith("image/") ? body.type : "application/octet-stream";
  try {
    const response = await fetch(path, { method, headers, body, signal, keepalive: !isPhoto });
    if (response.ok) return { content: await response.json(), headers: response.headers };
    const failure = new Failure("status", await sentence(response), response.status);
    failure.retryAfter = retryAfter(response);
    throw failure;
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof Failure) throw error;
    throw new Failure(navigator.onLine ? "unreachable" : "offline"); // or what answers is no server of ours
  }
}

// Seconds; a load balancer whose targets are all busy or starting does not say.
function retryAfter(response) {
  const given = response.headers.get("retry-after");
  if (given === null) return [502, 503, 504].includes(response.status) ? 2 : 0;
  return Number.isNaN(Number(given)) ? Math.ceil((Date.parse(given) - Date.now()) / 1000) : Number(given);
}

// What an error says, if it is the server's own and not a load balancer's page.
async function sentence(response) {
  try {
    const { message, request_id: id } = await response.json();
    return [message, id && `(${id})`].filter((part) => typeof part === "string").join(" ");
  } catch {
    return "";
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
