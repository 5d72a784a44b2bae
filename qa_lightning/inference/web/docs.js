"use strict";

function element(tag, ...content) {
  const made = document.createElement(tag);
  made.append(...content);
  return made;
}

/* A schema in words, such as "number or null" or "list of Candidate". */
function kind(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.type === "array") return schema.items ? `list of ${kind(schema.items)}` : "list";
  return schema.type ?? "anything";
}

function remarks(name, field, required) {
  const told = [];
  if (field.description) told.push(field.description);
  if (field.minimum !== undefined) told.push(`At least ${field.minimum}.`);
  if (field.maximum !== undefined) told.push(`At most ${field.maximum}.`);
  if (field.default !== undefined && field.default !== null) told.push(`Default: ${field.default}.`);
  if (required && !required.includes(name)) told.push("May be left out.");
  return told.join(" ");
}

/* The fields of an object; of a request, also which may be left out. */
function fields(schema, required) {
  const table = element("table", element("tr", element("th", "Field"), element("th", "Type"), element("th", "")));
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const told = remarks(name, field, required);
    table.append(
      element("tr", element("td", element("code", name)), element("td", kind(field)), element("td", told)),
    );
  }
  const wide = element("div", table);
  wide.className = "wide";
  return wide;
}

function text(content) {
  const paragraph = element("p", content);
  paragraph.className = "text";
  return paragraph;
}

function example(path, schema) {
  const value = {};
  for (const [name, field] of Object.entries(schema.properties)) {
    if (field.examples) value[name] = field.examples[0];
  }
  const body = JSON.stringify(value).replaceAll("'", "'\\''");
  const address = new URL(path.slice(1), document.baseURI);
  return element("pre", `curl ${address} \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`);
}

function operation(path, method, described) {
  const article = element("article", element("h2", element("code", `${method.toUpperCase()} ${path}`)));
  article.append(text(described.summary));
  const request = described.requestBody?.content["application/json"].schema;
  if (request) {
    article.append(element("h3", "Send"), fields(request, request.required ?? []), example(path, request));
  }
  article.append(element("h3", "Comes back"));
  const table = element("table", element("tr", element("th", "Status"), element("th", ""), element("th", "JSON")));
  for (const [status, response] of Object.entries(described.responses)) {
    const schema = response.content?.["application/json"]?.schema;
    const cells = [status, response.description, schema ? kind(schema) : ""];
    table.append(element("tr", ...cells.map((cell) => element("td", cell))));
  }
  article.append(table);
  return article;
}

async function draw() {
  const api = await (await fetch("openapi.json")).json();
  const main = document.getElementById("main");
  main.append(text(api.info.description));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, described] of Object.entries(methods)) {
      main.append(operation(path, method, described));
    }
  }
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    const article = element("article", element("h2", name), text(schema.description ?? ""));
    article.append(fields(schema));
    main.append(article);
  }
}

draw();
