// The page at /docs: shows /openapi.json, and lets people try what it says. All text is set as text, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const byId = (id) => document.getElementById(id);
let made = 0;

function element(name, properties = {}, ...children) {
  const one = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in one && typeof value !== "string") one[key] = value;
    else one.setAttribute(key, value);
  }
  one.append(...children.filter((child) => child !== null && child !== undefined));
  return one;
}

function resolved(document_, value) {
  if (!value || !value.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((at, key) => at[key.replace(/~1/g, "/").replace(/~0/g, "~")], document_);
}

function json(value) {
  return element("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));
}

function schemaName(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `array of ${schemaName(schema.items) || "anything"}`;
  if (schema.enum) return schema.enum.map(String).join(" | ");
  return Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type || "anything";
}

function table(caption, heads, rows) {
  return element(
    "table", {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))))),
  );
}

function field(label, input) {
  input.id = `field-${(made += 1)}`;
  return [element("label", { for: input.id }, label), input];
}

function exampleOf(operation) {
  const content = (operation.requestBody || {}).content || {};
  const body = content["application/json"];
  if (!body) return null;
  const first = Object.values(body.examples || {})[0];
  return first ? first.value : body.example === undefined ? {} : body.example;
}

async function readUntilEnd(response, show) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return text;
    text += value;
    show(text);
  }
}

function shown(text, type) {
  if (!/json/.test(type)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function trial(document_, path, method, operation) {
  const inputs = [];
  const form = element("form", { "aria-label": `Try ${operation.summary || operation.operationId}` });
  for (const parameter of operation.parameters || []) {
    const about = resolved(document_, parameter);
    const schema = resolved(document_, about.schema) || {};
    let input;
    if (schema.enum) {
      const options = [...(about.required ? [] : [""]), ...schema.enum];
      input = element("select", {}, ...options.map((one) => element("option", {}, String(one))));
    } else input = element("input", { autocomplete: "off", spellcheck: "false" });
    if (about.example !== undefined) input.value = about.example;
    input.required = Boolean(about.required);
    inputs.push([about, input]);
    form.append(...field(`${about.name} (${about.in}${about.required ? ", needed" : ""})`, input));
  }
  const example = exampleOf(operation);
  const body = example === null ? null : element("textarea", { spellcheck: "false" });
  if (body) {
    body.value = JSON.stringify(example, null, 2);
    form.append(...field("Body (JSON)", body));
  }
  const send = element("button", {}, "Send");
  const stop = element("button", { type: "button" }, "Stop");
  stop.hidden = true;
  const status = element("p", { role: "status" });
  const answer = element("pre", { tabindex: "0", "aria-label": "Answer" });
  answer.hidden = true;
  form.append(send, " ", stop, status, answer);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const query = new URLSearchParams();
    const headers = {};
    let url = path;
    for (const [about, input] of inputs) {
      if (!input.value) continue;
      if (about.in === "path") url = url.replace(`{${about.name}}`, encodeURIComponent(input.value));
      else if (about.in === "query") query.append(about.name, input.value);
      else headers[about.name] = input.value;
    }
    const key = byId("key").value.trim();
    if (key) headers.Authorization = `Bearer ${key}`;
    const options = { method: method.toUpperCase(), headers, credentials: "omit", referrerPolicy: "no-referrer" };
    if (body && body.value.trim()) {
      headers["Content-Type"] = "application/json";
      options.body = body.value;
    }
    const control = new AbortController();
    options.signal = control.signal;
    stop.onclick = () => control.abort();
    stop.hidden = false;
    send.disabled = true;
    status.className = "";
    status.textContent = "Sent; waiting for the answer.";
    answer.hidden = true;
    const began = performance.now();
    try {
      const response = await fetch(query.size ? `${url}?${query}` : url, options);
      const type = response.headers.get("Content-Type") || "";
      status.className = response.ok ? "good" : "bad";
      const said = () => `${response.status} ${response.statusText} ${type}, ${Math.round(performance.now() - began)} ms`;
      status.textContent = said();
      answer.hidden = false;
      const text = response.body ? await readUntilEnd(response, (so_far) => { answer.textContent = so_far; }) : "";
      answer.textContent = shown(text, type) || "(no body)";
      status.textContent = said();
    } catch (error) {
      status.className = "bad";
      status.textContent = control.signal.aborted ? "Stopped." : `No answer: ${error.message}`;
    } finally {
      send.disabled = false;
      stop.hidden = true;
    }
  });
  return form;
}

