// Two linked maps of a matching, and its pairs: what is hovered, pinned or selected on one side is so on the other.

const KIND_ROLES = { same: "shared", split: "a", parent: "b", overlapping: "other", none: "ambiguous", silent: "dead" };
const SUBJECT_ROLES = ["a", "b", "shared", "other", "fourth", "some", "accent", "text"];
const N_PAIRS = 100;
const PER_PIECE = 256; // features of a piece of examples

const PAIR_ORDERS = {
  apart: ["disagreement", (d, i) => 1 - (d.jaccard[i] ?? 0) / 100],
  r: ["r", (d, i) => d.r[i] ?? -100],
  ctx: ["r beyond the token", (d, i) => d.ctx[i] ?? -100],
  number: ["number", (d, i) => -i],
};

const hundredth = (value) => (value === null || value === undefined ? "–" : (value / 100).toFixed(2).replace("-", "−"));

function matchMaps(root) {
  const own = root.dataset.matching;
  piece(own).then((data) => linked(root, own, data));
}

function linked(root, own, data) {
  const sides = ["a", "b"].map((key) => data[key]);
  const n = sides.map((side) => side.kind.length);
  const filter = { kinds: new Set(data.kinds), r: 0, ctx: 0, word: "" };
  const visibleNow = n.map((count) => new Uint8Array(count).fill(1));
  let selected = null; // a mask per side
  let pinned = null; // {side, i}
  let [order, page, colouring] = ["apart", 0, "kind"];
  const css = (role) => getComputedStyle(root).getPropertyValue(`--${role}`).trim();

  // ---- what stands on the page -------------------------------------------------------------------------------------
  const field = (title, node) => make("label", null, title, node);
  const choice = (options, changed) => {
    const node = make("select", { autocomplete: "off" }, ...options.map(([value, text]) => make("option", { value, text })));
    node.addEventListener("change", () => changed(node.value));
    return node;
  };
  const slider = (key) => {
    const node = make("input", { type: "range", min: "0", max: "0.95", step: "0.05", value: "0", autocomplete: "off", "data-least": key });
    const said = make("output", { text: "any" });
    node.addEventListener("input", () => { filter[key] = Number(node.value); said.textContent = filter[key] ? filter[key].toFixed(2) : "any"; refresh(); });
    return make("span", { class: "slider" }, node, said);
  };
  const search = make("input", { type: "search", autocomplete: "off", placeholder: "dog or 17" });
  search.addEventListener("input", () => { filter.word = search.value.trim().toLowerCase(); find(); });
  const tools = make("div", { class: "toggles", role: "group", "aria-label": "Pointer" });
  for (const [name, title] of [["point", "Point"], ["box", "Box"], ["lasso", "Lasso"]]) {
    const button = make("button", { type: "button", "aria-pressed": String(name === "point"), "data-tool": name, text: title });
    button.addEventListener("click", () => {
      for (const other of tools.querySelectorAll("[data-tool]")) other.setAttribute("aria-pressed", String(other === button));
      maps.forEach((map) => map.use(name));
    });
    tools.append(button);
  }
  const act = (text, name, done) => { const b = make("button", { type: "button", "data-act": name, text }); b.addEventListener("click", done); return b; };
  tools.append(
    act("+", "in", () => maps.forEach((map) => map.zoom(1.6))), act("−", "out", () => maps.forEach((map) => map.zoom(1 / 1.6))),
    act("Clear", "clear", () => clear()),
  );
  const kinds = make("div", { class: "toggles", role: "group", "aria-label": "Kinds shown" });
  for (const kind of data.kinds) {
    const count = sides[0].kind.filter((k) => data.kinds[k] === kind).length;
    const button = make("button", { type: "button", "aria-pressed": "true", "data-kind": kind }, make("i", { class: "swatch", style: `background:var(--${KIND_ROLES[kind]})` }), kind, make("small", { text: count.toLocaleString("en") }));
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      if (on) filter.kinds.add(kind); else filter.kinds.delete(kind);
      refresh();
    });
    kinds.append(button);
  }
  const colours = [["kind", "kind"], ["r", "r"], ["ctx", "r beyond the token"]];
  if (data.subjects.length > 1) colours.splice(1, 0, ["subject", "subject"]);
  const legend = make("p", { class: "key map-key" });
  const boxes = [0, 1].map(() => make("div", { class: "map" }));
  const says = [0, 1].map((s) => make("p", { class: "map-says", "data-says": "ab"[s] }));
  const status = make("p", { class: "spoken", role: "status", "aria-live": "polite" });
  const panel = make("div", { class: "pinned", hidden: true });
  const lists = [0, 1].map((s) => make("div", { class: "scroll mirrored", tabindex: "0", role: "region", "aria-label": `Features of ${"AB"[s]}, pair by pair` }));
  const where = make("span", { role: "status", class: "where" });
  const pager = make("div", { class: "pager" }, act("‹ Previous", "previous", () => { page -= 1; list(); }), where, act("Next ›", "next", () => { page += 1; list(); }));
  root.replaceChildren(
    make("div", { class: "controls" }, tools, field("Colour", choice(colours, (v) => { colouring = v; paint(); })), field("Find", search), field("r of at least", slider("r")), field("beyond the token", slider("ctx"))),
    make("div", { class: "controls" }, kinds),
    make("div", { class: "grid maps" }, ...boxes.map((box, s) => make("figure", null, make("figcaption", null, badge(s), " ", data.names[s]), box, says[s]))),
    legend, status, panel,
    make("div", { class: "controls pair-order" }, field("Pairs sorted by", choice(Object.entries(PAIR_ORDERS).map(([key, [title]]) => [key, title]), (v) => { order = v; page = 0; list(); }))),
    make("div", { class: "pair-lists" }, ...lists), pager,
  );
  mirror(lists);

  // ---- the maps ----------------------------------------------------------------------------------------------------
  const maps = [0, 1].map((s) => featureMap(boxes[s], Float32Array.from(sides[s].x, (v) => v / 4095), Float32Array.from(sides[s].y, (v) => v / 4095), `Map of ${"AB"[s]}, ${data.names[s]}`, {
    hover: (i) => hover(s, i),
    pin: (i) => pin(s, i),
    select: (inside, add) => select(s, inside, add),
    clear: () => clear(),
  }));

  const partner = (s, i) => (i < 0 ? -1 : sides[s].partner[i]);

  function words(s, i) {
    const d = sides[s];
    return `${"AB"[s]}.${i}${d.words[i] ? ` ${d.words[i]}` : ""}`;
  }

  function said(s, i) {
    const d = sides[s];
    if (i < 0) return "";
    return `${words(s, i)}: ${data.kinds[d.kind[i]]}${d.token[i] ? ", token only" : ""}, r ${hundredth(d.r[i])}, beyond the token ${hundredth(d.ctx[i])}`;
  }

  function hover(s, i) {
    const other = partner(s, i);
    maps[s].mark({ hover: i });
    maps[1 - s].mark({ hover: other });
    const rest = pinned ? [pinned.side === 0 ? pinned.i : partner(1, pinned.i), pinned.side === 1 ? pinned.i : partner(0, pinned.i)] : [-1, -1];
    says[s].textContent = i < 0 ? said(s, rest[s]) : said(s, i);
    says[1 - s].textContent = i < 0 ? said(1 - s, rest[1 - s]) : other < 0 ? "no partner" : `${words(1 - s, other)}`;
    if (i >= 0) status.textContent = `${said(s, i)}; partner ${other < 0 ? "none" : words(1 - s, other)}`;
  }

  function pin(s, i) {
    pinned = i < 0 ? null : { side: s, i };
    const other = partner(s, i);
    maps[s].mark({ pinned: i });
    maps[1 - s].mark({ pinned: other });
    for (const row of root.querySelectorAll("[data-pair]")) row.classList.toggle("on", pinned !== null && Number(row.dataset.pair) === (s === 0 ? i : other));
    showPinned();
    hover(s, i);
  }

  function select(s, inside, add) {
    if (!add || !selected) selected = n.map((count) => new Uint8Array(count));
    for (const i of inside) {
      selected[s][i] = 1;
      if (partner(s, i) >= 0) selected[1 - s][partner(s, i)] = 1;
    }
    const count = selected.map((mask) => mask.reduce((sum, v) => sum + v, 0));
    status.textContent = `${count[0]} features of A and ${count[1]} of B selected`;
    if (count[0] + count[1] === 0) selected = null;
    page = 0;
    paint();
    list();
  }

  function clear() {
    [selected, filter.word, search.value] = [null, "", ""];
    pin(0, -1);
    paint();
    list();
  }

  function find() {
    selected = null;
    if (filter.word) {
      const fits = (s) => sides[s].words.map((text, i) => (/^\d+$/.test(filter.word) ? String(i) === filter.word : text.includes(filter.word)) ? i : -1).filter((i) => i >= 0);
      select(0, fits(0), false);
      if (!/^\d+$/.test(filter.word)) select(1, fits(1), selected !== null);
      if (!selected) { paint(); list(); }
    } else { paint(); list(); }
  }

  function refresh() {
    for (const s of [0, 1]) {
      const d = sides[s];
      for (let i = 0; i < n[s]; i += 1) {
        visibleNow[s][i] = filter.kinds.has(data.kinds[d.kind[i]]) && (!filter.r || d.r[i] >= 100 * filter.r) && (!filter.ctx || d.ctx[i] >= 100 * filter.ctx) ? 1 : 0;
      }
    }
    page = 0;
    paint();
    list();
  }

  function paint() {
    const steps = (key) => ({ of: (d, i) => Math.min(4, Math.max(0, Math.floor((d[key][i] ?? 0) / 20))), palette: [0.18, 0.36, 0.55, 0.76, 1].map((v) => `rgb(${css("heat")} / ${v})`), names: ["below 0.2", "0.2", "0.4", "0.6", "0.8 and more"] });
    const ways = {
      kind: { of: (d, i) => d.kind[i], palette: data.kinds.map((k) => css(KIND_ROLES[k])), names: data.kinds },
      subject: { of: (d, i) => d.subject[i], palette: data.subjects.map((_, k) => css(k ? SUBJECT_ROLES[(k - 1) % SUBJECT_ROLES.length] : "dead")), names: data.subjects.map((t) => t || "none") },
      r: steps("r"), ctx: steps("ctx"),
    };
    const way = ways[colouring];
    maps.forEach((map, s) => map.draw({ colour: Uint8Array.from({ length: n[s] }, (_, i) => way.of(sides[s], i)), palette: way.palette, shown: visibleNow[s], selected: selected && selected[s] }));
    legend.replaceChildren(...(colouring === "kind" ? [] : way.names.map((text, c) => make("span", { class: "key-item" }, make("i", { class: "swatch", style: `background:${way.palette[c]}` }), text))));
  }

  // ---- the pairs ---------------------------------------------------------------------------------------------------
  function chosen() {
    const d = sides[0];
    const found = [];
    for (let i = 0; i < n[0]; i += 1) if (d.partner[i] >= 0 && !["none", "silent"].includes(data.kinds[d.kind[i]]) && visibleNow[0][i] && (!selected || selected[0][i])) found.push(i);
    const key = PAIR_ORDERS[order][1];
    return found.sort((x, y) => key(d, y) - key(d, x) || x - y);
  }

  function list() {
    const every = chosen();
    page = Math.max(0, Math.min(page, Math.ceil(every.length / N_PAIRS) - 1));
    const part = every.slice(page * N_PAIRS, (page + 1) * N_PAIRS);
    where.textContent = every.length ? `${(page * N_PAIRS + 1).toLocaleString("en")}–${(page * N_PAIRS + part.length).toLocaleString("en")} of ${every.length.toLocaleString("en")} pairs` : "No pair fits";
    pager.querySelector("[data-act=previous]").disabled = page === 0;
    pager.querySelector("[data-act=next]").disabled = (page + 1) * N_PAIRS >= every.length;
    const heads = [["A", "kind", "disagree", "r", "r ctx"], ["B", "kind", "rows"]];
    lists.forEach((box, s) => {
      const rows = part.map((i) => {
        const j = s === 0 ? i : sides[0].partner[i];
        const d = sides[s];
        const open = make("button", { type: "button", class: "quiet", text: `${"AB"[s]}.${j}`, "data-open-pair": String(i) });
        const cells = s === 0
          ? [data.kinds[d.kind[i]] + (d.token[i] ? ", token" : ""), hundredth(100 - (d.jaccard[i] ?? 0)), hundredth(d.r[i]), hundredth(d.ctx[i])]
          : [data.kinds[d.kind[j]], d.rows[j].toLocaleString("en")];
        return make("tr", { "data-pair": String(i), class: pinned && (pinned.side === 0 ? pinned.i : partner(1, pinned.i)) === i ? "on" : null }, make("th", { scope: "row" }, open, make("span", { class: "of-words", text: d.words[j] || "" })), ...cells.map((text) => make("td", { text })));
      });
      box.replaceChildren(make("table", { class: "numeric" }, make("thead", null, make("tr", null, ...heads[s].map((text) => make("th", { scope: "col", text })))), make("tbody", null, ...rows)));
      box.scrollTop = 0;
    });
  }
  for (const box of lists) {
    box.addEventListener("click", (event) => { const row = event.target.closest("[data-pair]"); if (row) pin(0, Number(row.dataset.pair)); });
    box.addEventListener("mouseover", (event) => { const row = event.target.closest("[data-pair]"); if (row) hover(0, Number(row.dataset.pair)); });
    box.addEventListener("focusin", (event) => { const row = event.target.closest("[data-pair]"); if (row) hover(0, Number(row.dataset.pair)); });
  }

  // The rows of the pinned pair, read by both of its features.
  async function showPinned() {
    if (!pinned) { panel.hidden = true; return; }
    const { side, i } = pinned;
    const other = partner(side, i);
    const pair = side === 0 ? [i, other] : [other, i];
    const block = await piece(`${own}-${"xy"[side]}${Math.floor(i / PER_PIECE)}`);
    if (!pinned || pinned.side !== side || pinned.i !== i) return;
    const found = block ? block.rows[i % PER_PIECE] : [];
    const columns = [0, 1].map((s) => {
      const values = found.map((one) => one[s === side ? 1 : 2]);
      const most = Math.max(...values, 1e-9);
      const texts = found.map((one, k) => {
        const [before, token, after] = block.passages[one[0]];
        const mark = make("span", { class: "on-token", "--v": (values[k] / most).toFixed(2), title: shown(values[k], "number"), text: visible(token) });
        return make("li", null, make("span", { class: "value", text: values[k] ? shown(values[k], "number") : "silent" }), make("span", { class: "passage" }, visible(before), mark, visible(after)));
      });
      const head = pair[s] < 0 ? make("h4", null, badge(s), " no partner") : make("h4", null, badge(s), ` ${words(s, pair[s])}`);
      return make("div", null, head, pair[s] < 0 ? null : make("p", { class: "quiet-note", text: said(s, pair[s]) }), texts.length ? make("ul", { class: "same-rows", tabindex: "0", role: "region", "aria-label": `Rows as ${"AB"[s]} reads them` }, ...texts) : null);
    });
    panel.replaceChildren(make("div", { class: "sides" }, ...columns));
    panel.hidden = false;
    const read_ = [...panel.querySelectorAll(".same-rows")];
    if (read_.length === 2) mirror(read_);
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => requestAnimationFrame(paint));
  refresh();
  root.dataset.ready = "1";
}

// Two boxes scroll as one.
function mirror([one, two]) {
  for (const [from, to] of [[one, two], [two, one]]) {
    from.addEventListener("scroll", () => { if (Math.abs(to.scrollTop - from.scrollTop) > 1) to.scrollTop = from.scrollTop; });
  }
}
