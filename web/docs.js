// Shows /openapi.json, and sends a photo to a model. Text alone is put into the page, never HTML.
"use strict";

const form = document.getElementById("try");
const answer = document.getElementById("answer");

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function headers() {
  const key = form.elements.key.value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

function json(value) {
  return element("pre", JSON.stringify(value, null, 2));
}

function operation(method, path, described) {
  const name = element("span", method.toUpperCase());
  name.className = "method";
  const summary = element("summary", "", name, element("code", path), ` ${described.summary}`);
  const rows = Object.entries(described.responses).map(([status, response]) =>
    element("tr", "", element("td", status), element("td", response.description)));
  const parts = [element("h4", "Answers"), element("table", "", ...rows)];
  if (described.parameters.length) parts.unshift(element("h4", "Parameters"), json(described.parameters));
  if (described.requestBody) parts.unshift(element("h4", "Body"), json(described.requestBody.content));
  return element("details", "", summary, ...parts);
}

function show(api) {
  document.title = api.info.title;
  document.getElementById("title").textContent = `${api.info.title} ${api.info.version}`;
  document.getElementById("description").textContent = api.info.description;
  const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, described]) => operation(method, path, described)));
  document.getElementById("operations").replaceChildren(...operations);
  const schemas = Object.entries(api.components.schemas).map(([name, schema]) =>
    element("details", "", element("summary", name), json(schema)));
  document.getElementById("schemas").replaceChildren(...schemas);
  const models = api.paths["/predictions/{model}"].post.parameters[0].schema.enum || [];
  form.elements.model.replaceChildren(...models.map((model) => element("option", model)));
}

async function load() {
  const response = await fetch("/openapi.json", { headers: headers() });
  if (response.ok) show(await response.json());
  else answer.textContent = (await response.json()).message;
}

form.elements.key.addEventListener("change", load);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  answer.textContent = "…";
  const { model, top_k, photo } = form.elements;
  const path = `/predictions/${encodeURIComponent(model.value)}?top_k=${encodeURIComponent(top_k.value)}`;
  try {
    const response = await fetch(path, { method: "POST", body: photo.files[0], headers: headers() });
    answer.textContent = `${response.status}\n${await response.text()}`;
  } catch (error) {
    answer.textContent = `No answer: ${error.message}`;
  }
});
load();
