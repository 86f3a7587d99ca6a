// The server: which models it has, a photo's classes, and where they are seen.

const MOST_TRIES = 6;
const LONGEST_WAIT_S = 10;
let key = "";

export function useKey(given) {
  key = given;
}

// What went wrong, by the name of its text; `detail` is the server's own sentence.
export class Failure extends Error {
  constructor(name, detail = "", status = 0) {
    super(name);
    [this.detail, this.status] = [detail, status];
  }
}

export async function models(signal) {
  return (await (await ask("GET", "/v1/models", null, signal)).json()).models;
}

export async function classes(model, body, signal, waiting) {
  return (await patient("POST", `/predictions/${encodeURIComponent(model)}`, body, signal, waiting)).json();
}

export async function explain(model, version, body, signal, waiting) {
  const path = `/explanations/${encodeURIComponent(model)}/${encodeURIComponent(version)}`;
  return (await patient("POST", path, body, signal, waiting)).json();
}

// As `ask`; while the server is busy it is asked again, after as long as it says. `waiting` is told of each wait.
async function patient(method, path, body, signal, waiting) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await ask(method, path, body, signal);
    } catch (failure) {
      if (!(failure.retryAfter > 0) || tries === MOST_TRIES) throw failure;
      const seconds = Math.min(LONGEST_WAIT_S, failure.retryAfter);
      waiting(failure, seconds);
      await pause(seconds, signal);
    }
  }
}

async function ask(method, path, body, signal) {
  const headers = { accept: "application/json" };
  if (key) headers["x-api-key"] = key;
  if (body) headers["content-type"] = body.type || "application/octet-stream";
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(navigator.onLine ? "unreachable" : "offline");
  }
  if (response.ok) return response;
  const failure = new Failure("status", await sentence(response), response.status);
  failure.retryAfter = Number(response.headers.get("retry-after"));
  throw failure;
}

// A load balancer's error is no JSON.
async function sentence(response) {
  try {
    const error = await response.json();
    return `${error.message} (${error.request_id})`;
  } catch {
    return "";
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
