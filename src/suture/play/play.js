// The live page: a text, what fires on it, sliders, and what the models write under them.
//
// All that a reader sets is in `scene`, and in the address behind the #. A change asks the server anew: `read` for the
// features of the text, `write` for what follows it. An answer that is no longer wanted is broken off, which stops the
// server too.

const about = read("about");
const token = new URLSearchParams(location.search).get("token") || "";
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const INKS = ["--a-ink", "--b-ink", "--other-ink"];
const WAIT = 250; // ms after the last key, before the server is asked
const AT_ONCE = 32;
const USUAL = { prompt: "Once upon a time there was a", shade: [], steer: [], tokens: 30, temperature: 0, seed: 0 };

let scene = { ...USUAL };
let found = null; // what `read` said last
let at = null; // the token that was clicked
let reading = null;
let writing = null;
let written = {}; // cell -> {next, text}

// ---- the scene and its address ---------------------------------------------------------------------------------------

const whole = (text, least, most, usual) => (/^\d{1,16}$/.test(text ?? "") && Number(text) >= least && Number(text) <= most ? Number(text) : usual);
const isFeature = (text) => /^\d{1,9}$/.test(text) && Number(text) < about.n_features;
const range = () => (about.measured ? 8 : 40);

// Whatever stands in an address: what is no scene is left at its usual value.
function fromHash(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const temperature = Number(given.get("temperature") ?? 0);
  const steer = (given.get("steer") || "").split(",").map((one) => one.split(":"))
    .filter(([feature, strength]) => isFeature(feature) && Number.isFinite(Number(strength || NaN)) && Math.abs(Number(strength)) <= 1000)
    .map(([feature, strength]) => [Number(feature), Number(strength)]);
  return {
    prompt: given.get("prompt") ?? USUAL.prompt,
    shade: [...new Set((given.get("shade") || "").split(",").filter(isFeature).map(Number))].slice(0, AT_ONCE),
    steer: [...new Map(steer)].slice(0, AT_ONCE),
    tokens: whole(given.get("tokens"), 1, 500, USUAL.tokens),
    temperature: Number.isFinite(temperature) && temperature >= 0 && temperature <= 10 ? temperature : 0,
    seed: whole(given.get("seed"), 0, Number.MAX_SAFE_INTEGER, 0),
  };
}

function toHash({ prompt, shade, steer, tokens, temperature, seed }) {
  const said = new URLSearchParams({ prompt });
  if (shade.length) said.set("shade", shade.join(","));
  if (steer.length) said.set("steer", steer.map(([feature, strength]) => `${feature}:${strength}`).join(","));
  said.set("tokens", tokens);
  if (temperature) said.set("temperature", temperature);
  said.set("seed", seed);
  return `#${said}`;
}

function asked() {
  return JSON.stringify({ prompt: scene.prompt, features: scene.shade, strengths: scene.steer, new_tokens: scene.tokens, temperature: scene.temperature, seed: scene.seed });
}

const later = {};
function soon(name, work) {
  clearTimeout(later[name]);
  later[name] = setTimeout(work, WAIT);
}

// Take a change, put it into the address, and ask for what depends on it.
function change(part, { text = false, shade = false, write = false } = {}) {
  scene = { ...scene, ...part };
  history.replaceState(null, "", toHash(scene));
  if (text) at = null;
  if (text || shade) soon("read", readText);
  if (text || write) { stop(); soon("write", write_); }
}

function ask(path, signal) {
  return fetch(path, { method: "POST", body: asked(), signal, headers: { "content-type": "application/json", "x-suture-token": token } });
}

async function refusal(answer) {
  try { return (await answer.json()).error; } catch { return "The server refuses: open the address that suture play printed."; }
}

const GONE = "The server does not answer: is suture play still running?";

// ---- reading the text ------------------------------------------------------------------------------------------------

async function readText() {
  reading?.abort();
  const own = (reading = new AbortController());
  if (!scene.prompt.trim()) { found = null; draw(); byId("said").textContent = "Type some words."; return; }
  byId("said").textContent = "reading …";
  try {
    const answer = await ask("/read", own.signal);
    if (!answer.ok) { byId("said").textContent = await refusal(answer); return; }
    const said = await answer.json();
    if (own !== reading) return;
    found = said;
    const differ = about.models.length > 1 ? `, ${found.n_differing} of them not in every model` : "";
    byId("said").textContent = [`${found.tokens.length} positions, ${found.n_active} features fire${differ}.`, ...found.notes].join(" Note: ");
    draw();
  } catch (error) {
    if (error.name !== "AbortError") byId("said").textContent = GONE;
  }
}

