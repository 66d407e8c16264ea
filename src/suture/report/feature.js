// A feature's own page: what it fires on, how strongly and in which model, what it promotes, what lies near it, and what
// the reader wrote about it. All numbers of the table are folded at the end.

const EXAMPLE_KINDS = {
  t: ["Strongest", "few from one document"],
  s: ["Strongest of the whole store", "where they are others"],
  u: ["Upper half", "drawn between the 50th and the 90th percentile of its values"],
  l: ["Lower half", "drawn between the 10th and the 50th percentile"],
  w: ["Near zero", "drawn below the 10th percentile"],
  r: ["At random", "drawn among all rows where it is active"],
};
const PATHS = {
  direct: "its direction straight to the output, later layers left out",
  run: "its direction added to real text and run through the rest of the model",
};
const LONGER = 40;

async function featurePage(root, at) {
  const { index, feature } = at;
  const about = { ...at, root };
  if (feature >= index.n) {
    root.replaceChildren(make("p", { class: "back" }, make("a", { href: at.listAddress, text: "‹ All features" })),
      make("h2", { tabindex: -1, text: `There is no feature ${feature.toLocaleString("en")}` }),
      make("p", { text: `${at.name} has features 0 to ${(index.n - 1).toLocaleString("en")}.` }));
    if (at.arrived) arrive(root);
    return;
  }
  if (at.arrived || root.dataset.shown !== `${at.table}.${feature}`) {
    root.dataset.shown = `${at.table}.${feature}`;
    root.replaceChildren(...heading(about), make("p", { class: "quiet-note", role: "status", text: "Reading …" }));
    if (at.arrived) arrive(root);
  }
  let block = null;
  try { block = await piece(`t${at.table}-b${Math.floor(feature / index.block)}`); } catch (error) {
    root.querySelector("[role=status]")?.replaceChildren(`This feature's data cannot be read: ${error.message}.`);
    return;
  }
  const record = block.features[feature % index.block];
  const examples = unpackedExamples(index, record.e);
  const texts = await textsFor(at, examples);
  if (root.dataset.shown !== `${at.table}.${feature}` || !document.body.classList.contains("on-feature")) return;
  const focused = root.contains(document.activeElement) && document.activeElement !== root.querySelector("h2") ? document.activeElement.id : "";
  const all = { ...about, block, record, examples, texts };
  const part = (name, nodes) => make("div", { class: name }, ...nodes);
  root.replaceChildren(...heading(about), ownNotes(about),
    make("div", { class: "parts" }, part("part-examples", exampleSections(all)), part("part-models", [...modelByModel(all), ...promotes(all)]), part("part-near", neighbours(all))), numbers(all),
    ...index.missing.map((text) => make("p", { class: "quiet-note", text })));
  for (const [box, spec] of drawings) { drawFigure(box, spec); redraw.observe(box); }
  drawings.length = 0;
  if (focused) byId(focused)?.focus();
  else if (at.arrived) root.querySelector("h2").focus({ preventScroll: true });
}

const drawings = [];
const specs = new WeakMap();
const redraw = new ResizeObserver((entries) => { for (const { target } of entries) if (target.clientWidth) drawFigure(target, specs.get(target)); });

function arrive(root) {
  window.scrollTo(0, 0);
  root.querySelector("h2").focus({ preventScroll: true });
}

function heading({ index, feature, order, linkTo, listAddress, name, letter }) {
  const place = order.indexOf(feature);
  const step = (to, text, label) => (to === undefined ? make("span", { class: "quiet-note", text }) : make("a", { href: linkTo(to), "aria-label": `${label}: feature ${to}`, text }));
  const own = notes.of(index.id, feature);
  const rate = index.columns.rate?.[feature];
  const reason = index.columns.reason?.[feature];
  const said = [rate === null || rate === undefined ? "" : `fires on ${shown(rate, "percent")} of the rows`, reason || ""].filter(Boolean).join("; ");
  return [
    make("nav", { class: "back", "aria-label": "Features" },
      make("a", { href: listAddress, text: "‹ All features" }),
      make("span", { class: "steps" }, step(order[place - 1], "‹ previous", "Previous"),
        make("span", { class: "quiet-note", text: place < 0 ? "not among those searched for" : `${(place + 1).toLocaleString("en")} of ${order.length.toLocaleString("en")}` }),
        step(place < 0 ? undefined : order[place + 1], "next ›", "Next"))),
    make("h2", { tabindex: -1 }, `Feature ${feature}`, own?.name ? make("span", { class: "given", text: ` ${own.name}` }) : null),
    make("p", { class: "lead" }, chip(index.columns.label[feature]), said ? ` ${said}.` : null, make("small", { text: ` ${name} · address ` }), make("a", { class: "address", href: linkTo(feature), text: `#${letter}.${feature}` })),
    make("p", { class: "models" }, ...index.models.map((model, m) => make("span", {}, badge(m), ` ${model}`))),
  ];
}

