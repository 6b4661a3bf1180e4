// The page of the inspector. What comes from the wire becomes text and never markup: elements are made by
// `element`, which knows no other way.

// What is kept behind the `#` is in no request. It stays in this tab, of this port, and goes from view.
const STORED = "devroute-inspector-token";
if (location.hash.length > 1) {
  sessionStorage.setItem(STORED, location.hash.slice(1));
  history.replaceState(null, "", "/");
}
const token = sessionStorage.getItem(STORED) ?? "";

const at = (id) => document.getElementById(id);
const [list, detail, search, live, toast] = ["list", "detail", "search", "live", "toast"].map(at);

/** The summaries by their numbers, the oldest first. */
const exchanges = new Map();
/** Which of them the search has found; null where nothing is looked for. */
let found = null;
let chosen = null;
let revealed = false;
/** The number of the request that was asked for last, so that a slow answer does not replace it. */
let asked = 0;

// Elements.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") made.addEventListener(value[0], value[1]);
    else if (key === "class") made.className = value;
    else if (typeof value === "boolean") made.toggleAttribute(key, value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const span = (kind, text) => element("span", { class: kind }, text);

function bytes(count) {
  if (count < 1000) return `${count} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let [size, unit] = [count / 1000, 0];
  while (size >= 1000 && unit < units.length - 1) [size, unit] = [size / 1000, unit + 1];
  return `${size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

function time(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(2)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

const clock = (ms) => new Date(ms).toLocaleTimeString(undefined, { hour12: false });

/** A status in one word, and how good it is. */
function verdict(it) {
  if (it.state === "failed") return ["failed", "worse"];
  if (it.state === "abandoned") return ["gone", "bad"];
  if (it.status === null) return ["…", ""];
  if (it.grpc_status && it.grpc_status !== "0") return [`grpc ${it.grpc_status}`, "worse"];
  if (it.state === "cut") return [`${it.status} cut`, "worse"];
  const kinds = { 1: "moved", 2: "good", 3: "moved", 4: "bad", 5: "worse" };
  return [String(it.status), kinds[Math.floor(it.status / 100)] ?? ""];
}

// Asking.

async function ask(path, method = "GET", signal) {
  const answer = await fetch(`/api/${path}`, { method, signal, headers: { "x-devroute-token": token } });
  if (answer.status === 403) throw new Error("open the page at the address that `devroute connect` printed");
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail ?? `status ${answer.status}`);
  }
  return answer;
}

let toasting;
function say(text) {
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(toasting);
  toasting = setTimeout(() => { toast.hidden = true; }, 5000);
}

const trying = (act) => async (...given) => {
  try {
    await act(...given);
  } catch (error) {
    say(error.message);
  }
};

// What happens, as it does. An EventSource could not send the token.

async function listen() {
  for (;;) {
    try {
      const answer = await ask("events");
      live.textContent = "recording";
      live.classList.add("is-on");
      await read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch (error) {
      live.textContent = token === "" ? "no token" : "not connected";
      if (!(error instanceof TypeError)) say(error.message);
    }
    live.classList.remove("is-on");
    if (live.textContent === "recording") live.textContent = "not connected";
    if (token === "") return;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function read(reader) {
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const event = /^event: (\w+)\ndata: (.*)$/.exec(text.slice(0, end));
      text = text.slice(end + 2);
      if (event) happened(event[1], JSON.parse(event[2]));
    }
  }
}

function happened(kind, data) {
  if (kind === "all") {
    exchanges.clear();
    list.replaceChildren();
    for (const it of data) put(it);
    if (chosen !== null && !exchanges.has(chosen)) choose(null);
  } else if (kind === "one") {
    put(data, true);
  } else if (kind === "gone") {
    for (const id of exchanges.keys()) {
      if (id > data) break;
      exchanges.delete(id);
      rowOf(id)?.remove();
      if (id === chosen) choose(null);
    }
  }
  showWhetherEmpty();
}

// The list.

const rowOf = (id) => at(`exchange-${id}`);
const isShown = (id) => found === null || found.has(id);
/** The newest first, as they are on the page. */
const shown = () => [...exchanges.keys()].filter(isShown).reverse();

function put(it, isNews = false) {
  const isNew = !exchanges.has(it.id);
  exchanges.set(it.id, it);
  const row = rowFor(it);
  if (isNew && isNews) row.classList.add("is-new");
  const old = rowOf(it.id);
  if (old) old.replaceWith(row);
  else list.prepend(row);
  row.hidden = !isShown(it.id);
  if (found !== null && isNews) searchSoon();
  if (it.id === chosen && isNews) showSoon();
}

function rowFor(it) {
  const [word, kind] = verdict(it);
  return element(
    "li",
    {
      id: `exchange-${it.id}`,
      class: "row",
      role: "option",
      "aria-selected": String(it.id === chosen),
      on: ["click", () => choose(it.id)],
    },
    span("method", it.method),
    element(
      "span",
      {},
      element("div", { class: "path", title: it.path }, it.path),
      element(
        "div",
        { class: "beside" },
        span("", it.service),
        it.caller === null ? null : span("caller", `from ${it.caller}`),
        it.started === null ? null : span("", clock(it.started)),
        span("", bytes(it.response_bytes)),
        it.replay_of === null ? null : span("", `replay of ${it.replay_of}`),
      ),
    ),
    element("span", {}, span(`pill ${kind}`, word)),
    span("time", time(it.end_ms ?? it.head_ms)),
  );
}

function showWhetherEmpty() {
  const isEmpty = shown().length === 0;
  at("empty").hidden = !isEmpty;
  const isSearch = found !== null && exchanges.size > 0;
  at("empty-title").firstChild.textContent = isSearch ? "Nothing found" : "No requests yet";
  at("empty-text").textContent = isSearch
    ? "No path, field or body that was kept has this in it. Masked values are not looked at."
    : "What your application gets from now on appears here. Nothing is recorded while this page is closed.";
}

function choose(id) {
  if (chosen !== id) revealed = false;
  if (chosen !== null) rowOf(chosen)?.setAttribute("aria-selected", "false");
  chosen = id;
  if (id === null) {
    list.removeAttribute("aria-activedescendant");
    detail.replaceChildren(nothing);
    return;
  }
  const row = rowOf(id);
  row.setAttribute("aria-selected", "true");
  row.scrollIntoView({ block: "nearest" });
  list.setAttribute("aria-activedescendant", row.id);
  detail.scrollTop = 0;
  show();
}

function step(by) {
  const ids = shown();
  const place = ids.indexOf(chosen);
  const next = place < 0 ? 0 : Math.min(Math.max(place + by, 0), ids.length - 1);
  if (ids.length > 0) choose(ids[next]);
}

// One of them.

const nothing = at("nothing");

let showing = false;
/** Soon: bodies that grow tell of it often. */
function showSoon() {
  if (showing) return;
  showing = true;
  setTimeout(() => { showing = false; if (chosen !== null) show(); }, 150);
}

const show = trying(async () => {
  const [id, number] = [chosen, ++asked];
  const answer = await ask(`exchanges/${id}?reveal=${revealed}`);
  const whole = await answer.json();
  if (number !== asked || id !== chosen) return;
  const [top, focused] = [detail.scrollTop, document.activeElement?.dataset?.action];
  detail.replaceChildren(...view(whole));
  detail.scrollTop = top;
  if (focused) detail.querySelector(`[data-action="${focused}"]`)?.focus();
});

function view(whole) {
  const it = whole.summary;
  const [word, kind] = verdict(it);
  const secret = [whole.request, whole.response].some((side) =>
    [...(side?.fields ?? []), ...(side?.body.trailers ?? [])].some((field) => field.secret));
  return [
    element(
      "div",
      { class: "head" },
      element(
        "div",
        { class: "what" },
        element("h2", {}, span("method", it.method), " ", it.path),
        element(
          "p",
          { class: "facts" },
          span(`pill ${kind}`, it.reason && kind !== "worse" ? `${word} ${it.reason}` : word),
          span("", `#${it.id}`),
          span("", it.service),
          it.caller === null ? null : span("", `from ${it.caller}`),
          span("", it.version),
          it.started === null ? null : span("", new Date(it.started).toLocaleString()),
          it.replay_of === null ? null : span("pill accent", `replay of #${it.replay_of}`),
        ),
      ),
      element(
        "div",
        { class: "actions" },
        action("replay", "Replay", replay, { class: "primary", disabled: !it.replayable, "aria-keyshortcuts": "r" }),
        action("curl", "Copy as curl", () => copyCurl(whole)),
        secret
          ? action("reveal", revealed ? "Mask secrets" : "Show secrets", () => { revealed = !revealed; show(); }, {
              "aria-pressed": String(revealed),
            })
          : null,
      ),
    ),
    it.error ? element("p", { class: "notice worse" }, `There was no answer: ${it.error}`) : null,
    it.state === "abandoned"
      ? element("p", { class: "notice" }, "Whoever asked went away before there was an answer.")
      : null,
    it.request_truncated
      ? element("p", { class: "notice" }, `The request's body is longer than what was kept: a replay sends the first ${bytes(whole.request.body.kept)} of ${bytes(whole.request.body.total)}.`)
      : null,
    whole.why_not_replayed && it.end_ms !== null
      ? element("p", { class: "notice" }, `It cannot be sent again: ${whole.why_not_replayed}.`)
      : null,
    times(whole),
    side("Request", whole.request, it.version),
    whole.response ? side("Response", whole.response, whole.response.version) : null,
  ].filter((child) => child !== null);
}

function action(name, text, act, more = {}) {
  return element("button", { type: "button", "data-action": name, on: ["click", trying(act)], ...more }, text);
}

function times(whole) {
  const it = whole.summary;
  const end = it.end_ms ?? it.head_ms;
  if (end === null) return null;
  const sent = whole.request.body.progress.after_ms;
  const track = element("div", { class: "track", "aria-hidden": "true" });
  const part = (kind, from, to) => {
    const bar = element("i", { class: kind });
    bar.style.left = `${(100 * from) / Math.max(end, 0.001)}%`;
    bar.style.width = `${(100 * (to - from)) / Math.max(end, 0.001)}%`;
    track.append(bar);
  };
  if (it.head_ms === null) {
    part("waiting", 0, end);
  } else {
    part("waiting", 0, it.head_ms);
    if (it.end_ms !== null) part("receiving", it.head_ms, it.end_ms);
  }
  const fact = (kind, name, ms) =>
    ms === null ? null : element("div", {}, element("dt", { class: kind }, name), element("dd", {}, time(ms)));
  return element(
    "section",
    { class: "card", "aria-label": "Times" },
    element("h3", {}, "Times", span("beside", it.end_ms === null ? "still open" : `${time(it.end_ms)} in all`)),
    element(
      "div",
      { class: "times" },
      track,
      element(
        "dl",
        {},
        fact("key", "until the answer began", it.head_ms ?? it.end_ms),
        fact("key receiving", "until its end", it.head_ms === null || it.end_ms === null ? null : it.end_ms - it.head_ms),
        fact("", "request's body read after", sent),
      ),
    ),
  );
}

function side(title, side, version) {
  const { body } = side;
  return element(
    "section",
    { class: "card", "aria-label": title },
    element("h3", {}, title, span("beside", version)),
    side.fields.length > 0 ? fields(side.fields, `Fields of the ${title.toLowerCase()}`) : null,
    ...content(body, title),
    body.trailers ? element("h4", {}, "Trailers") : null,
    body.trailers ? fields(body.trailers, `Trailers of the ${title.toLowerCase()}`) : null,
  );
}

function fields(fields, caption) {
  return element(
    "table",
    {},
    element("caption", { class: "unseen" }, caption),
    element(
      "tbody",
      {},
      ...fields.map((field) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, field.name),
          field.value === null
            ? element("td", { class: "masked" }, `masked, ${field.bytes} bytes`)
            : element("td", {}, field.value),
        )),
    ),
  );
}

function content(body, title) {
  const ends = {
    open: "still coming",
    cut: `broke off: ${body.progress.reason}`,
    dropped: "not read to its end",
  };
  const notes = [
    bytes(body.total),
    body.content_type,
    body.truncated ? `the first ${bytes(body.kept)} were kept` : null,
    body.note,
    ends[body.progress.state] ?? null,
  ].filter((note) => note);
  if (body.kind === "empty" && body.total === 0 && body.progress.state !== "cut") {
    return [element("p", { class: "none" }, body.progress.state === "open" ? "No body yet." : "No body.")];
  }
  const heading = element("h4", {}, "Body", span("", notes.join(" · ")));
  const label = `Body of the ${title.toLowerCase()}`;
  // Whatever scrolls can be reached by keys.
  const pre = (kind, name, ...children) =>
    element("pre", { class: kind, tabindex: "0", role: "region", "aria-label": name }, ...children);
  switch (body.kind) {
    case "json":
      return [heading, pre("json", label, ...coloured(body.text))];
    case "text":
      return [heading, pre("", label, body.text)];
    case "bytes":
      return [heading, pre("bytes", label, body.text), body.cut ? more("Only the first 16 KiB are shown.") : null];
    case "grpc":
      return [
        heading,
        ...body.messages.flatMap((message, index) => [
          element("h4", {}, `Message ${index + 1}`, span("", [
            `${message.length} bytes`,
            message.compressed ? "compressed" : null,
            message.complete ? null : "cut",
          ].filter((note) => note).join(" · "))),
          message.length > 0 ? pre("bytes", `Message ${index + 1} of the ${title.toLowerCase()}`, message.text) : null,
        ]),
        body.rest ? pre("bytes", `Rest of the ${title.toLowerCase()}`, body.rest) : null,
        body.cut ? more("There are more messages.") : null,
      ];
    default:
      return [heading];
  }
}

const more = (text) => element("p", { class: "none" }, text);

/** JSON in colours, as nodes; a very long one stays plain. */
function coloured(text) {
  if (text.length > 200_000) return [text];
  const nodes = [];
  const token = /("(?:[^"\\]|\\.)*")(\s*:)?|-?\d[\d.eE+-]*|\b(?:true|false|null)\b/g;
  let last = 0;
  for (const match of text.matchAll(token)) {
    nodes.push(text.slice(last, match.index));
    last = match.index + match[0].length;
    if (match[1]) {
      nodes.push(span(match[2] ? "name" : "string", match[1]), match[2] ?? "");
    } else {
      nodes.push(span(/^[tfn]/.test(match[0]) ? "word" : "number", match[0]));
    }
  }
  nodes.push(text.slice(last));
  return nodes;
}

