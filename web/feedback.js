// "Wrong? It is …": a person says what a photo shows that the server has kept. One tap; the last choice counts.

import { Failure, feedback, labels } from "./api.js";
import { duration, language, number, text, texts } from "./texts.js";

const MOST_SHOWN = 60; // of the classes: typing finds the others
// these mean the same as for a photo
const COMMON = [0, 401, 403, 503, 507];
const ids = ["feedback", "right", "wrong", "chooser", "search", "labels", "matches", "none", "thanks", "kept"];
const page = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));
let shown = null; // the photo that is spoken of: {id, keptS, answer, said, note}
let known = []; // the classes of the version that answered
let helpers = null; // of page.js: words(failure), name(label), askKey(retry)

export function useHelpers(given) {
  helpers = given;
}

// What can be said of this photo; nothing of one that was not kept, or of null.
export function offer(entry) {
  if (entry !== shown) close();
  shown = entry;
  page.feedback.hidden = !entry?.keptS;
  if (page.feedback.hidden) return;
  const [name, time] = Number.isFinite(entry.keptS) ? ["kept", duration(entry.keptS)] : ["keptOpen", ""];
  page.kept.textContent = text(name, { time });
  page.thanks.textContent = entry.note ?? "";
  const [first] = entry.answer.predictions;
  page.right.setAttribute("aria-pressed", String(entry.said === first.label));
}

async function send(label) {
  const entry = shown;
  if (page.chooser.contains(document.activeElement)) page.wrong.focus({ preventScroll: true });
  close();
  entry.sending?.abort();
  entry.sending = new AbortController();
  note(entry, text("sendingFeedback"));
  try {
    await feedback(entry.id, label, entry.sending.signal, (failure, seconds) => {
      note(entry, text("waiting", { why: words(failure), seconds }));
    });
    entry.said = label;
    note(entry, text("thanks", { label: label === null ? text("none") : helpers.name(label) }));
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Failure)) throw error;
    note(entry, words(error));
    if (error.status === 401 && entry === shown) helpers.askKey(() => send(label));
  }
}

function note(entry, sentence) {
  entry.note = sentence;
  if (entry === shown) offer(entry);
}

function words(failure) {
  const own = `feedback${failure.status}`;
  if (own in texts[language]) return text(own);
  return COMMON.includes(failure.status) ? helpers.words(failure) : text("feedbackOther", { status: failure.status });
}

async function open() {
  const entry = shown;
  const { model, version } = entry.answer;
  page.wrong.setAttribute("aria-expanded", "true");
  [page.chooser.hidden, page.search.value, known] = [false, "", []];
  list();
  // on a phone its keyboard would cover what is likely, which needs a tap alone
  if (!matchMedia("(pointer: coarse)").matches) page.search.focus();
  try {
    const found = await labels(model, version);
    if (entry !== shown || page.chooser.hidden) return;
    known = found;
    list();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (entry === shown) page.matches.textContent = helpers.words(error);
  }
}

function close() {
  page.wrong.setAttribute("aria-expanded", "false");
  page.chooser.hidden = true;
}

// In small letters without accents: whoever types "creme brulee" finds it.
function plain(words) {
  return words.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
}

// What else it may be comes first, then all by their names.
function matching() {
  const typed = plain(page.search.value).trim();
  const parts = typed.split(/\s+/);
  const likely = shown.answer.predictions.slice(1).map(({ label }) => label);
  const found = [...new Set([...likely, ...known])].filter((label) => {
    const words = plain(helpers.name(label));
    return parts.every((part) => words.includes(part));
  });
  const begins = (label) => Number(typed !== "" && plain(helpers.name(label)).startsWith(typed));
  return found.sort((one, other) => begins(other) - begins(one));
}

function list() {
  const found = matching();
  page.labels.replaceChildren(...found.slice(0, MOST_SHOWN).map((label) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = helpers.name(label);
    button.addEventListener("click", () => send(label));
    item.append(button);
    return item;
  }));
  page.labels.scrollTop = 0;
  const counted = { count: number(found.length), shown: MOST_SHOWN };
  const all = page.search.value === "" && found.length <= MOST_SHOWN; // there is nothing to say of them
  page.matches.textContent = all ? "" : text(found.length > MOST_SHOWN ? "matchesMore" : "matches", counted);
}

page.right.addEventListener("click", () => send(shown.answer.predictions[0].label));
page.wrong.addEventListener("click", () => (page.chooser.hidden ? open() : close()));
page.none.addEventListener("click", () => send(null));
page.search.addEventListener("input", list);
page.chooser.addEventListener("keydown", (event) => {
  const stops = [page.search, ...page.chooser.querySelectorAll("button")];
  const at = stops.indexOf(document.activeElement);
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape") {
    close();
    page.wrong.focus();
  } else if (step) {
    stops[Math.min(Math.max(at + step, 0), stops.length - 1)].focus();
  } else if (event.key === "Enter" && at === 0 && page.labels.children.length === 1) {
    stops[1].click();
  } else {
    return;
  }
  event.preventDefault();
});
