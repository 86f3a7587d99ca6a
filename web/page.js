// The page: a photo in, its classes out. Text alone is put into it, never HTML; nothing is stored.

import { Failure, classes, explain, models, useKey } from "./api.js";
import { heated, hottest, prepare } from "./photo.js";
import { language, percent, text, texts } from "./texts.js";

const MOST_REMEMBERED = 10;
const LARGEST_BYTES = 20 * 1024 * 1024;
const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const select = page.models.querySelector("select");
const remembered = []; // the newest first: {photo, answer, heat, ms}
let shown = null;
let abort = new AbortController();
let again = () => start(); // once a key is given

document.documentElement.lang = language;
for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", text(element.dataset.label));
page.camera.hidden = !matchMedia("(pointer: coarse)").matches;

function show(element, visible) {
  element.hidden = !visible;
}

function say(sentence, detail = "") {
  page.status.textContent = sentence;
  show(page.details, Boolean(detail));
  page.details.querySelector("p").textContent = detail;
}

function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Failure)) throw error;
  if (error.status === 401) show(page.key, true);
  show(page.result, true);
  say(words(error), error.detail);
}

function words(failure) {
  if (!failure.status) return text(failure.message);
  return failure.status in texts[language] ? text(failure.status) : text("other", { status: failure.status });
}

function waiting(failure, seconds) {
  say(text("waiting", { why: words(failure), seconds }));
}

// What is under way ends: another photo has come.
function next() {
  abort.abort();
  abort = new AbortController();
  return abort.signal;
}

async function take(file) {
  again = () => take(file);
  const signal = next();
  shown = null;
  for (const element of [page.unsure, page.heat, page.preview]) show(element, false);
  page.answers.replaceChildren();
  page.made.textContent = "";
  show(page.result, true);
  say(text("sending"));
  try {
    if (!file.size) throw new Failure("empty");
    const photo = await prepare(file);
    signal.throwIfAborted();
    draw(photo.canvas);
    if (photo.body.size > LARGEST_BYTES) throw new Failure("status", "", 413);
    const started = performance.now();
    const answer = await classes(select.value, photo.body, signal, waiting);
    remember({ photo, answer, heat: null, model: select.value, ms: Math.round(performance.now() - started) });
  } catch (error) {
    fail(error);
  }
}

function draw(canvas) {
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
  const { answer, photo } = entry;
  const [first] = answer.predictions;
  draw(photo.canvas);
  show(page.result, true);
  show(page.unsure, !answer.sure);
  const found = text("found", { label: name(first.label), percent: percent(first.probability) });
  say(answer.sure ? found : `${text("unsure")} ${found}`);
  page.answers.replaceChildren(...answer.predictions.map(bar));
  page.made.textContent = text("made", { model: answer.model, version: answer.version, ms: entry.ms });
  show(page.heat, Boolean(photo.canvas));
  pressed(false);
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
  remembered.unshift(entry);
  remembered.length = Math.min(remembered.length, MOST_REMEMBERED);
  present(entry);
  show(page.history, remembered.length > 1);
  page.history.querySelector("ul").replaceChildren(...remembered.map(thumbnail));
}

function thumbnail(entry) {
  const button = document.createElement("button");
  const small = document.createElement("canvas");
  const [side, label] = [96, name(entry.answer.predictions[0].label)];
  [small.width, small.height] = [side, side];
  if (entry.photo.canvas) {
    const { width, height } = entry.photo.canvas;
    const short = Math.min(width, height);
    small.getContext("2d").drawImage(entry.photo.canvas, (width - short) / 2, (height - short) / 2, short, short, 0, 0, side, side);
  }
  small.setAttribute("aria-hidden", "true");
  button.type = "button";
  button.append(small, label);
  button.addEventListener("click", () => {
    next();
    present(entry);
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function pressed(on) {
  page.heat.setAttribute("aria-pressed", String(on));
  page.heat.textContent = text(on ? "plain" : "heat");
}

async function toggleHeat() {
  const entry = shown;
  if (page.heat.getAttribute("aria-pressed") === "true") {
    present(entry);
    return;
  }
  const signal = next();
  try {
    if (!entry.heat) {
      say(text("heating"));
      entry.heat = await explain(entry.model, entry.answer.version, entry.photo.body, signal, waiting);
    }
    draw(heated(entry.photo.canvas, entry.heat));
    const place = text("places").split(", ")[hottest(entry.heat)];
    say(text("rests", { label: name(entry.heat.label), place }));
    pressed(true);
  } catch (error) {
    fail(error);
  }
}

async function start() {
  try {
    const names = await models(next());
    select.replaceChildren(...names.map((model) => new Option(name(model), model)));
    show(page.models, names.length > 1);
  } catch (error) {
    fail(error);
  }
}

function firstFile(transfer) {
  return [...(transfer?.files ?? [])][0];
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
  const file = firstFile(event.dataTransfer);
  if (file) take(file);
});
document.addEventListener("paste", (event) => {
  const file = firstFile(event.clipboardData);
  if (file) take(file);
});
page.heat.addEventListener("click", toggleHeat);
page.key.addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(page.key.querySelector("input").value.trim());
  show(page.key, false);
  if (!select.options.length) await start();
  again();
});
start();