// What can be done.

async function replay() {
  const it = exchanges.get(chosen);
  if (!it?.replayable) return;
  const partial = it.request_truncated;
  if (partial && !confirm("Its body is longer than what was kept. Send the part that was?")) return;
  const answer = await ask(`exchanges/${it.id}/replay?partial=${partial}`, "POST");
  const { id } = await answer.json();
  // It may be told before or after this.
  for (let tries = 0; tries < 50 && !exchanges.has(id); tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  if (exchanges.has(id)) choose(id);
  say(`#${it.id} was sent again, as #${id}.`);
}

async function copyCurl(whole) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const it = whole.summary;
  const host = whole.request.fields.find((field) => field.name === "host")?.value ?? "127.0.0.1";
  const words = ["curl", "-X", quoted(it.method)];
  for (const field of whole.request.fields) {
    if (["host", "content-length", "transfer-encoding", "connection"].includes(field.name)) continue;
    words.push("-H", quoted(`${field.name}: ${field.value ?? "MASKED"}`));
  }
  const { body } = whole.request;
  if (["json", "text"].includes(body.kind)) words.push("--data-raw", quoted(body.text));
  words.push(quoted(`http://${host}${it.path}`));
  await navigator.clipboard.writeText(words.join(" "));
  say("Copied. Masked values are not in it.");
}

