// A photo at a time: its suggestions by digits, other classes by search. The next photo is shown at once, as a person may label three a
// second; the choices are sent behind it, in order. One that cannot be kept brings its photo back, and those after it stay open.

const MATCHES = 30; // classes shown of those that fit the search
const AHEAD = 4; // photos loaded before they are shown
const element = (id) => document.getElementById(id);
const search = element("search");
const { labels, items } = await (await fetch("review.json")).json();
const made = []; // photos decided here, as they were before, for undo
const waiting = []; // choices that are not kept yet, the oldest first
let loaded = new Map(); // the photo that is shown and the next ones, by number
let current = Math.max(0, items.findIndex((item) => item.kind === "open"));
let sending = false;
let selected = 0;
let matches = [];

const percent = (probability) => `${(100 * probability).toFixed(probability < 0.1 ? 1 : 0)} %`;

// what a person said first, then each version's classes, each class once
function suggestions(item) {
  const found = new Map();
  if (item.given && item.feedback) found.set(item.feedback, ["a person's feedback"]);
  item.answers.forEach((answer, number) => {
    for (const { label, probability } of number ? answer.predictions.slice(0, 1) : answer.predictions) {
      const version = item.answers.length > 1 ? ` ${answer.version}` : "";
      found.set(label, [...(found.get(label) ?? []), percent(probability) + version]);
    }
  });
  return [...found].slice(0, 9);
}

function button(label, notes, number, item) {
  const button = document.createElement("button");
  button.type = "button";
  const key = document.createElement("kbd");
  key.textContent = number;
  const name = document.createElement("span");
  name.textContent = label;
  const note = document.createElement("small");
  note.textContent = notes.join(", ");
  button.append(key, name, note);
  button.setAttribute("aria-pressed", item.kind === "label" && item.label === label);
  button.onclick = () => choose("label", label);
  return button;
}

function words(item) {
  if (item.kind === "label") return `Labelled ${item.label}`;
  if (item.kind === "none") return "None of the classes";
  if (item.kind === "skip") return "Skipped";
  if (item.given && !item.feedback) return "A person says: none of the classes";
  if (item.differs) return "Versions or people disagree";
  if (!item.answers.length) return "What does it show?";
  return item.answers[0].sure === false ? "The model is not sure" : "What does it show?";
}

function load(number) {
  const photo = loaded.get(number) ?? new Image();
  if (!photo.src) photo.src = `photos/${number}`;
  return photo;
}

// an element of its own for each photo: one that is given another address shows the photo before until that is there
function showPhoto(item) {
  const open = items.flatMap((one, number) => (number > current && one.kind === "open" ? [number] : [])).slice(0, AHEAD);
  loaded = new Map([current, ...open].map((number) => [number, load(number)]));
  const photo = loaded.get(current);
  photo.alt = `Photo ${current + 1} of ${items.length}${item.title ? `: ${item.title}` : ""}`;
  if (photo.id) return;
  element("photo").replaceWith(photo);
  loaded.forEach((one) => one.removeAttribute("id"));
  photo.id = "photo";
}

function showCount(decided) {
  element("progress").max = items.length;
  element("progress").value = decided;
  element("count").textContent = `${decided} of ${items.length}${waiting.length ? `, ${waiting.length} being kept` : ""}`;
}

const countDecided = () => items.filter((one) => one.kind !== "open").length;

function show() {
  const item = items[current];
  const decided = countDecided();
  showCount(decided);
  showPhoto(item);
  element("about").textContent = [`photo ${current + 1}`, item.source, item.title].filter(Boolean).join(" · ");
  element("status").textContent = decided === items.length ? `All photos are decided. ${words(item)}` : words(item);
  element("status").classList.toggle("differs", item.kind === "open" && item.differs);
  const list = suggestions(item).map(([label, notes], number) => {
    const entry = document.createElement("li");
    entry.append(button(label, notes, number + 1, item));
    return entry;
  });
  element("suggestions").replaceChildren(...list);
  element("none").setAttribute("aria-pressed", item.kind === "none");
  element("skip").setAttribute("aria-pressed", item.kind === "skip");
  find();
}

// classes that begin with the text come before those that contain it; what is no class yet can become one
function find() {
  const text = search.value.trim().toLowerCase();
  const plain = (label) => label.toLowerCase().replaceAll("_", " ");
  const fitting = text ? labels.filter((label) => plain(label).includes(text.replaceAll("_", " "))) : [];
  fitting.sort((a, b) => plain(b).startsWith(text) - plain(a).startsWith(text));
  matches = fitting.slice(0, MATCHES).map((label) => ({ label, text: label }));
  const name = search.value.trim();
  if (name && !labels.includes(name)) matches.push({ label: name, text: `new class: ${name}` });
  selected = 0;
  element("matches").replaceChildren(...matches.map(({ label, text }, number) => {
    const entry = document.createElement("li");
    entry.id = `match-${number}`;
    entry.role = "option";
    entry.textContent = text;
    entry.onclick = () => chooseFound(label);
    return entry;
  }));
  element("matches").hidden = !matches.length;
  search.setAttribute("aria-expanded", Boolean(matches.length));
  mark();
}

