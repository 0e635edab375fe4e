// The playground's page. Whatever comes from the server is shown by textContent alone: it never becomes HTML.
"use strict";

const MOST_EXCHANGES = 500;
const LONG_TEXT = 300; // characters of a string before it is folded
const LONG_LIST = 12; // entries of a list, or an object, before it is folded
const AT_ONCE = 200; // entries that are shown at a time
const INLINE = 60; // characters of a list, or an object, that stands in one line
const DEEPEST = 100;
const HIDDEN = "********";

const token = document.querySelector("meta[name=playground-token]").content;
const find = (id) => document.getElementById(id);
let state = { session: "", connection: "none" };
let functions = [];
let newest = 0;

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

// ------------------------------------------------------------------------------------------------------ asking

async function ask(path, body) {
  // Gives null, or {error, fields}.
  const request = { headers: { "x-playground-token": token } };
  if (body !== undefined) {
    request.method = "POST";
    request.headers["content-type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  try {
    const response = await fetch(path, request);
    const answer = await response.json();
    return response.ok ? { answer } : { error: answer.error, fields: answer.fields || {} };
  } catch {
    return { error: "The playground does not answer. Was it ended?", fields: {} };
  }
}

async function act(what, body, place) {
  // Asks for something, and shows at that place what went wrong. Gives whether it worked.
  const { error, fields } = await ask(`/do/${what}`, body);
  showErrors(place, error, fields || {});
  return !error;
}

function showErrors(place, error, fields) {
  for (const old of place.querySelectorAll(".field-error")) old.remove();
  for (const field of place.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    describe(field);
  }
  const rest = [];
  let first = null;
  for (const [name, what] of Object.entries(fields)) {
    const field = [...place.querySelectorAll("input, select, textarea")].find((each) => each.name === name);
    if (!field) rest.push(what);
    else {
      const told = make("p", { className: "field-error", id: `${field.id}-error`, textContent: what });
      field.setAttribute("aria-invalid", "true");
      field.after(told);
      describe(field, told.id);
      first ??= field;
    }
  }
  const line = place.matches(".form-error") ? place : place.querySelector(".form-error");
  line.textContent = error ? [error, ...rest].join(". ") : "";
  line.hidden = !error;
  first?.focus();
}

function describe(field, error = "") {
  const all = [field.dataset.hint, error].filter(Boolean).join(" ");
  if (all) field.setAttribute("aria-describedby", all);
  else field.removeAttribute("aria-describedby");
}

// ------------------------------------------------------------------------------------------------- what is there

function showState(told) {
  state = told;
  const words = { open: "Connected to", opening: "Connecting to", none: "Not connected to" };
  const line = find("state");
  line.dataset.connection = state.connection;
  line.textContent = `${words[state.connection]} ${state.server}`;
  showProblem(state.problem);
  find("connect").disabled = state.connection !== "none";
  find("disconnect").disabled = state.connection === "none";
  const whose = state.user === null ? "" : `, of ${state.user || "a guest"}`;
  const short = state.session.length > 16 ? `${state.session.slice(0, 12)}…` : state.session;
  find("session").textContent = state.session ? `${short}${whose}` : "none yet: shake hands first";
  find("session").title = state.session;
  find("version").textContent = state.version ? versionText(state.version) : "unknown";
  find("guest").disabled = state.version !== "" && !state.guest_allowed;
  for (const each of [...find("exchanges").children]) if (Number(each.dataset.number) <= state.cleared) each.remove();
  showNothing();
}

function versionText(json) {
  try {
    const parts = Object.entries(JSON.parse(json)).map(([name, numbers]) => `${name} ${numbers.join(".")}`);
    return parts.join(", ") || json;
  } catch {
    return json; // it may be anything
  }
}

function showProblem(what) {
  const problem = find("problem");
  if (problem.textContent !== what) problem.textContent = what;
  problem.hidden = !what;
}

function showNothing() {
  find("nothing").hidden = find("exchanges").childElementCount > 0;
}

// ------------------------------------------------------------------------------------------------------- calling

function showFunctions(told) {
  functions = told;
  const select = find("function");
  const before = select.value;
  const options = functions.map((each, number) => make("option", { value: String(number), textContent: each.fname }));
  select.replaceChildren(...options, make("option", { value: "", textContent: "Another function …" }));
  if ([...select.options].some((each) => each.value === before)) select.value = before;
  showForm();
}

function chosen() {
  const value = find("function").value;
  return value === "" ? null : functions[Number(value)];
}

function showForm() {
  const known = chosen();
  find("doc").textContent = known ? known.doc.split("\n\n")[0] : "Nothing is known of its arguments: give its name, and an object.";
  const fields = known ? known.arguments.map(argumentField) : [nameField()];
  if (!known || known.more) fields.push(moreField(known));
  find("arguments").replaceChildren(...fields);
  showErrors(find("call"), "", {});
}

function field(label, type, input, hint) {
  const name = make("label", { htmlFor: input.id, textContent: label });
  if (type) name.append(" ", make("span", { className: "type", textContent: type }));
  const all = make("div", { className: "field" }, name, input);
  if (hint) {
    input.dataset.hint = `${input.id}-hint`;
    all.append(make("p", { className: "hint", id: input.dataset.hint, textContent: hint }));
    describe(input);
  }
  return all;
}

function argumentField(argument, number) {
  const id = `argument-${number}`;
  const type = [argument.type, argument.needed ? "needed" : "optional"].filter(Boolean).join(", ");
  let input;
  if (argument.type === "bool") {
    input = make("select", { id });
    const otherwise = argument.needed ? "choose …" : `not given${argument.default ? ` (${argument.default})` : ""}`;
    input.append(make("option", { value: "", textContent: otherwise }));
    for (const value of ["true", "false"]) input.append(make("option", { value, textContent: value }));
  } else if (["str", "int", "float"].includes(argument.type)) {
    input = make("input", { id, spellcheck: false, autocapitalize: "none" });
    if (argument.type !== "str") input.inputMode = "text";
  } else {
    input = make("textarea", { id, rows: 1, spellcheck: false });
  }
  input.name = argument.name;
  input.dataset.argument = "yes";
  if (argument.needed) input.required = true;
  if (argument.default !== null && argument.type !== "bool") input.placeholder = argument.default;
  const json = !["str", "int", "float", "bool"].includes(argument.type);
  return field(argument.name, type, input, json ? "In JSON: text needs quotes." : "");
}

function nameField() {
  return field("Name", "needed", make("input", { id: "free-name", name: "fname", spellcheck: false, autocapitalize: "none" }));
}

function moreField(known) {
  const input = make("textarea", { id: "more", name: "more", rows: 3, spellcheck: false, placeholder: "{}" });
  return field(known ? "More arguments" : "Arguments", "optional", input, 'A JSON object, as in {"a": 1}');
}

async function call() {
  const known = chosen();
  const form = find("call");
  const body = { fname: known ? known.fname : find("free-name").value, free: !known, more: find("more")?.value ?? "" };
  body.arguments = Object.fromEntries([...form.querySelectorAll("[data-argument]")].map((each) => [each.name, each.value]));
  await act("call", body, form);
}

// ---------------------------------------------------------------------------------------------------- exchanges

const WORDS = { sent: "→ sent", received: "← received", note: "note" };

function showExchange(exchange) {
  if (exchange.number <= newest) return; // it was fetched again
  newest = exchange.number;
  const list = find("exchanges");
  list.prepend(exchangeItem(exchange));
  while (list.childElementCount > MOST_EXCHANGES) list.lastElementChild.remove();
  showNothing();
  announce(exchange);
}

function announce(exchange) {
  const what = { sent: "Sent a message", received: "Received a message", note: exchange.text }[exchange.direction];
  find("status").textContent = exchange.error ? `Error: ${exchange.error}` : `${what} (number ${exchange.number})`;
}

function exchangeItem(exchange) {
  const item = make("li", { className: `exchange ${exchange.direction}${exchange.error ? " failed" : ""}` });
  item.dataset.number = exchange.number;
  item.append(exchangeHead(exchange));
  if (exchange.direction === "note") {
    item.append(make("p", { className: "what", textContent: exchange.text }));
    return item;
  }
  if (exchange.error) item.append(make("p", { className: "what", textContent: `Error ${exchange.error}` }));
  const content = make("div", { className: "json" });
  item.append(content);
  showText(content, exchange);
  return item;
}

function exchangeHead(exchange) {
  const when = new Date(exchange.time * 1000);
  const clock = `${when.toTimeString().slice(0, 8)}.${String(when.getMilliseconds()).padStart(3, "0")}`;
  const head = make("div", { className: "exchange-head" });
  head.append(make("span", { className: "direction", textContent: WORDS[exchange.direction] }));
  head.append(make("span", { textContent: `#${exchange.number}` }));
  head.append(make("time", { dateTime: when.toISOString(), title: when.toString(), textContent: clock }));
  if (exchange.packed) {
    head.append(make("span", { textContent: `${bytes(exchange.packed)} packed, ${bytes(exchange.unpacked)} unpacked` }));
  }
  if (exchange.after !== null) head.append(make("span", { textContent: `after ${(exchange.after * 1000).toFixed(1)} ms` }));
  if (exchange.direction !== "note") head.append(exchangeButtons(exchange));
  return head;
}

function bytes(count) {
  if (count < 10000) return `${count} B`;
  return count < 10000000 ? `${(count / 1024).toFixed(1)} KiB` : `${(count / 1048576).toFixed(1)} MiB`;
}

function exchangeButtons(exchange) {
  const row = make("span", { className: "tools" });
  const add = (text, action) => {
    const button = make("button", { type: "button", textContent: text });
    button.setAttribute("aria-label", `${text}: number ${exchange.number}`);
    button.addEventListener("click", () => action(exchange));
    row.append(button);
  };
  if (exchange.direction === "sent") add("Edit and send again", editAgain);
  add("Copy", copy);
  return row;
}

async function copy(exchange) {
  const text = await wholeText(exchange);
  if (text === null) return;
  try {
    await navigator.clipboard.writeText(text);
    find("status").textContent = `Copied number ${exchange.number}`;
  } catch {
    find("status").textContent = "The browser does not allow to copy";
  }
}

async function wholeText(exchange) {
  if (exchange.text.length >= exchange.length) return exchange.text;
  const { answer, error } = await ask(`/exchanges/${exchange.number}`);
  if (error) find("status").textContent = error;
  return error ? null : answer.text;
}

async function editAgain(exchange) {
  const text = await wholeText(exchange);
  if (text === null) return;
  const area = find("text");
  find("whole").open = true;
  area.value = text;
  const hidden = text.includes(`"password": "${HIDDEN}"`);
  const hint = `Number ${exchange.number}, to be changed and sent.${hidden ? " Its password is hidden: type it again." : ""}`;
  find("text-hint").textContent = hint;
  showErrors(find("message"), "", {});
  area.focus();
  area.scrollIntoView({ block: "center" });
}

function fillSession() {
  const area = find("text");
  // In the text itself, since numbers would suffer from being parsed here.
  area.value = area.value.replace(/^(\s{0,2}\{?\s*"session"\s*:\s*)"(?:[^"\\]|\\.)*"/m, (_, key) => key + JSON.stringify(state.session));
  area.focus();
}

// --------------------------------------------------------------------------------------------------------- JSON

function showText(place, exchange) {
  place.replaceChildren();
  if (exchange.text.length < exchange.length) {
    const more = make("button", { type: "button", textContent: `Show all ${exchange.length.toLocaleString("en")} characters` });
    more.addEventListener("click", async () => {
      const text = await wholeText(exchange);
      if (text === null) more.replaceWith("The rest is not kept any more.");
      else showText(place, { ...exchange, text });
    });
    place.append(make("div", { textContent: `${exchange.text.slice(0, 2000)} …` }), more);
    return;
  }
  try {
    place.append(...shownValue(parse(exchange.text)));
  } catch {
    place.append(...shownString(exchange.text, "wrong"));
  }
}

function parse(text) {
  // JSON as a tree of {kind, text} and {kind, entries: [key, value]}. Numbers stay as they were written.
  const tokens = /\s*(?:([{}[\],:])|("(?:[^"\\]|\\.)*")|(-?\d[\d.eE+-]*)|(true|false|null))/y;
  let token;
  const next = () => {
    token = tokens.exec(text);
    if (!token) throw new SyntaxError("no JSON");
    return token;
  };
  const value = (depth) => {
    if (depth > DEEPEST) throw new SyntaxError("nested too deeply");
    const [, sign, string, number, word] = token;
    if (string) return { kind: "string", text: string };
    if (number) return { kind: "number", text: number };
    if (word) return { kind: "word", text: word };
    if (sign !== "{" && sign !== "[") throw new SyntaxError("no JSON");
    return entries(sign, depth);
  };
  const entries = (sign, depth) => {
    const found = [];
    const last = sign === "{" ? "}" : "]";
    if (next()[1] === last) return { kind: sign, entries: found };
    for (;;) {
      let key = "";
      if (sign === "{") {
        key = token[2];
        next();
        next();
      }
      found.push([key, value(depth + 1)]);
      if (next()[1] === last) return { kind: sign, entries: found };
      next();
    }
  };
  next();
  const tree = value(0);
  if (text.slice(tokens.lastIndex).trim()) throw new SyntaxError("more than JSON");
  return tree;
}

function plain(node, room) {
  // The value in one line; null if it is longer than the room.
  if (!node.entries) return node.text.length <= room ? node.text : null;
  if (node.entries.length > room) return null;
  const parts = [];
  for (const [key, value] of node.entries) {
    const part = plain(value, room);
    if (part === null) return null;
    parts.push(key ? `${key}: ${part}` : part);
    room -= part.length + key.length + 2;
    if (room < 0) return null;
  }
  return node.kind === "{" ? `{${parts.join(", ")}}` : `[${parts.join(", ")}]`;
}

function shownValue(node, before = [], after = "") {
  // The lines of a value; before is what stands in front of it, in its first line.
  if (!node.entries) return [make("div", {}, ...before, ...shownLeaf(node), after)];
  if (node.entries.length === 0 || (before.length && plain(node, INLINE) !== null && node.entries.every(([, each]) => !each.entries))) {
    return [make("div", {}, ...before, ...shownInline(node), after)];
  }
  const last = (node.kind === "{" ? "}" : "]") + after;
  const inside = make("div", { className: "inside" });
  if (node.entries.length <= LONG_LIST || !before.length) {
    showEntries(inside, node, 0);
    return [make("div", {}, ...before, node.kind), inside, make("div", { textContent: last })];
  }
  return [folded(node, before, inside, last)];
}

function folded(node, before, inside, last) {
  const rest = make("span", { className: "rest", textContent: ` … ${node.entries.length} entries ${last}` });
  const summary = make("summary", {}, ...before, node.kind, rest);
  const all = make("details", {}, summary, inside, make("div", { textContent: last }));
  all.addEventListener("toggle", () => {
    if (!inside.childElementCount) showEntries(inside, node, 0);
  });
  return all;
}

function showEntries(inside, node, start) {
  const end = Math.min(start + AT_ONCE, node.entries.length);
  for (let number = start; number < end; number++) {
    const [key, value] = node.entries[number];
    const comma = number + 1 < node.entries.length ? "," : "";
    const before = key ? [make("span", { className: "key", textContent: key }), ": "] : [""];
    inside.append(...shownValue(value, before, comma));
  }
  if (end < node.entries.length) {
    const more = make("button", { type: "button", textContent: `${node.entries.length - end} more` });
    more.addEventListener("click", () => {
      more.remove();
      showEntries(inside, node, end);
    });
    inside.append(more);
  }
}

function shownInline(node) {
  const parts = [node.kind];
  node.entries.forEach(([key, value], number) => {
    if (number) parts.push(", ");
    if (key) parts.push(make("span", { className: "key", textContent: key }), ": ");
    parts.push(...shownLeaf(value));
  });
  return [...parts, node.kind === "{" ? "}" : "]"];
}

function shownLeaf(node) {
  return node.kind === "string" ? shownString(node.text, "string") : [make("span", { className: node.kind, textContent: node.text })];
}

function shownString(text, kind) {
  if (text.length <= LONG_TEXT) return [make("span", { className: kind, textContent: text })];
  const begin = make("span", { className: kind, textContent: `${text.slice(0, LONG_TEXT - 100)}…` });
  const more = make("button", { type: "button", textContent: `${text.length.toLocaleString("en")} characters` });
  more.addEventListener("click", () => {
    begin.textContent = text;
    more.remove();
  });
  return [begin, " ", more];
}

// ------------------------------------------------------------------------------------------------------ commands

const QUESTIONS = {
  serverquit: ["Quit the server?", "It ends, for everybody who is connected. Only a user may ask for that.", "Quit the server"],
  serverrestart: ["Restart the server?", "Everybody is disconnected, and all sessions end. Only a user may ask for that.", "Restart the server"],
};

function confirmed(command) {
  const [title, text, yes] = QUESTIONS[command];
  const dialog = find("confirm");
  find("confirm-title").textContent = title;
  find("confirm-text").textContent = `${text} The server: ${state.server}.`;
  find("confirm-yes").textContent = yes;
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

async function command(word) {
  if (word in QUESTIONS && !(await confirmed(word))) return;
  await act("command", { command: word }, find("session-error"));
}

// -------------------------------------------------------------------------------------------------------- begin

function onSubmit(id, action) {
  const form = find(id);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button:not([type=button])");
    if (button.getAttribute("aria-disabled")) return; // once is enough
    button.setAttribute("aria-disabled", "true");
    await action(form);
    button.removeAttribute("aria-disabled");
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

function onClick(id, action) {
  find(id).addEventListener("click", action);
}

onSubmit("login", async (form) => {
  const user = find("user").value;
  if (!user) showErrors(form, "Please look at what was typed", { user: "The user’s name is missing" });
  else if (await act("handshake", { user, password: find("password").value }, form)) find("password").value = "";
});
onSubmit("use-session", (form) => act("session", { session: find("session-id").value.trim() }, form));
onSubmit("call", call);
onSubmit("message", (form) => act("send", { text: find("text").value }, form));
onClick("connect", () => act("connect", {}, find("session-error")));
onClick("disconnect", () => act("disconnect", {}, find("session-error")));
onClick("guest", () => act("handshake", {}, find("login")));
onClick("ask-functions", () => act("functions", {}, find("call")));
onClick("fill-session", fillSession);
onClick("clear", () => act("clear", {}, find("session-error")));
onClick("confirm-no", () => find("confirm").close());
onClick("confirm-yes", () => find("confirm").close("yes"));
find("function").addEventListener("change", showForm);
find("only-errors").addEventListener("change", (event) => find("exchanges").classList.toggle("only-errors", event.target.checked));
for (const button of find("commands").children) button.addEventListener("click", () => command(button.dataset.command));
find("text").value = '{\n  "session": "",\n  "name": "playground",\n  "data": {}\n}';
showFunctions([]);

const events = new EventSource(`/events?token=${encodeURIComponent(token)}`);
events.addEventListener("state", (event) => showState(JSON.parse(event.data)));
events.addEventListener("functions", (event) => showFunctions(JSON.parse(event.data)));
events.addEventListener("exchange", (event) => showExchange(JSON.parse(event.data)));
events.addEventListener("end", ended);
events.addEventListener("error", () => {
  if (events.readyState === EventSource.CLOSED) ended(); // it was refused: this is another playground, or one page too many
  else notLive("The playground does not answer; this page tries again.");
});

function ended() {
  events.close();
  notLive("This page is not live any more: the playground was ended. Start it again, and reload this page.");
}

function notLive(why) {
  find("state").dataset.connection = "none";
  find("state").textContent = "Not live";
  showProblem(why);
}
