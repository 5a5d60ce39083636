// The page for people: asks /rank and shows what it says. Texts are set as text, never as HTML.

import { make } from "./make.js";

const $ = (id) => document.getElementById(id);
const COLOURS = 6;
let about = { labels: [], fields: ["title"], explanations: null, examples: [] };

const plain = (name) => name.replaceAll("_", " ");

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").className = wrong ? "wrong" : "quiet";
}

async function ask(path, body) {
  const headers = { Authorization: `Bearer ${$("key").value}` };
  if (!$("key").value) delete headers.Authorization;
  const options = body && { method: "POST", body: JSON.stringify(body) };
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { ...options, headers });
  const answer = await response.json().catch(() => ({ error: { message: `the server says ${response.status} ${response.statusText}` } }));
  if (response.status === 401) $("key-field").hidden = false;
  if (answer.error) throw new Error(answer.error.where ? `${answer.error.where}: ${answer.error.message}` : answer.error.message);
  return answer;
}

async function load() {
  try {
    about = await ask("about");
  } catch (error) {
    if ($("key-field").hidden) return say(`The server does not answer: ${error.message}`, true);
    $("key").focus();
    return say("This server wants a key.", true);
  }
  $("model").textContent = about.method;
  const fields = [...new Set(["title", ...about.fields])];
  $("columns").hidden = fields.length === 1;
  $("columns").textContent = `With tabs between: ${fields.join(", ")}, as pasted from a table.`;
  $("explain-field").hidden = !about.explanations;
  $("examples").hidden = !about.examples.length;
  for (const old of $("examples").querySelectorAll("button")) old.remove();
  for (const example of about.examples) {
    const button = make("button", { type: "button", text: example.query });
    button.addEventListener("click", () => show(example));
    $("examples").append(button);
  }
}

function show(example) {
  const fields = [...new Set(["title", ...about.fields])];
  const cell = (value) => (Array.isArray(value) ? value.join(" > ") : value ?? "").replace(/\s+/g, " ");
  $("query").value = example.query;
  $("items").value = example.items
    .map((item) => fields.map((name) => cell(item[name])).join("\t").trimEnd())
    .join("\n");
  $("ask").requestSubmit();
}

function typed() {
  const fields = [...new Set(["title", ...about.fields])];
  const lines = $("items").value.split(/\r?\n/).filter((line) => line.trim());
  return lines.map((line) => {
    const cells = fields.length > 1 ? line.split("\t") : [line.replaceAll("\t", " ")];
    return Object.fromEntries(fields.slice(0, cells.length).map((name, n) => [name, cells[n].trim()]));
  });
}

async function rank() {
  const items = typed();
  const query = $("query").value;
  if (!query.trim() || !items.length) return say("A query and at least one item are needed.", true);
  $("rank").disabled = true;
  $("results").setAttribute("aria-busy", "true");
  say(`Ranking ${count(items.length)} ...`);
  const started = performance.now();
  try {
    if (!about.labels.length) await load();
    const explain = about.explanations && $("explain").checked ? 1 : 0;
    const { results } = await ask("rank", { query, items, explain });
    const seconds = performance.now() - started;
    $("results").replaceChildren(...results.map((result, n) => card(result, items[result.index], n)));
    const failed = results.filter((result) => result.error).length;
    say(`${count(results.length - failed)} ranked in ${Math.round(seconds)} ms${failed ? `, ${failed} not scored` : ""}.`);
  } catch (error) {
    $("results").replaceChildren();
    say(error.message, true);
  } finally {
    $("rank").disabled = false;
    $("results").removeAttribute("aria-busy");
  }
}

const count = (number) => `${number} item${number === 1 ? "" : "s"}`;

function card(result, item, n) {
  const { title, ...others } = item;
  const more = Object.values(others).filter(Boolean).join(" · ");
  const texts = make("div", {}, make("h2", { text: title }));
  if (more) texts.append(make("p", { classes: "more quiet", text: more }));
  const head = make("div", { classes: "item" }, make("span", { classes: "place", text: result.error ? "–" : `${n + 1}.` }), texts);
  const whole = make("li", { classes: "card" }, head);
  if (result.error) {
    const where = result.error.field ? `${result.error.field}: ` : "";
    whole.append(make("p", { classes: "more wrong", text: `Not scored. ${where}${result.error.message}` }));
    return whole;
  }
  head.append(make("div", { classes: "gain" }, make("b", { text: result.gain.toFixed(2) }), make("span", { classes: "hint", text: "gain" })));
  whole.append(bars(result));
  if (result.tokens_cut) {
    const text = `${result.tokens_cut} tokens were not read: the model reads ${about.max_length} of a pair.`;
    whole.append(make("p", { classes: "hint", text }));
  }
  if (result.explanations) whole.append(rationales(result.explanations, n === 0));
  return whole;
}

function bars(result) {
  const list = make("ul", { classes: "labels", "aria-label": "Probability of each label" });
  about.labels.forEach(({ name }, place) => {
    const percent = 100 * result.probabilities[name];
    const bar = make("div", { classes: `bar ${colour(place)}` });
    bar.style.width = `${percent}%`;
    const track = make("div", { classes: "track", "aria-hidden": "true" }, bar);
    const texts = [make("span", { text: name }), make("span", { text: `${percent.toFixed(0)} %` })];
    list.append(make("li", { classes: name === result.label ? "top-label" : "" }, texts[0], track, texts[1]));
  });
  return list;
}

const colour = (place) => `label-${place % COLOURS}`;

function rationales(explanations, open) {
  const summary = make("summary", { text: "What the teacher wrote about the most similar training pairs" });
  const note = "Nearest neighbours of this item's latent: each is about another pair, and none is the model's own reason.";
  const whole = make("details", {}, summary, make("p", { classes: "hint", text: note }), ...explanations.map(rationale));
  whole.open = open;
  return whole;
}

function rationale({ perspective, similarity, rationale: text, verdict, about: pair }) {
  const place = about.labels.findIndex(({ name }) => name === verdict);
  const said = make("small", {}, make("span", { classes: `dot ${colour(Math.max(place, 0))}`, "aria-hidden": "true" }), verdict);
  const close = make("small", { classes: "quiet", text: `similarity ${similarity.toFixed(2)}` });
  const gold = pair.label ? `, labelled ${pair.label}` : "";
  return make(
    "article",
    { classes: "rationale" },
    make("h3", { text: plain(perspective) }, said, close),
    make("p", { text }),
    make("p", { classes: "hint", text: `about “${pair.query}” and “${pair.title}”${gold}` }),
  );
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("rank").disabled) rank();
});
$("key").addEventListener("change", load);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
load();