const draw = () => { drawShaded(); drawFeatures(); };

function line(values, differs, strongest, model) {
  const text = make("p", { class: "text", dir: "auto" });
  found.tokens.forEach((word, i) => {
    const value = values ? values[i] : 0;
    const ink = value > 0 ? `rgb(var(${INKS[model] || INKS[2]}) / ${(0.12 + 0.55 * Math.min(1, value / strongest)).toFixed(2)})` : null;
    const span = make("span", { text: word, class: [i === at ? "chosen" : "", differs?.includes(i) ? "differs" : ""].join(" ").trim() || null, title: values ? `${LETTERS[model]} alone ${shown(value, "number")}` : null });
    if (ink) span.style.background = ink;
    span.addEventListener("click", () => { at = at === i ? null : i; draw(); });
    text.append(span);
  });
  text.append(found.tail);
  return text;
}

function drawShaded() {
  const place = byId("shaded");
  place.replaceChildren();
  if (!found) return;
  if (!found.chosen.length) { place.append(line(null, null, 1, 0)); return; }
  for (const own of found.chosen) {
    const heading = make("h3", {}, `Feature ${own.feature}`, make("small", { text: [own.name, own.label].filter(Boolean).join(" · ") }), make("button", { type: "button", text: "Take away", "aria-label": `Take feature ${own.feature} away` }));
    heading.querySelector("button").addEventListener("click", () => toggleShade(own.feature));
    const lines = own.alone.map((values, m) => make("div", { class: "line-of" }, make("b", { class: `letter letter-${LETTERS[m].toLowerCase()}`, text: LETTERS[m] }), line(values, own.differs, Math.max(own.strongest, 1e-12), m)));
    place.append(make("article", { class: "shade-of", "data-shaded": own.feature }, heading, ...lines));
  }
}

// ---- finding features ------------------------------------------------------------------------------------------------

function offered() {
  if (!found) return [];
  const known = new Map([...found.features, ...found.chosen].map((own) => [own.feature, own]));
  const wanted = byId("find").value.trim().toLowerCase();
  const rows = at === null
    ? found.features.map((own) => ({ ...own, value: own.strongest }))
    : found.by_position[at].map(([feature, value]) => ({ ...(known.get(feature) || { feature, promoted: [], label: "", name: about.names[feature] || "" }), value }));
  const says = (own) => [own.feature, own.name, own.label, ...own.promoted.flat()].join(" ").toLowerCase();
  return wanted ? rows.filter((own) => says(own).includes(wanted)) : rows;
}

function drawFeatures() {
  const word = byId("at");
  word.hidden = at === null || !found;
  if (!word.hidden) {
    word.replaceChildren("On ", make("span", { class: "token", text: found.tokens[at] }), ", in all models' code. ", make("button", { type: "button", text: "Whole text" }));
    word.querySelector("button").addEventListener("click", () => { at = null; draw(); });
  }
  const rows = offered().map((own) => {
    const promoted = own.promoted.map((tokens, m) => (tokens.length ? `${LETTERS[m]} ${tokens.join(" ")}` : "")).filter(Boolean).join("   ");
    const peek = [own.name, promoted].filter(Boolean).join("   ");
    const shade = make("button", { type: "button", text: "Shade", "aria-pressed": String(scene.shade.includes(own.feature)), "aria-label": `Shade by feature ${own.feature}` });
    const steer = make("button", { type: "button", text: "Steer", "aria-pressed": String(scene.steer.some(([f]) => f === own.feature)), "aria-label": `Steer with feature ${own.feature}` });
    shade.addEventListener("click", () => toggleShade(own.feature));
    steer.addEventListener("click", () => toggleSteer(own.feature));
    const differs = own.n_differs ? "differs" : "";
    return make("li", { "data-feature": own.feature }, make("b", { text: String(own.feature) }), make("span", { text: [own.label, differs].filter(Boolean).join(", ") }), make("span", { text: shown(own.value, "number") }), make("span", { class: "peek", title: peek }, ...(own.name ? [make("b", { class: "name", text: own.name }), "   "] : []), promoted), make("span", { class: "both" }, shade, steer));
  });
  byId("features").replaceChildren(...(rows.length ? rows : [make("li", { text: "None." })]));
}