function ownNotes({ index, feature, noted, root }) {
  const own = notes.of(index.id, feature) || { name: "", note: "", lists: [] };
  const field = (id, label, node) => { node.id = id; return make("label", { for: id }, label, node); };
  const name = make("input", { type: "text", maxlength: 200, autocomplete: "off", value: own.name });
  const lists = make("input", { type: "text", maxlength: 1000, autocomplete: "off", value: own.lists.join(", ") });
  const note = make("textarea", { rows: 2, maxlength: 20_000 });
  note.value = own.note;
  const say = make("span", { class: "quiet-note", role: "status" });
  const keep = () => {
    notes.set(index.id, feature, { name: name.value, note: note.value, lists: lists.value.split(",") });
    say.textContent = notes.works ? "kept in this browser" : "kept until this page is closed: save notes to a file";
    root.querySelector("h2 .given")?.remove();
    if (name.value.trim()) root.querySelector("h2").append(make("span", { class: "given", text: ` ${name.value.trim()}` }));
    noted();
  };
  for (const one of [name, lists, note]) { one.addEventListener("input", keep); one.addEventListener("change", keep); }
  return make("details", { class: "own-notes", open: Boolean(own.name || own.note || own.lists.length) }, make("summary", { text: "Your name, note and lists for it" }),
    make("div", { class: "controls" }, field("note-name", "Name", name), field("note-lists", "Lists, with commas between", lists)),
    field("note-text", "Note", note), say);
}

// ---- model beside model ------------------------------------------------------------------------------------------------

function countBars(counts, { ticks, hover: said, role, title }) {
  const height = Math.log10(1 + Math.max(1, ...counts));
  const marks = [1, 10, 100, 1e3, 1e4, 1e5, 1e6].filter((n) => Math.log10(1 + n) <= height * 1.05);
  return {
    alt: title,
    data: [{ type: "bar", x: counts.map((_, i) => i), y: counts.map((n) => Math.log10(1 + n)), customdata: counts.map(said), meta: { role }, hovertemplate: "%{customdata}" }],
    layout: {
      bargap: 0.08, margin: { l: 36, r: 14, t: 6, b: 26 },
      xaxis: { range: [-0.7, counts.length - 0.3], tickvals: ticks.map(([v]) => v), ticktext: ticks.map(([, t]) => t), showgrid: false },
      yaxis: { tickvals: marks.map((n) => Math.log10(1 + n)), ticktext: marks.map((n) => (n >= 1e3 ? `${n / 1e3}k` : String(n))), rangemode: "tozero", range: [0, height * 1.06] },
    },
  };
}

function small(spec) {
  const box = make("div", { class: "plot small-plot", role: "img", "aria-label": spec.alt });
  drawings.push([box, spec]);
  specs.set(box, spec);
  return box;
}

function valueHistogram(largest, counts, role, whose) {
  const n = counts.length;
  const edge = (i) => largest * 2 ** (-i / 2);  // upper end of bin i, the strongest first
  const weakestFirst = [...counts].reverse();
  const ticks = [0, 4, 8, 12, 16].filter((i) => i < n).map((i) => [n - 1 - i + 0.5, shown(edge(i), "number")]).reverse();
  return small(countBars(weakestFirst, {
    ticks, role, title: `Histogram of its values ${whose}, on a log scale up to ${shown(largest, "number")}: ${counts.reduce((a, b) => a + b, 0).toLocaleString("en")} rows`,
    hover: (rows, j) => `${j === 0 ? `below ${shown(edge(n - 1), "number")}` : `${shown(edge(n - j), "number")} to ${shown(edge(n - 1 - j), "number")}`}: ${rows.toLocaleString("en")} rows`,
  }));
}

function logitHistogram(farthest, counts, role, model) {
  const n = counts.length;
  const edge = (i) => farthest * ((2 * i) / n - 1);
  return small(countBars(counts, {
    ticks: [[-0.5, shown(-farthest, "number")], [(n - 1) / 2, "0"], [n - 0.5, `+${shown(farthest, "number")}`]], role, title: `Histogram of its effect on the logits of ${model}`,
    hover: (tokens, i) => `${shown(edge(i), "number")} to ${shown(edge(i + 1), "number")}: ${tokens >= 100 ? "about " : ""}${tokens.toLocaleString("en")} tokens`,
  }));
}