// Searching.

let searching;
function searchSoon() {
  clearTimeout(searching);
  searching = setTimeout(trying(searchNow), 120);
}

async function searchNow() {
  const text = search.value.trim();
  if (text === "") {
    found = null;
  } else {
    const answer = await ask(`search?q=${encodeURIComponent(text)}`);
    const { ids } = await answer.json();
    if (text !== search.value.trim()) return;
    found = new Set(ids);
  }
  for (const id of exchanges.keys()) rowOf(id).hidden = !isShown(id);
  showWhetherEmpty();
}

search.addEventListener("input", searchSoon);
at("clear").addEventListener("click", trying(() => ask("clear", "POST")));

// Keys.

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target === search;
  const isOnButton = event.target instanceof HTMLButtonElement;
  const act = {
    "/": isTyping ? null : () => search.focus(),
    Escape: () => back(isTyping),
    ArrowDown: isTyping || event.target === list || event.target === document.body ? () => { list.focus(); step(1); } : null,
    ArrowUp: event.target === list || event.target === document.body ? () => step(-1) : null,
    Home: event.target === list ? () => step(-Infinity) : null,
    End: event.target === list ? () => step(Infinity) : null,
    Enter: isOnButton ? null : event.target === list ? () => { if (chosen === null) step(0); else detail.focus(); } : isTyping ? () => { list.focus(); step(0); } : null,
    r: isTyping ? null : trying(replay),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

function back(isTyping) {
  if (isTyping && search.value !== "") {
    search.value = "";
    searchSoon();
  } else {
    list.focus();
  }
}

showWhetherEmpty();
listen();