function toggleShade(feature) {
  const shade = scene.shade.includes(feature) ? scene.shade.filter((f) => f !== feature) : [...scene.shade, feature].slice(-AT_ONCE);
  change({ shade }, { shade: true });
  drawFeatures();
}

function toggleSteer(feature) {
  const on = scene.steer.some(([f]) => f === feature);
  const steer = on ? scene.steer.filter(([f]) => f !== feature) : [...scene.steer, [feature, about.measured ? 1 : 5]].slice(-AT_ONCE);
  change({ steer }, { write: true });
  drawSliders();
  drawFeatures();
}

function byNumber(use) {
  const field = byId("number");
  if (!isFeature(field.value.trim())) { byId("said").textContent = `There are features 0 to ${about.n_features - 1}.`; return; }
  use(Number(field.value.trim()));
}

// ---- sliders ---------------------------------------------------------------------------------------------------------

function drawSliders() {
  byId("units").textContent = scene.steer.length
    ? `Each is added at every token, in every model along its own direction. ${about.measured ? "Strength 1 is as strong as the feature gets (its 99.9 % activation)." : "Strength 1 is 1 in the dictionary's codes: give --table to measure in what the feature reaches."}`
    : "Choose a feature to steer with.";
  byId("sliders").replaceChildren(...scene.steer.map(([feature, strength]) => {
    const name = about.names[feature] || "";
    const label = `Strength of feature ${feature}`;
    const slide = make("input", { type: "range", min: -range(), max: range(), step: about.measured ? 0.25 : 1, value: strength, "aria-label": label });
    const number = make("input", { type: "number", step: "any", min: -1000, max: 1000, value: strength, "aria-label": `${label}, as a number` });
    const remove = make("button", { type: "button", text: "Remove", "aria-label": `Steer no more with feature ${feature}` });
    slide.value = strength; // only now within its limits
    const set = (from, other) => {
      const value = Number(from.value);
      if (from.value === "" || !Number.isFinite(value) || Math.abs(value) > 1000) return;
      other.value = value;
      change({ steer: scene.steer.map(([f, s]) => [f, f === feature ? value : s]) }, { write: true });
    };
    slide.addEventListener("input", () => set(slide, number));
    number.addEventListener("input", () => set(number, slide));
    remove.addEventListener("click", () => toggleSteer(feature));
    return make("div", { class: "slider", "data-steered": feature }, make("span", { class: "name", text: `Feature ${feature}${name ? ` · ${name}` : ""}` }), slide, number, remove);
  }));
}

// ---- what the models write -------------------------------------------------------------------------------------------

const cellOf = (name) => document.querySelector(`[data-cell="${name}"]`);
const cells = () => [...document.querySelectorAll("[data-cell]")].map((cell) => cell.dataset.cell);

function stop() {
  writing?.abort();
  writing = null;
  byId("stop").disabled = true;
}