function modelByModel({ index, feature, record }) {
  const nodes = [make("h3", { text: "Model beside model" })];
  const every = Object.keys(index.meta).filter((key) => index.meta[key].group === "Model by model");
  const measures = [...new Set(every.map((key) => key.replace(/_[A-Z]$/, "")))];
  const value = (key) => valueOf(index, record, key, feature);
  if (measures.length) {
    const rows = measures.map((base) => make("tr", {}, make("th", { scope: "row", title: index.meta[`${base}_A`]?.help, text: (index.meta[`${base}_A`]?.title || base).replace(/,? ?(from )?A( alone)?$/, (_, __, alone) => (alone ? "" : "")).replace(/ from A alone|, A alone|, A$/, "") + (/alone/.test(index.meta[`${base}_A`]?.title || "") ? ", from it alone" : "") }),
      ...index.models.map((_, m) => make("td", { text: shown(value(`${base}_${letterOf(m)}`), index.meta[`${base}_${letterOf(m)}`]?.kind) }))));
    nodes.push(make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Model beside model" }, make("table", { class: "numeric beside" },
      make("thead", {}, make("tr", {}, make("td", {}), ...index.models.map((model, m) => make("th", { scope: "col" }, badge(m), make("span", { class: "spoken", text: ` ${model}` }))))),
      make("tbody", {}, ...rows))));
  }
  if (record.h && record.h[0] > 0) {
    const [largest, [joint, ...alone]] = record.h;
    const figure_ = (counts, role, whose, m) => make("figure", {}, make("figcaption", {}, m === null ? null : badge(m), make("strong", { text: m === null ? "All models together" : " Values from it alone" }), ` ${counts.reduce((a, b) => a + b, 0).toLocaleString("en")} rows, both axes log`), valueHistogram(largest, counts, role, whose));
    nodes.push(make("div", { class: "grid three" }, ...alone.map((counts, m) => figure_(counts, letterOf(m), `from ${letterOf(m)} alone`, m)), figure_(joint, "shared", "from all models together", null)));
  }
  return nodes;
}