function mark() {
  [...element("matches").children].forEach((entry, number) => entry.setAttribute("aria-selected", number === selected));
  element(`match-${selected}`)?.scrollIntoView({ block: "nearest" });
  if (matches.length) search.setAttribute("aria-activedescendant", `match-${selected}`);
  else search.removeAttribute("aria-activedescendant");
}

async function send({ number, kind, label, isNew }) {
  const body = JSON.stringify({ item: number, kind, label, new: isNew });
  const answer = await fetch("choices", { method: "POST", headers: { "content-type": "application/json" }, body });
  if (!answer.ok) throw new Error((await answer.json()).message);
}

async function sendAll() {
  if (sending) return;
  sending = true;
  try {
    for (; waiting.length; waiting.shift()) await send(waiting[0]);
  } catch (error) {
    takeBack(error instanceof TypeError ? "make review does not run any more" : error.message);
  } finally {
    sending = false;
  }
  showCount(countDecided());
}

// what is waiting for its turn goes with the choice that failed: its photos are open again, and come again
function takeBack(why) {
  const { length } = waiting;
  current = waiting[0].number;
  for (const { number, label, isNew, before, undone } of waiting.splice(0).reverse()) {
    Object.assign(items[number], before);
    if (isNew) labels.splice(labels.indexOf(label), 1);
    if (undone) made.push(undone);
    else made.pop();
  }
  leaveSearch();
  show();
  element("why").textContent = `${length === 1 ? "The choice was" : `${length} choices were`} not kept: ${why}`;
  element("failed").showModal();
}

function decide(number, kind, label, undone = null) {
  const before = { kind: items[number].kind, label: items[number].label };
  const isNew = label !== null && !labels.includes(label);
  if (isNew) labels.push(label);
  Object.assign(items[number], { kind, label });
  waiting.push({ number, kind, label, isNew, before, undone });
  if (!undone) made.push({ number, ...before });
  sendAll();
}

function choose(kind, label = null) {
  decide(current, kind, label);
  leaveSearch();
  const open = (item) => item.kind === "open";
  const after = items.findIndex((item, number) => number > current && open(item));
  const any = after < 0 ? items.findIndex(open) : after;
  current = any < 0 ? current : any;
  show();
}

// a slip of the keys must not become a class: make ingest would refuse its photos, or train on it
function chooseFound(label) {
  if (labels.includes(label)) return choose("label", label);
  element("new-why").textContent = `“${label}” is no class yet. Is it a new one? make ingest and make retrain take it with NEW_CLASSES=1 alone.`;
  element("new").returnValue = "no";
  element("new").onclose = () => {
    if (element("new").returnValue === "yes") choose("label", label);
    else search.focus();
  };
  element("new").showModal();
}

function undo() {
  const last = made.pop();
  if (!last) return;
  current = last.number;
  decide(last.number, last.kind, last.label, last);
  show();
}

function go(step) {
  current = Math.min(items.length - 1, Math.max(0, current + step));
  show();
}

function leaveSearch() {
  search.value = "";
  search.blur();
  find();
}

function inSearch(event) {
  if (event.key === "Escape") leaveSearch();
  else if (event.key === "Enter" && matches.length) chooseFound(matches[selected].label);
  else if (event.key === "ArrowDown") selected = Math.min(matches.length - 1, selected + 1);
  else if (event.key === "ArrowUp") selected = Math.max(0, selected - 1);
  else return;
  event.preventDefault();
  mark();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (element("new").open) {
    if (event.key.toLowerCase() === "n") element("new").close("yes");
    if (!["Enter", "Escape", "Tab", " "].includes(event.key)) event.preventDefault();
    return;
  }
  if (element("failed").open) {
    // what was typed for the photo that is gone labels not the one that is back
    if (!["Enter", "Escape", "Tab"].includes(event.key)) event.preventDefault();
    return;
  }
  if (event.target === search) return inSearch(event);
  const onButton = event.target instanceof HTMLButtonElement;
  const keys = { 0: () => choose("none"), Backspace: undo, ArrowLeft: () => go(-1), ArrowRight: () => go(1) };
  if (!onButton) keys[" "] = () => choose("skip");
  if (keys[event.key]) keys[event.key]();
  else if (/^[1-9]$/.test(event.key)) element("suggestions").children[event.key - 1]?.firstChild.click();
  else if (/^[\p{L}/]$/u.test(event.key)) {
    search.focus();
    if (event.key === "/") event.preventDefault(); // a letter goes into the field
    return;
  } else return;
  event.preventDefault();
});
addEventListener("beforeunload", (event) => {
  if (waiting.length) event.preventDefault();
});
search.oninput = find;
element("none").onclick = () => choose("none");
element("skip").onclick = () => choose("skip");
element("undo").onclick = undo;
element("back").onclick = () => go(-1);
element("next").onclick = () => go(1);
show();
