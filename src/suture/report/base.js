// What the page's scripts share: elements made from data, which reaches the page as text only, and numbers in words.

const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);

function make(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") node.textContent = value;
    else if (key.startsWith("--")) node.style.setProperty(key, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// ---- data: inside the page, or in scripts beside it ------------------------------------------------------------------

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

const pieces = new Map();
const waiting = new Map();
addEventListener("suture-piece", (event) => waiting.get(event.detail[0])?.(event.detail[1]));

function beside(name) {
  const file = read("pieces")[name];
  if (!file) return Promise.resolve(null);
  return new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    const script = make("script", { src: file });
    script.addEventListener("error", () => { script.remove(); pieces.delete(name); reject(new Error(`${file} is not there: keep the folder beside the page`)); });
    script.addEventListener("load", () => { script.remove(); waiting.delete(name); });
    document.head.append(script);
  });
}

// A piece of data by its name; null where there is none of that name.
function piece(name) {
  if (!pieces.has(name)) {
    const here = byId(name);
    const text = here ? Promise.resolve(here.textContent) : byId("pieces") ? beside(name) : Promise.resolve(null);
    pieces.set(name, text.then((found) => (found === null ? null : unpack(found))));
  }
  return pieces.get(name);
}

// ---- words -----------------------------------------------------------------------------------------------------------

function shown(value, kind) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (kind === "integer") return value.toLocaleString("en");
  if (kind === "percent") return `${value && value < 1e-6 ? scientific(100 * value) : Number.isInteger(100 * value) ? 100 * value : (100 * value).toPrecision(3)}\u00a0%`;
  if (kind === "share" || kind === "correlation") return value.toFixed(2).replace("-", "−");
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return scientific(value);
  return (Number.isInteger(value) ? String(value) : value.toPrecision(3)).replace("-", "−");
}

function scientific(value) {
  const [mantissa, exponent] = value.toExponential(1).split("e");
  return `${mantissa}\u00a0×\u00a010${[...String(Number(exponent))].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("")}`;
}

const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
function visible(text) {
  return text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/\r/g, "␍")
    .replace(INVISIBLE, (c) => `‹${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);
}
const edged = (text) => visible(text).replace(/^ /, "·").replace(/(.) $/, "$1·") || "·";
const LABELS = ["shared", "A", "B", "ambiguous", "dead"];
const owners = (label) => (several(label) ? `${[...label.slice(0, -1)].join(", ")} and ${label.slice(-1)}` : label);
const labelWords = (label) => (["shared", "one-sided", "drifted", "ambiguous", "dead"].includes(label) ? label : `only ${owners(label)}`);
const labelClass = (label) => ([...LABELS, "C", "D", "one-sided"].includes(label) ? `label-${label.toLowerCase()}` : several(label) ? "label-some" : "label-other");
const letterOf = (number) => String.fromCharCode(65 + number);

function chip(label) {
  return make("span", { class: `chip ${labelClass(label)}` },
    make("span", { class: "mark", "aria-hidden": "true" }), make("span", { text: labelWords(label) }));
}
function badge(model) {
  const letter = letterOf(model);
  return make("b", { class: `letter letter-${letter.toLowerCase()}`, text: letter });
}