function promotes({ index, feature, record, block }) {
  const logits = record.l || [];
  const promoted = index.promoted[feature] || [];
  if (!logits.some((side, m) => (promoted[m] || []).length || side[2].length)) return [];
  const line = (name, tokens) => {
    if (!tokens.length) return null;
    const node = make("p", { class: "tokens" }, make("span", { class: "name", text: name }));
    for (const [text, value] of tokens) {
      node.append(make("span", { class: "token", dir: "auto" }, edged(text), make("small", { text: value === null ? "" : (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(2) })), " ");
    }
    return node;
  };
  return [make("h3", { text: "Tokens it promotes and suppresses" }), make("div", { class: "sides" }, ...logits.map(([path, up, down, farthest, counts], m) => {
    const ups = (promoted[m] || []).map((t, i) => [index.strings[t], up[i] ?? null]);
    const downs = [];
    for (let i = 0; i < down.length; i += 2) downs.push([block.strings[down[i]], down[i + 1]]);
    return make("div", {}, make("h4", {}, badge(m), ` ${index.models[m]}`), make("small", { text: PATHS[path] || "" }), line("promoted", ups), line("suppressed", downs),
      counts.length && farthest ? make("figure", {}, make("figcaption", {}, make("strong", { text: "Effect on every token's logit" }), " the vocabulary's mean taken off; counts log"), logitHistogram(farthest, counts, letterOf(m), index.models[m])) : null);
  }))];
}

// ---- examples ----------------------------------------------------------------------------------------------------------

// The examples of a record, unpacked: {kind, row, before, n, values: [of all together, of each model alone], same, own}.
function unpackedExamples(index, { k, r, v, w = {}, s = {}, o = {} }) {
  const wide = 2 + index.models.length;
  return r.map((row, i) => {
    const [before, n] = w[i] || index.window;
    const values = Array.from({ length: wide - 1 }, () => new Map());
    for (let j = 0; j < v[i].length; j += wide) {
      for (let m = 1; m < wide; m += 1) if (v[i][j + m]) values[m - 1].set(v[i][j], v[i][j + m]);
    }
    return { kind: k[i], row, before, n, values, same: s[i] || [], own: o[i] || null };
  });
}

async function textsFor({ index, table }, examples) {
  const wanted = new Set();
  for (const { row, before, n } of examples) {
    for (let r = row - before - LONGER; r <= row - before + n + LONGER; r += 8) if (r >= 0) wanted.add(Math.floor(r / index.chunk));
  }
  const found = new Map();
  await Promise.all([...wanted].map(async (number) => found.set(number, await piece(`t${table}-x${number}`).catch(() => null))));
  return (row) => {
    const chunk = row < 0 ? null : found.get(Math.floor(row / index.chunk));
    if (!chunk) return null;
    let [low, high] = [0, chunk.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (chunk[middle][1] <= row) low = middle;
      else high = middle - 1;
    }
    const [own, first, tokens] = chunk[low];
    return row >= first && row < first + tokens.length ? { document: own, token: tokens[row - first] } : null;
  };
}

function exampleSections(at) {
  const { examples } = at;
  if (!examples.length) return [make("h3", { text: "Examples" }), make("p", { class: "quiet-note", text: "No examples were kept of it." })];
  const nodes = [make("h3", { text: "Examples" }), make("p", { class: "quiet-note" }, "Shading: ", ...at.index.models.flatMap((_, m) => [badge(m), m === 0 ? " upper half of a token's height, " : m === at.index.models.length - 1 ? " lower half." : " between, "]), " Point at a token, or press it, for its values; “longer” shows more around it.")];
  const strongest = at.index.models.map((_, m) => Math.max(1e-9, ...examples.flatMap((e) => [...e.values[m + 1].values()])));
  let kind = null;
  for (const example of examples) {
    if (example.kind !== kind) {
      kind = example.kind;
      const [name, meaning] = EXAMPLE_KINDS[kind] || [kind, ""];
      nodes.push(make("h4", { class: "band", "data-kind": kind }, name, make("small", { text: ` ${meaning}` })));
    }
    nodes.push(oneExample(at, example, strongest));
  }
  return nodes;
}

function oneExample({ index, texts, block }, example, strongest) {
  const { row, before, n, values, same, own } = example;
  const document_ = own ? own[0] : texts(row)?.document;
  const value = values[0].get(own ? own[1][0][1] : before);
  const again = same.length ? ` · the same text ${same.length} more time${same.length > 1 ? "s" : ""} (${same.slice(0, 4).map(([v, r]) => `${shown(v, "number")} in row ${r}`).join(", ")}${same.length > 4 ? ", …" : ""})` : "";
  const where = `${value === undefined ? "" : `activation ${shown(value, "number")} · `}document ${document_ ?? "?"} · row ${row}${again}`;
  const line = make("span", { text: where });
  const above = make("p", { class: "where" }, line);
  const node = make("div", { class: "example" }, above);
  const say = (i, models) => models.map((m) => (values[m + 1].get(i) ? `${letterOf(m)} alone ${shown(values[m + 1].get(i), "number")}` : `${letterOf(m)} alone 0`)).concat(values[0].get(i) ? [`all together ${shown(values[0].get(i), "number")}`] : []).join(", ");
  const token = (text, i, models, peak) => {
    const shades = models.map((m) => Math.min(1, (values[m + 1].get(i) || 0) / strongest[m]));
    const on = shades.some((v) => v > 0) || values[0].get(i) > 0;
    const stripes = shades.map((v, k) => {
      const ink = `rgb(var(--${{ A: "a", B: "b" }[letterOf(models[k])] || "other"}-ink) / ${v > 0 ? (0.1 + 0.5 * v).toFixed(2) : 0})`;
      return `${ink} ${(100 * k) / shades.length}% ${(100 * (k + 1)) / shades.length}%`;
    });
    const span = make("span", { class: [on ? "on" : "", peak ? "peak" : ""].filter(Boolean).join(" ") || null, title: on ? say(i, models) : null, style: on ? `background:linear-gradient(${stripes.join(",")})` : null, text: visible(text) });
    if (on) span.addEventListener("click", () => { line.textContent = `${edged(text)}: ${say(i, models)}`; });
    return span;
  };
  if (own) {  // models that read other tokens, or a text that is in no passage
    const sides = own[1];
    const alike = sides.every((side, m) => m === 0 || (side[0] === null && side[1] === sides[0][1]));
    const groups = alike ? [sides.map((_, m) => m)] : sides.map((_, m) => [m]);
    node.append(make("div", { class: alike ? null : "sides" }, ...groups.map((models) => {
      const [tokens, peak] = [sides[models[0]][0] || sides[0][0], sides[models[0]][1]];
      return make("p", { class: "text", dir: "auto" }, ...(alike ? [] : [badge(models[0]), " "]), ...tokens.map((t, i) => token(block.strings[t], i, models, i === peak)));
    })));
    return node;
  }
  const models = index.models.map((_, m) => m);
  const first = row - before;
  const text = make("p", { class: "text", dir: "auto" });
  for (let i = 0; i < n; i += 1) text.append(token(texts(first + i)?.token ?? "", i, models, i === before));
  const around = (from, to, step) => { const found = []; for (let r = from; r !== to; r += step) { const t = texts(r); if (t?.document !== document_) break; found.push(t.token); } return step < 0 ? found.reverse() : found; };
  const more = [around(first - 1, first - 1 - LONGER, -1), around(first + n, first + n + LONGER, 1)];
  if (more[0].length || more[1].length) {
    const button = make("button", { type: "button", class: "quiet longer", "aria-expanded": "false", text: "longer" });
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "shorter" : "longer";
      text.querySelectorAll(".more").forEach((one) => one.remove());
      if (!open) return;
      const part = (tokens) => (tokens.length ? make("span", { class: "more", text: tokens.map(visible).join("") }) : "");
      text.prepend(part(more[0]));
      text.append(part(more[1]));
    });
    above.append(button);
  }
  node.append(text);
  return node;
}