function operationView(document_, path, method, operation) {
  const details = element("details", { id: operation.operationId });
  details.append(
    element(
      "summary", {},
      element("span", { class: "method" }, method.toUpperCase()), element("code", {}, path), ` ${operation.summary || ""}`,
    ),
  );
  details.addEventListener("toggle", () => {
    if (!details.open || details.dataset.filled) return;
    details.dataset.filled = "yes";
    if (operation.description) details.append(element("p", {}, operation.description));
    const parameters = (operation.parameters || []).map((one) => resolved(document_, one));
    if (parameters.length) {
      details.append(
        table("Parameters", ["Name", "In", "Is", "Means"], parameters.map((one) => [
          `${one.name}${one.required ? " (needed)" : ""}`, one.in, schemaName(one.schema), one.description || "",
        ])),
      );
    }
    for (const [type, content] of Object.entries((operation.requestBody || {}).content || {})) {
      details.append(element("h4", {}, `Body: ${type}`), json(content.schema || {}));
    }
    details.append(
      table("Answers", ["Status", "Is", "Means"], Object.entries(operation.responses).map(([status, one]) => {
        const about = resolved(document_, one);
        const forms = Object.entries(about.content || {}).map(([type, content]) => `${type}: ${schemaName(content.schema)}`);
        return [status, forms.join(", "), about.description || ""];
      })),
      element("h4", {}, "Try it"),
      trial(document_, path, method, operation),
    );
  });
  return details;
}

function operationsOf(document_) {
  const groups = new Map((document_.tags || []).map((tag) => [tag.name, { about: tag.description || "", found: [] }]));
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const method of METHODS.filter((one) => methods[one])) {
      const operation = methods[method];
      const tag = (operation.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, { about: "", found: [] });
      groups.get(tag).found.push([path, method, operation]);
    }
  }
  return groups;
}

function show(document_) {
  byId("version").textContent = document_.info.version;
  byId("about").textContent = document_.info.description || "";
  const contents = element("ul");
  const views = [];
  for (const [tag, { about, found }] of operationsOf(document_)) {
    if (!found.length) continue;
    const title = element("h2", { id: `group-${tag}` }, tag);
    const section = element("section", { "aria-labelledby": title.id }, title, element("p", {}, about));
    for (const [path, method, operation] of found) {
      const view = operationView(document_, path, method, operation);
      views.push([view, section, `${method} ${path} ${operation.summary} ${operation.operationId}`.toLowerCase()]);
      section.append(view);
    }
    byId("operations").append(section);
    contents.append(element("li", {}, element("a", { href: `#${title.id}` }, tag)));
  }
  byId("contents").append(contents);
  for (const [name, schema] of Object.entries(document_.components.schemas)) {
    byId("schemas").append(element("details", { id: `schema-${name}` }, element("summary", {}, element("code", {}, name)), json(schema)));
  }
  byId("find").addEventListener("input", () => {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const sections = new Map();
    let number = 0;
    for (const [view, section, text] of views) {
      view.hidden = !words.every((word) => text.includes(word));
      number += view.hidden ? 0 : 1;
      sections.set(section, Boolean(sections.get(section)) || !view.hidden);
    }
    for (const [section, some] of sections) section.hidden = !some;
    byId("found").textContent = words.length ? `${number} of ${views.length} operations` : "";
  });
  const named = document.getElementById(location.hash.slice(1));
  if (named && named.tagName === "DETAILS") named.open = true;
}

byId("who").addEventListener("submit", (event) => event.preventDefault());
fetch("/openapi.json", { credentials: "omit" })
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`status ${response.status}`))))
  .then(show)
  .catch((error) => {
    byId("about").textContent = `The OpenAPI document cannot be read: ${error.message}`;
  });
