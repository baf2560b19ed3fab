"use strict";
// What the page does: asks /api/generate once per model, /api/files with a file. Texts are only ever set as text.

const find = (selector) => document.querySelector(selector);
const ask = find("#ask"), upload = find("#upload"), answers = find("#answers"), said = find("#said");
const whole = new Intl.NumberFormat("en");
let asked = new AbortController(), sent = null;

function element(kind, words, name) {
  const made = document.createElement(kind);
  made.textContent = words;
  if (name) made.className = name;
  return made;
}

function plural(count, word) {
  return `${whole.format(count)} ${word}${count === 1 ? "" : "s"}`;
}

// The languages and settings of the form: what is blank is left to the server.
function wish() {
  const found = {};
  for (const field of ask.elements) {
    if (field.value === "" || !["SELECT", "INPUT"].includes(field.tagName) || field.name === "model") continue;
    found[field.name] = field.type === "number" ? Number(field.value) : field.value;
  }
  return found;
}

async function refusal(response) {
  if (response.status === 401) location.assign("/login");
  let words = `The server answered ${response.status}.`;
  try { words = (await response.json()).error; } catch { /* no JSON */ }
  const later = response.headers.get("Retry-After");
  return later ? `${words} Try again in ${plural(Number(later), "second")}.` : words;
}

function show(card, answer) {
  const result = answer.results[0];
  const lang = answer.target_lang.replace("_XX", "").replace("_", "-");
  card.replaceChildren(card.firstChild);
  for (const output of result.outputs) {
    const text = element("p", output.text || "(an empty output)", output.text ? "output" : "note");
    text.lang = lang;
    text.dir = "auto";
    card.append(text, element("p", `${plural(output.tokens, "token")}, ${plural(output.characters, "character")}`, "note"));
  }
  const cut = result.cut ? `; of the text's ${plural(result.source_tokens, "token")} the last were cut off` : `; ${plural(result.source_tokens, "token")} read`;
  card.append(element("p", `${answer.source_lang} to ${answer.target_lang}, ${answer.seconds.toFixed(2)} s${cut}`, "note"));
}

async function generate(model, content, card, signal) {
  try {
    const response = await fetch("/api/generate", {
      method: "POST", headers: { "Content-Type": "application/json" }, signal, body: JSON.stringify({ ...content, model }),
    });
    if (response.ok) show(card, await response.json());
    else card.replaceChildren(card.firstChild, element("p", await refusal(response), "error"));
  } catch (error) {
    if (error.name !== "AbortError") card.replaceChildren(card.firstChild, element("p", "The server does not answer.", "error"));
  }
}

ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  asked.abort();
  const mine = asked = new AbortController();
  const content = { ...wish(), texts: [ask.elements.text.value] };
  const models = new FormData(ask).getAll("model");
  answers.replaceChildren();
  if (!models.length) answers.append(element("p", "Choose a model.", "error"));
  await Promise.all(models.map((model) => {
    const card = document.createElement("article");
    card.append(element("h3", model), element("p", "writing …", "note"));
    answers.append(card);
    return generate(model, content, card, mine.signal);
  }));
});

ask.elements.text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask.requestSubmit();
});

ask.elements.text.addEventListener("input", () => {
  const count = [...ask.elements.text.value].length, most = Number(ask.elements.text.dataset.most);
  find("#length").textContent = `${whole.format(count)} of ${whole.format(most)} characters`;
  find("#length").classList.toggle("error", count > most);
});

// Counts rows as they arrive: line ends, but those in quoted cells.
function counter(format) {
  const quotes = format === "csv" || format === "tsv";
  let quoted = false, lines = 0;
  return (text) => {
    for (const character of text) {
      if (quotes && character === '"') quoted = !quoted;
      else if (character === "\n" && !quoted) lines += 1;
    }
    return lines;
  };
}

function working(controller) {
  sent = controller;
  upload.querySelector("button").disabled = controller !== null;
  find("#stop").hidden = controller === null;
  find("#progress").hidden = controller === null;
}

async function received(response, format) {
  const rows = Number(response.headers.get("X-Rows")), skipped = Number(response.headers.get("X-Skipped-Rows"));
  const bar = find("#progress progress"), count = counter(format), pieces = [], decoder = new TextDecoder();
  const heads = format === "csv" || format === "tsv" || format === "json" ? 1 : 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    const written = Math.min(rows, Math.max(0, count(decoder.decode(value, { stream: true })) - heads));
    bar.value = written / rows;
    said.textContent = `${whole.format(written)} of ${plural(rows, "row")}`;
  }
  const link = element("a", `Download outputs.${format}`);
  link.href = URL.createObjectURL(new Blob(pieces));
  link.download = `outputs.${format}`;
  said.replaceChildren(link, ` ${plural(rows, "row")}${skipped ? `, ${whole.format(skipped)} left out` : ""}.`);
}

upload.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!ask.elements.source_lang.reportValidity() || !ask.elements.target_lang.reportValidity()) return;
  const file = upload.elements.file.files[0], format = file.name.split(".").pop().toLowerCase();
  if (file.size > Number(upload.dataset.most) * 1e6) {
    said.replaceChildren(element("span", `The file is larger than ${upload.dataset.most} MB.`, "error"));
    return;
  }
  const query = new URLSearchParams({ ...wish(), format, model: upload.elements.model.value,
    text_column: upload.elements.text_column.value, skip_bad_rows: upload.elements.skip_bad_rows.checked });
  working(new AbortController());
  said.textContent = "sending …";
  try {
    const response = await fetch(`/api/files?${query}`, { method: "POST", body: file, signal: sent.signal });
    if (response.ok) await received(response, format);
    else said.replaceChildren(element("span", await refusal(response), "error"));
  } catch (error) {
    said.replaceChildren(element("span", error.name === "AbortError" ? "Stopped." : "The connection ended before all rows were written.", "error"));
  } finally {
    working(null);
  }
});

find("#stop").addEventListener("click", () => sent?.abort());

// Names of languages, as the browser knows them.
const names = new Intl.DisplayNames(["en"], { type: "language", fallback: "none" });
for (const option of document.querySelectorAll("select[name$=_lang] option")) {
  if (!option.value) continue;
  option.value = option.value; // which was its text until now
  try {
    const name = names.of(option.value.split("_")[0]);
    if (name) option.textContent = `${name} (${option.value})`;
  } catch { /* a code of the model's own */ }
}