// ---- neighbours and numbers --------------------------------------------------------------------------------------------

function neighbours({ index, record, linkTo }) {
  if (!record.c && !record.o) return [];
  const peek = (f) => index.peaks[f].slice(0, 3).flatMap((t) => [make("span", { class: "token", dir: "auto", text: edged(index.strings[t].trim() || index.strings[t]) }), " "]);
  const line = (f, ...value) => make("li", {}, make("a", { href: linkTo(f), "data-neighbour": f, text: String(f) }), chip(index.columns.label[f]), make("span", { class: "value" }, ...value), make("span", { class: "peek-line" }, ...peek(f)));
  const each = (list) => (list.length > 1 ? ` (${list.map((v, m) => `${letterOf(m)} ${shown(v, "correlation")}`).join(", ")})` : "");
  const rows = (list, n) => Array.from({ length: (list || []).length / n }, (_, i) => [list[n * i], ...list.slice(n * i + 1, n * i + n).map((v) => v / 100)]);
  const nearest = rows(record.c, 2 + index.models.length).map(([f, v, ...own]) => line(f, shown(v, "correlation"), make("small", { text: each(own) })));
  const together = rows(record.o, 2).map(([f, v]) => line(f, shown(v, "correlation")));
  const none = make("li", { class: "quiet-note", text: "none" });
  return [make("h3", { text: "Neighbours" }), make("div", { class: "sides" },
    make("div", {}, make("h4", {}, "By direction", make("small", { text: " cosine of decoder rows, all models' side by side" })), make("ol", { class: "neighbours" }, ...(nearest.length ? nearest : [none]))),
    make("div", {}, make("h4", {}, "By firing", make("small", { text: " correlation of firing on the same rows" })), make("ol", { class: "neighbours" }, ...(together.length ? together : [none.cloneNode(true)]))))];
}

function valueOf(index, record, key, feature) {
  const place = index.later.indexOf(key);
  return place >= 0 ? record.n?.[place] : index.columns[key]?.[feature];
}

function numbers({ index, feature, record }) {
  const groups = new Map();
  for (const key of Object.keys(index.meta)) {
    if (["index", "label", "reason"].includes(key) || /_(low|high)(_[A-Z])?$/.test(key)) continue;
    const value = valueOf(index, record, key, feature);
    if (value === null || value === undefined || value === "") continue;
    const { title, help, kind, group } = index.meta[key];
    const ends = intervalOfAny(index, record, key, feature);
    const within = ends ? ` (95\u00a0%: ${shown(ends[0], kind)} – ${shown(ends[1], kind)})` : "";
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(make("div", {}, make("dt", { text: title }), make("dd", { text: shown(value, kind) + within }), help ? make("dd", { class: "sentence", text: help }) : null));
  }
  return make("details", { class: "numbers" }, make("summary", { text: "All its numbers" }),
    ...[...groups].flatMap(([group, items]) => [make("h4", { text: group || "Others" }), index.about[group] ? make("p", { class: "quiet-note", text: index.about[group] }) : null, make("dl", { class: "facts" }, ...items)]).filter(Boolean));
}

function intervalOfAny(index, record, key, feature) {
  const end = (which) => { const names = [`${key}_${which}`, key.replace(/_([A-Z])$/, `_${which}_$1`)]; return names.filter((one) => one !== key && one in index.meta).map((one) => valueOf(index, record, one, feature))[0]; };
  const [low, high] = [end("low"), end("high")];
  return low !== undefined && low !== null && high !== undefined && high !== null ? [low, high] : null;
}
