// The page: a photo in, its classes out. Text alone is put into it, never HTML; it stores nothing.

import { Failure, asked as askedOf, classes, explain, hasKey, models, useKey } from "./api.js";
import { offer, useHelpers } from "./feedback.js";
import { heated, hottest, prepare } from "./photo.js";
import { language, number, percent, text, texts } from "./texts.js";

const MOST_REMEMBERED = 10;
const LARGEST_BYTES = 20 * 1024 * 1024;
const LONGEST_TITLE = 500; // characters; not the field's maxlength, which would cut what is pasted, and say nothing
const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const select = page.models.querySelector("select");
const keyInput = page.key.querySelector("input");
const titleInput = page.title.querySelector("input");
const remembered = []; // the newest first: {file, photo, body, answer, ms, id, keptS, heat, button}; keptS: seconds, 0 if it was not kept, Infinity if nothing says for how long
let shown = null;
let abort = new AbortController();
let asked = null; // the last photo's file: another model may be asked about it
let reading = []; // the models that read a text beside the photo
let again = null; // what was asked last, for once a key is given

document.documentElement.lang = language;
for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", text(element.dataset.label));
page.camera.hidden = !matchMedia("(pointer: coarse)").matches;

function show(element, visible) {
  element.hidden = !visible;
}

function say(sentence, { detail = "", unsure = false } = {}) {
  page.status.textContent = sentence;
  page.status.classList.toggle("unsure", unsure);
  show(page.details, Boolean(detail));
  page.details.querySelector("p").textContent = detail;
}

function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Failure)) throw error;
  say(words(error), { detail: error.detail });
  if (error.status === 401) {
    show(page.key, true);
    keyInput.focus();
  }
}

function words(failure) {
  if (!failure.status) return text(failure.message, { most: number(LONGEST_TITLE) });
  if (failure.status === 401 && hasKey()) return text("invalid");
  return failure.status in texts[language] ? text(failure.status) : text("other", { status: failure.status });
}

useHelpers({
  name,
  words,
  askKey(retry) {
    const entry = shown;
    again = () => {
      present(entry);
      return retry();
    };
    show(page.key, true);
    keyInput.focus();
  },
});

function waiting(failure, seconds) {
  say(text("waiting", { why: words(failure), seconds }));
}

// What is under way ends: something else is asked.
function next() {
  abort.abort();
  abort = new AbortController();
  return abort.signal;
}

async function knowModels(signal) {
  if (select.value) return;
  const { models: names, texts } = await models(signal, waiting);
  if (!names.length) throw new Failure("starting");
  select.replaceChildren(...names.map((model) => new Option(name(model), model)));
  show(page.models, names.length > 1);
  reading = texts;
  show(page.title, reading.includes(select.value));
}

async function take(file) {
  asked = file;
  again = () => take(file);
  const signal = next();
  // what has the focus may go
  if (page.result.contains(document.activeElement) || page.history.contains(document.activeElement)) page.status.focus();
  clear();
  say(text("sending"));
  try {
    await check(file);
    const photo = await prepare(file);
    signal.throwIfAborted();
    draw(photo.canvas);
    if (photo.body.size > LARGEST_BYTES) throw new Failure("status", "", 413);
    await knowModels(signal);
    const words = reading.includes(select.value) ? titleInput.value.trim() : "";
    if ([...words].length > LONGEST_TITLE) throw new Failure("titleLong");
    const body = askedOf(photo.body, words);
    const { content, ms, headers } = await classes(select.value, body, signal, waiting);
    const keptS = headers.get("seefood-captured") === "1" ? Number(headers.get("seefood-captured-s") ?? Infinity) : 0;
    remember({ file, photo, body, answer: content, ms, id: headers.get("x-request-id"), keptS, heat: null, button: null });
  } catch (error) {
    fail(error);
  }
}

function clear() {
  shown = null;
  offer(null);
  show(page.heat, false);
  show(page.result, false);
  page.answers.replaceChildren();
  page.made.textContent = "";
}

// A folder that was dropped, or a file that has gone since, looks like any other until it is read.
async function check(file) {
  if (!file) throw new Failure("unread");
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Failure("unread");
  }
  if (!file.size) throw new Failure("empty");
}

