// Shows openapi.json as a page, without anything from elsewhere.

import { make } from "./make.js";

// Markdown's `code`, which descriptions have.
const marked = (text) => text.split("`").map((part, n) => (n % 2 ? make("code", { text: part }) : part));

const last = (reference) => reference.split("/").at(-1);

function kind(schema) {
  if (schema.$ref) return last(schema.$ref);
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.type === "array") return `list of ${kind(schema.items)}${range(schema.minItems, schema.maxItems)}`;
  const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type ?? "";
  const longest = schema.maxLength ? `, at most ${schema.maxLength.toLocaleString("en")} characters` : "";
  return `${type}${longest}${range(schema.minimum, schema.maximum)}`;
}

const range = (from, to) => (to === undefined ? "" : ` (${from ?? 0} to ${to.toLocaleString("en")})`);

function rows(entries, heading) {
  const head = make("tr", {}, ...heading.map((text) => make("th", { text, scope: "col" })));
  const body = entries.map(([first, ...others]) =>
    make("tr", {}, make("th", { scope: "row" }, make("code", { text: first })), ...others.map((text) => make("td", {}, ...marked(text)))),
  );
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

function curl(method, path, operation) {
  const lines = [`curl ${new URL(`.${path}`, location.href)}`];
  if (operation.security) lines.push("-H 'Authorization: Bearer KEY'");
  const example = operation.requestBody?.content["application/json"].example;
  if (example) {
    lines.push("-H 'Content-Type: application/json'");
    lines.push(`-d '${JSON.stringify(example, null, 2).replaceAll("'", "'\\''")}'`);
  }
  return lines.join(" \\\n  ");
}

function operation(method, path, described) {
  const title = make("h2", {}, make("span", { classes: "method", text: method.toUpperCase() }), make("code", { text: path }));
  const whole = make("section", { classes: "card" }, title, make("p", { text: described.summary }));
  const body = described.requestBody?.content["application/json"].schema;
  if (body) whole.append(make("p", { classes: "hint", text: `The body is a ${kind(body)}.` }));
  whole.append(make("pre", { text: curl(method, path, described), tabindex: "0" }));
  const answers = Object.entries(described.responses).map(([status, answer]) => [
    status,
    answer.description,
    Object.values(answer.content).map(({ schema }) => (schema ? kind(schema) : "")).join(""),
  ]);
  whole.append(rows(answers, ["Status", "When", "Body"]));
  return whole;
}

function schema(name, described) {
  const required = described.required ?? [];
  const entries = Object.entries(described.properties).map(([property, value]) => [
    property,
    value.properties ? `object: ${Object.keys(value.properties).join(", ")}` : kind(value),
    [required.includes(property) ? "required" : "", value.description ?? ""].filter(Boolean).join("; "),
  ]);
  const whole = make("section", { classes: "card" }, make("h2", { text: name }));
  if (described.description) whole.append(make("p", { text: described.description }));
  whole.append(rows(entries, ["Key", "Value", ""]));
  return whole;
}

async function load() {
  const api = await (await fetch("openapi.json")).json();
  const lead = make("section", {}, make("h1", { text: `API of lrkd ${api.info.version}` }), make("p", { classes: "lead" }, ...marked(api.info.description)));
  const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, described]) => operation(method, path, described)),
  );
  const schemas = Object.entries(api.components.schemas).map(([name, described]) => schema(name, described));
  document.getElementById("api").replaceChildren(lead, ...operations, ...schemas);
}

load().catch((error) => {
  document.getElementById("api").replaceChildren(make("p", { classes: "wrong", text: `openapi.json could not be read: ${error.message}` }));
});