async function write_() {
  stop();
  byId("wrong").textContent = "";
  if (!scene.prompt.trim()) return;
  const own = (writing = new AbortController());
  const steered = scene.steer.some(([, strength]) => strength !== 0);
  const begun = performance.now();
  const wanted = cells().filter((name) => steered || !name.startsWith("steered"));
  const n = Object.fromEntries(wanted.map((name) => [name, 0]));
  written = {};
  for (const name of cells()) {
    cellOf(name).classList.add("old");
    if (!wanted.includes(name)) drawCell(name, { next: [], text: null });
  }
  byId("stop").disabled = false;
  tell("waiting for the first token …", 0);
  try {
    const answer = await ask("/play", own.signal);
    if (!answer.ok) throw new Error(await refusal(answer));
    for await (const event of lines(answer.body)) {
      if (own !== writing) return;
      if (event.what === "error") throw new Error(event.error);
      const name = `${event.cell}-${event.model}`;
      const cell = (written[name] ||= { next: [], text: "" });
      if (event.what === "next") cell.next = event.tokens;
      else { cell.text = event.text; n[name] = event.what === "end" ? event.of : event.n; cell.n = event.n; }
      drawCell(name, cell);
      const done = Object.values(n).reduce((a, b) => a + b, 0);
      const all = event.of * wanted.length;
      const seconds = (performance.now() - begun) / 1000;
      const left = done ? (seconds / done) * (all - done) : 0;
      tell(`${done.toLocaleString("en")} of ${all.toLocaleString("en")} tokens, ${seconds.toFixed(1)} s${done < all ? `, ${left.toFixed(1)} s left` : ""}`, done / all);
    }
    if (own === writing) { byId("stop").disabled = true; writing = null; }
  } catch (error) {
    if (own !== writing) return;
    stop();
    if (error.name === "AbortError") return;
    byId("wrong").textContent = error instanceof TypeError ? GONE : error.message;
    tell("stopped", 0);
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

function tell(words, share) {
  byId("progress").textContent = words;
  byId("bar").value = share;
}

function drawCell(name, { next, text }) {
  const cell = cellOf(name);
  cell.classList.remove("old");
  cell.querySelector(".next").replaceChildren(...next.map(([word, chance]) => make("li", { "--p": `${(100 * chance).toFixed(1)}%`, title: `probability ${chance.toPrecision(3)}` }, edged(word), make("small", { text: `${(100 * chance).toFixed(chance < 0.1 ? 1 : 0)} %` }))));
  const place = cell.querySelector(".written");
  if (text === null) place.replaceChildren(make("span", { class: "given", text: "Move a slider." }));
  else place.replaceChildren(make("span", { class: "given", text: scene.prompt }), text);
}


// ---- keeping ---------------------------------------------------------------------------------------------------------

function save() {
  const said = { suture_play: 1, dictionary: about.identity, models: about.models, scene, written };
  const file = new Blob([`${JSON.stringify(said, null, 2)}\n`], { type: "application/json" });
  const link = make("a", { href: URL.createObjectURL(file), download: "suture-play.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function openScene(text) {
  let given;
  try { given = JSON.parse(text); } catch { return "This file is not JSON; nothing was read."; }
  const own = given?.scene;
  const good = given?.suture_play === 1 && own && typeof own.prompt === "string" && Array.isArray(own.shade) && Array.isArray(own.steer);
  if (!good) return "This file holds no scene of suture play; nothing was read.";
  let hash;
  try { hash = toHash({ ...USUAL, ...own }); } catch { return "This file holds no scene of suture play; nothing was read."; }
  start(fromHash(hash)); // through the address, which takes what is sound only
  return given.dictionary === about.identity ? "Read." : "Read; it was made with another dictionary, whose features have other numbers.";
}

// ---- start -----------------------------------------------------------------------------------------------------------

function start(given) {
  scene = given;
  at = null;
  byId("prompt").value = scene.prompt;
  for (const name of ["tokens", "temperature", "seed"]) byId(name).value = scene[name];
  history.replaceState(null, "", toHash(scene));
  drawSliders();
  readText();
  write_();
}

byId("prompt").addEventListener("input", (event) => change({ prompt: event.target.value }, { text: true }));
byId("find").addEventListener("input", drawFeatures);
byId("add-shade").addEventListener("click", () => byNumber((f) => { if (!scene.shade.includes(f)) toggleShade(f); }));
byId("add-steer").addEventListener("click", () => byNumber((f) => { if (!scene.steer.some(([g]) => g === f)) toggleSteer(f); }));
for (const name of ["tokens", "temperature", "seed"]) {
  byId(name).addEventListener("input", (event) => { if (event.target.value !== "" && event.target.checkValidity()) change({ [name]: Number(event.target.value) }, { write: true }); });
}
byId("stop").addEventListener("click", () => { stop(); tell("stopped", 0); });
byId("again").addEventListener("click", write_);
byId("save").addEventListener("click", save);
byId("open").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) byId("kept").textContent = openScene(await file.text());
  event.target.value = "";
});
addEventListener("hashchange", () => { if (location.hash !== toHash(scene)) start(fromHash(location.hash)); });
start(fromHash(location.hash));