function draw(canvas) {
  show(page.result, true);
  show(page.preview, Boolean(canvas));
  if (!canvas) return;
  [page.preview.width, page.preview.height] = [canvas.width, canvas.height];
  page.preview.getContext("2d").drawImage(canvas, 0, 0);
}

function name(label) {
  return label.replaceAll("_", " ");
}

function present(entry) {
  shown = entry;
  const { answer, photo, ms } = entry;
  const [first] = answer.predictions;
  draw(photo.canvas);
  const found = text("found", { label: name(first.label), percent: percent(first.probability) });
  say(answer.sure ? found : text("unsure"), { unsure: !answer.sure });
  page.answers.replaceChildren(...answer.predictions.map(bar));
  page.made.textContent = text("made", { model: answer.model, version: answer.version, ms: number(ms) });
  show(page.heat, Boolean(photo.canvas));
  page.heat.setAttribute("aria-pressed", "false");
  offer(entry);
  for (const { button } of remembered) button.setAttribute("aria-current", String(button === entry.button));
}

function bar({ label, probability }) {
  const item = document.createElement("li");
  const words = document.createElement("span");
  const share = document.createElement("span");
  const length = document.createElement("span");
  words.textContent = name(label);
  share.textContent = percent(probability);
  length.className = "bar";
  length.style.inlineSize = `${100 * probability}%`;
  item.append(words, share, length);
  return item;
}

function remember(entry) {
  entry.button = thumbnail(entry);
  remembered.unshift(entry);
  remembered.length = Math.min(remembered.length, MOST_REMEMBERED);
  present(entry);
  show(page.history, remembered.length > 1);
  page.history.querySelector("ul").replaceChildren(...remembered.map(({ button }) => {
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

function thumbnail(entry) {
  const button = document.createElement("button");
  const small = document.createElement("canvas");
  const side = 96;
  [small.width, small.height] = [side, side];
  if (entry.photo.canvas) {
    const { width, height } = entry.photo.canvas;
    const short = Math.min(width, height);
    const context = small.getContext("2d");
    context.drawImage(entry.photo.canvas, (width - short) / 2, (height - short) / 2, short, short, 0, 0, side, side);
  }
  small.setAttribute("aria-hidden", "true");
  button.type = "button";
  button.append(small, name(entry.answer.predictions[0].label));
  button.addEventListener("click", () => {
    next();
    [asked, again] = [entry.file, null];
    present(entry);
  });
  return button;
}

async function toggleHeat() {
  const entry = shown;
  if (page.heat.getAttribute("aria-pressed") === "true") {
    present(entry);
    return;
  }
  again = toggleHeat;
  const signal = next();
  try {
    if (!entry.heat) {
      say(text("heating"));
      entry.heat = await explain(entry.answer.model, entry.answer.version, entry.body, signal, waiting);
    }
    draw(heated(entry.photo.canvas, entry.heat));
    say(whereIsIt(entry.heat));
    page.heat.setAttribute("aria-pressed", "true");
  } catch (error) {
    fail(error);
    if (error.status === 403) show(page.heat, false); // switched off
  }
}

function whereIsIt(heat) {
  const at = hottest(heat);
  const label = name(heat.label);
  return at < 0 ? text("nowhere", { label }) : text("rests", { label, place: text("places").split(", ")[at] });
}

for (const input of page.choose.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = ""; // the same file can be chosen again
    if (file) take(file);
  });
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  page.choose.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) page.choose.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  page.choose.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) take(file); // else it is text, for a field
});
page.heat.addEventListener("click", toggleHeat);
select.addEventListener("change", () => {
  show(page.title, reading.includes(select.value));
  if (asked) take(asked);
});
titleInput.addEventListener("change", () => {
  if (asked) take(asked);
});
page.key.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!useKey(keyInput.value.trim())) {
    say(text("invalid"));
    return;
  }
  show(page.key, false);
  page.choose.querySelector("label:not([hidden]) input").focus();
  say("");
  try {
    if (again) await again();
    else await knowModels(next());
  } catch (error) {
    fail(error);
  }
});
knowModels(abort.signal).catch(fail);
// where there is no such thing (no HTTPS), or it is refused, the page works all the same
navigator.serviceWorker?.register("/web/offline.js", { scope: "/" }).catch(() => {});
