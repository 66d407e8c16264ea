// The report's behaviour: figures in the theme's colours, and the feature table. Data reaches the page as text only.
(() => {
  "use strict";
  const PAGE = 25;
  const LABELS = ["shared", "A", "B", "ambiguous", "dead"];
  const SHARES = ["refit_share", "decoder_share", "usage_share", "attribution"];  // best evidence first, two are shown
  const VISIBLE = ["index", "label", "_peek", "rate", "mean_active", ...SHARES, "cofire_correlation"];
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

  // ---- figures -----------------------------------------------------------------------------------------------------

  const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const ROLES = { C: "other", D: "fourth", "one-sided": "some" };
  const several = (label) => /^[A-Z]{2,}$/.test(label);
  const roleColour = (role) => styleOf(`--${ROLES[role] || (several(role) ? "some" : String(role).toLowerCase())}`) || styleOf("--other");

  function themed(spec) {
    const muted = styleOf("--muted");
    const axis = { gridcolor: styleOf("--line"), linecolor: styleOf("--line"), zerolinecolor: styleOf("--line"), automargin: true, ticklabeloverflow: "allow" };
    const layout = {
      margin: { l: 52, r: 30, t: 8, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: styleOf("--sans"), size: 12, color: muted },
      hoverlabel: { bgcolor: styleOf("--card"), bordercolor: styleOf("--line"), font: { color: styleOf("--text") } },
      ...spec.layout,
    };
    layout.xaxis = { ...axis, ...spec.layout.xaxis };
    layout.yaxis = { ...axis, ...spec.layout.yaxis };
    if (spec.layout.ternary) {
      const side = { gridcolor: styleOf("--line"), linecolor: styleOf("--muted") };
      layout.ternary = { ...spec.layout.ternary, bgcolor: "rgba(0,0,0,0)" };
      for (const name of ["aaxis", "baxis", "caxis"]) layout.ternary[name] = { ...side, ...spec.layout.ternary[name] };
    }
    const data = spec.data.map((trace) => {
      const meta = trace.meta || {};
      const colour = roleColour(meta.role);
      const painted = { ...trace, opacity: meta.control ? 0.75 : 1 };
      if (trace.type === "scatter") painted.line = { ...trace.line, color: colour };
      painted.marker = { ...trace.marker, color: colour };
      if (meta.outline) painted.marker.line = { ...painted.marker.line, color: roleColour(meta.outline) };
      if (painted.marker.pattern) painted.marker.pattern = { ...painted.marker.pattern, fgcolor: styleOf("--ground"), fillmode: "overlay" };
      for (const bars of ["error_x", "error_y"]) {
        if (trace[bars]) painted[bars] = { ...trace[bars], color: meta.whiskers ? roleColour(meta.whiskers) : colour };
      }
      if (trace.textfont) painted.textfont = { ...trace.textfont, color: styleOf("--ground") };
      return painted;
    });
    return [data, layout];
  }

  function draw(box) {
    const [data, layout] = themed(read(box.dataset.figure));
    const drawn = window.Plotly.react(box, data, layout, { displayModeBar: false, scrollZoom: false });
    if (!box.dataset.drawn) drawn.then(() => fit.observe(box));
    box.dataset.drawn = "yes";
  }

  // A figure keeps its box's width. Plotly's own way, to listen for the window's resize once a figure is drawn, misses
  // a window that changes while it is being drawn, and a box that changes without its window.
  const fit = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const changed = Math.abs(contentRect.width - target._fullLayout.width) >= 1;
      if (contentRect.width && changed) window.Plotly.Plots.resize(target);
    }
  });

  function figures() {
    if (!window.Plotly) return;
    const boxes = [...document.querySelectorAll("[data-figure]")];
    // A figure is drawn when it comes near or nothing else is to do: the page opens at once. One in a closed box has
    // no width before it is opened, and then comes near.
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        if (!entry.target.dataset.drawn) draw(entry.target);
      }
    }, { rootMargin: "600px" });
    for (const box of boxes) near.observe(box);
    const idle = window.requestIdleCallback || ((task) => setTimeout(task, 200));
    const next = () => {
      const box = boxes.find((one) => !one.dataset.drawn && one.offsetWidth);
      if (!box) return;
      draw(box);
      idle(next);
    };
    idle(next);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => boxes.filter((box) => box.dataset.drawn).forEach(draw));
    addEventListener("beforeprint", () => boxes.filter((box) => !box.dataset.drawn && box.offsetWidth).forEach(draw));
  }

  function figureChoices() {
    for (const select of document.querySelectorAll("[data-figure-of]")) {
      select.addEventListener("change", () => {
        const box = byId(select.dataset.figureOf);
        box.dataset.figure = select.value;
        box.setAttribute("aria-label", read(select.value).alt);
        if (window.Plotly && box.offsetWidth) draw(box);
      });
    }
  }

  // ---- a study's table ---------------------------------------------------------------------------------------------

  function designTable(root) {
    const body = root.querySelector("tbody");
    const original = [...body.rows];
    const heads = [...root.querySelectorAll("thead th[aria-sort]")];  // the corner, then the columns in their order
    const state = { column: 0, down: false };

    function sort(column) {
      const same = state.column === column;
      const downFirst = column > 0 && heads[column].dataset.better !== "low";
      Object.assign(state, { column, down: same && column > 0 ? !state.down : downFirst });
      const valueOf = (row) => row.cells[column]?.dataset.value;
      const order = original.slice();
      if (column > 0) {
        order.sort((a, b) => {
          const [x, y] = [valueOf(a), valueOf(b)];
          if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);  // missing numbers come last
          return (state.down ? -1 : 1) * (Number(x) - Number(y));
        });
      }
      heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? (state.down ? "descending" : "ascending") : "none"));
      root.classList.toggle("sorted", column > 0);
      body.append(...order);
    }

    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => sort(i)));

    const toggles = [...root.querySelectorAll(".toggles button")];
    const isOn = (button) => button.getAttribute("aria-pressed") === "true";
    function apply() {
      let n = 0;
      for (const button of toggles) {
        for (const cell of root.querySelectorAll(`table [data-group="${button.dataset.group}"]`)) cell.hidden = !isOn(button);
        if (isOn(button)) n += Number(root.querySelector(`.over [data-group="${button.dataset.group}"]`).getAttribute("colspan"));
      }
      for (const cell of root.querySelectorAll("td.skipped")) cell.colSpan = Math.max(1, n);
    }
    for (const button of toggles) {
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(!isOn(button)));
        apply();
      });
    }
    // The table opens with as many groups of columns as fit, one at least; the others are a press away.
    const box = root.querySelector(".scroll");
    for (let last = toggles.length - 1; last > 0 && box.scrollWidth > box.clientWidth; last -= 1) {
      toggles[last].setAttribute("aria-pressed", "false");
      apply();
    }
  }

  // ---- words -------------------------------------------------------------------------------------------------------

  function shown(value, kind) {
    if (value === null || value === undefined || value === "") return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value !== "number") return String(value);
    if (kind === "integer") return String(value);
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
  const owners = (label) => (several(label) ? `${[...label.slice(0, -1)].join(", ")} and ${label.slice(-1)}` : label);
  const labelWords = (label) => (["shared", "one-sided", "drifted", "ambiguous", "dead"].includes(label) ? label : `only ${owners(label)}`);
  const labelClass = (label) => ([...LABELS, "C", "D", "one-sided"].includes(label) ? `label-${label.toLowerCase()}` : several(label) ? "label-some" : "label-other");
  const letterOf = (model) => String.fromCharCode(65 + model);
  const sideClass = (model) => (model < 2 ? `side-${"ab"[model]}` : "side-other");

  function chip(label) {
    return make("span", { class: `chip ${labelClass(label)}` },
      make("span", { class: "mark", "aria-hidden": "true" }), labelWords(label));
  }
  function badge(model) {
    const letter = letterOf(model);
    return make("b", { class: `letter letter-${letter.toLowerCase()}`, text: letter });
  }
  const KINDS = {
    store: "Strongest of the whole store, where they are others",
    "q50-q90": "From the upper half of its activations",
    "q10-q50": "From the lower half",
    weakest: "Near zero",
    random: "At random, where it is active",
  };
  const PATHS = {
    direct: "its direction straight to the output, later layers left out",
    run: "its direction added to real text and run through the rest of the model",
  };
  function modelHeading(table, model) {
    return make("h4", {}, badge(model), ` ${table.models[model]}`);
  }

  // ---- the feature table -------------------------------------------------------------------------------------------

  function explorer() {
    const state = { table: null, sort: "index", down: false, hidden: new Set(), query: "", page: 0, order: [], open: new Set(), texts: null };
    const tables = new Map();

    function load(number) {
      if (!tables.has(number)) tables.set(number, read(`table-${number}`));
      const table = tables.get(number);
      const columns = Object.keys(table.columns);
      Object.assign(state, { table, hidden: new Set(), page: 0, open: new Set(), texts: null });
      const informative = (key) => key === "_peek" ? table.examples.length > 0 : columns.includes(key) && table.columns[key].some((v) => v !== null);
      // Of two models a share is one column, B's; of more there is one per model, and the best evidence's are shown.
      const perModel = (key) => (columns.includes(key) ? [key] : table.models.map((_, m) => `${key}_${letterOf(m)}`));
      const known = SHARES.map(perModel).map((keys) => keys.filter(informative)).filter((keys) => keys.length);
      const shares = known.slice(0, table.models.length > 2 ? 1 : 2).flat();
      state.shownColumns = VISIBLE.flatMap((key) => (SHARES.includes(key) ? perModel(key).filter((one) => shares.includes(one)) : [key].filter(informative)));
      if (!columns.includes(state.sort)) Object.assign(state, { sort: "index", down: false });
      buildSort(columns);
      buildToggles();
      update();
    }

    const title = (key) => (key === "_peek" ? "Strongest on" : state.table.meta[key].title);
    const isText = (key) => state.table.meta[key].kind === "text";

    function buildSort(columns) {
      byId("sort").replaceChildren(...columns.filter((key) => key !== "reason").map((key) => make("option", { value: key, text: title(key) })));
    }

    function buildToggles() {
      const counts = new Map();
      for (const label of state.table.columns.label) counts.set(label, (counts.get(label) || 0) + 1);
      const rank = (label) => (LABELS.includes(label) ? LABELS.indexOf(label) : 2.5);
      const labels = [...counts.keys()].sort((a, b) => rank(a) - rank(b) || a.length - b.length || (a < b ? -1 : 1));
      byId("labels").replaceChildren(...labels.map((label) => {
        const button = make("button", { type: "button", "aria-pressed": "true", "data-label": label }, chip(label), make("small", { text: counts.get(label).toLocaleString("en") }));
        button.addEventListener("click", () => {
          if (!state.hidden.delete(label)) state.hidden.add(label);
          button.setAttribute("aria-pressed", String(!state.hidden.has(label)));
          state.page = 0;
          update();
        });
        return button;
      }));
    }

    function textOf(feature) {
      if (!state.texts) state.texts = new Array(state.table.n);
      if (state.texts[feature] === undefined) {
        const { strings, examples, logits } = state.table;
        const parts = [];
        for (const example of examples[feature] || []) {
          for (const side of example.s) if (side.t) parts.push(side.t.map((i) => strings[i]).join(""));
        }
        for (const side of logits[feature] || []) for (const pairs of side) for (let i = 0; i < pairs.length; i += 2) parts.push(strings[pairs[i]]);
        state.texts[feature] = parts.join("\n").toLowerCase();
      }
      return state.texts[feature];
    }

    function update() {
      const { table, query } = state;
      const needle = query.toLowerCase();
      const values = table.columns[state.sort];
      const order = [];
      for (let i = 0; i < table.n; i += 1) {
        if (state.hidden.has(table.columns.label[i])) continue;
        if (needle && !textOf(i).includes(needle)) continue;
        order.push(i);
      }
      const sign = state.down ? -1 : 1;
      order.sort((a, b) => {
        const [x, y] = [values[a], values[b]];
        if (x === null || y === null) return (x === null) - (y === null) || a - b;  // missing numbers come last either way
        return sign * (x < y ? -1 : x > y ? 1 : 0) || a - b;
      });
      state.order = order;
      const pages = Math.max(1, Math.ceil(order.length / PAGE));
      state.page = Math.min(state.page, pages - 1);
      byId("sort").value = state.sort;
      drawHead();
      drawRows();
      const first = state.page * PAGE;
      byId("where").textContent = order.length
        ? `${(first + 1).toLocaleString("en")}–${Math.min(first + PAGE, order.length).toLocaleString("en")} of ${order.length.toLocaleString("en")} features`
        : "No feature fits";
      byId("previous").disabled = state.page === 0;
      byId("next").disabled = state.page >= pages - 1;
    }

    function drawHead() {
      const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.column : null;
      byId("head").replaceChildren(make("tr", {}, ...state.shownColumns.map((key) => {
        if (key === "_peek") return make("th", { scope: "col", style: "padding:10px 12px", text: title(key) });
        const sorted = key === state.sort ? (state.down ? "descending" : "ascending") : "none";
        const button = make("button", { type: "button", "data-column": key, title: state.table.meta[key].help, text: title(key) });
        button.addEventListener("click", () => sortBy(key));
        return make("th", { scope: "col", "aria-sort": sorted, class: numeric(key) ? "n" : null }, button);
      })));
      if (focused) byId("head").querySelector(`[data-column="${focused}"]`)?.focus();
    }

    const numeric = (key) => key !== "index" && !isText(key) && state.table.meta[key].kind !== "share";

    function sortBy(key) {
      const same = state.sort === key;
      Object.assign(state, { sort: key, down: same ? !state.down : key !== "index" && !isText(key), page: 0 });
      update();
    }

    function peek(feature) {
      const seen = new Set();
      for (const example of state.table.examples[feature] || []) {
        const side = example.s[0];
        const token = state.table.strings[side.t[side.p]];
        if (token !== undefined) seen.add(edged(token.trim() || token));
        if (seen.size === 6) break;
      }
      return [...seen].join("  ");
    }

    function interval(key, feature) {
      const { columns } = state.table;
      const end = (which) => columns[`${key}_${which}`] || columns[key.replace(/_([A-Z])$/, `_${which}_$1`)];
      const [low, high] = ["low", "high"].map((which) => (end(which) === columns[key] ? undefined : end(which)?.[feature]));
      return low !== undefined && low !== null && high !== undefined && high !== null ? [low, high] : null;
    }

    function shareCell(key, feature) {
      const { columns } = state.table;
      const value = columns[key][feature];
      if (value === null) return "–";
      const within = interval(key, feature);
      const range = within && make("span", { class: "range", style: `left:${100 * within[0]}%;width:${100 * (within[1] - within[0])}%` });
      const track = make("span", { class: `track ${labelClass(columns.label[feature])}`, "aria-hidden": "true", "--fair": `${100 / Math.max(2, state.table.models.length)}%` }, range,
        make("span", { class: "dot", style: `left:${100 * value}%` }));
      return make("span", { class: "share" }, track, value.toFixed(2));
    }

    function cell(key, feature) {
      if (key === "_peek") return make("td", {}, make("div", { class: "peek", dir: "auto", text: peek(feature) }));
      const value = state.table.columns[key][feature];
      if (key === "label") return make("td", {}, chip(value));
      if (state.table.meta[key].kind === "share") return make("td", {}, shareCell(key, feature));
      return make("td", { class: numeric(key) ? "n" : null, text: shown(value, state.table.meta[key].kind) });
    }

    function drawRows() {
      const nodes = [];
      for (const feature of state.order.slice(state.page * PAGE, (state.page + 1) * PAGE)) {
        const open = state.open.has(feature);
        const button = make("button", { type: "button", class: "open-button", "aria-expanded": String(open), "aria-controls": open ? `detail-${feature}` : null, "data-open": feature, "aria-label": `Feature ${feature}`, text: feature });
        const row = make("tr", { class: open ? "feature open" : "feature", "data-feature": feature },
          make("th", { scope: "row" }, button), ...state.shownColumns.slice(1).map((key) => cell(key, feature)));
        row.addEventListener("click", (event) => {
          if (!event.target.closest("button") && String(getSelection())) return;  // a text selection is not a click
          toggle(feature);
        });
        nodes.push(row);
        if (open) nodes.push(detail(feature));
      }
      if (!nodes.length) nodes.push(make("tr", {}, make("td", { class: "none", colspan: state.shownColumns.length, text: "No feature fits the labels and the search." })));
      byId("rows").replaceChildren(...nodes);
    }

    function toggle(feature) {
      if (!state.open.delete(feature)) state.open.add(feature);
      drawRows();
      byId("rows").querySelector(`[data-open="${feature}"]`)?.focus({ preventScroll: true });
    }

    function facts(feature) {
      const { columns, meta } = state.table;
      const items = [];
      for (const key of Object.keys(columns)) {
        if (key === "index" || key === "label" || /_(low|high)(_[A-Z])?$/.test(key)) continue;
        const value = columns[key][feature];
        if (value === null || value === undefined || value === "") continue;
        const ends = interval(key, feature);
        const within = ends ? `  (${shown(ends[0], meta[key].kind)} – ${shown(ends[1], meta[key].kind)})` : "";
        items.push(make("div", { title: meta[key].help }, make("dt", { text: meta[key].title + (within ? " (95 %)" : "") }), make("dd", { text: shown(value, meta[key].kind) + within })));
      }
      return make("dl", { class: "facts" }, ...items);
    }

    function unsparse(pairs) {
      const values = new Map();
      for (let i = 0; i < pairs.length; i += 2) values.set(pairs[i], pairs[i + 1]);
      return values;
    }

    function note(alone, joint, model) {
      const parts = [];
      if (alone) parts.push(`${shown(alone, "number")} from ${letterOf(model)} alone`);
      if (joint) parts.push(`${shown(joint, "number")} from all models`);
      return parts.join(", ") || null;
    }

    function exampleText(example, model, strongest) {
      const { strings } = state.table;
      const side = example.s[model];
      const tokens = side.t || example.s[0].t;
      const values = unsparse(side.v);
      const joint = side.t && model > 0 ? new Map() : unsparse(example.j);
      const spans = tokens.map((index, i) => {
        const value = values.get(i) || 0;
        const classes = [value > 0 ? "on" : "", i === side.p ? "peak" : ""].filter(Boolean).join(" ");
        return make("span", { class: classes || null, title: note(value, joint.get(i), model), "--v": value > 0 ? Math.min(1, value / strongest).toFixed(2) : null, text: visible(strings[index]) });
      });
      return make("p", { class: `text ${sideClass(model)}`, dir: "auto" }, badge(model), ...spans);
    }

    function examplesOf(feature) {
      const { table } = state;
      const examples = table.examples[feature] || [];
      if (!examples.length) {
        const reason = table.examples_left_out ? "This dictionary is too large for examples on this page; they are in its examples.json." : "No examples were kept.";
        return [make("p", { class: "quiet-note", text: reason })];
      }
      const strongest = table.models.map((_, model) => Math.max(1e-9, ...examples.flatMap((e) => (e.s[model] ? e.s[model].v.filter((__, i) => i % 2) : []))));
      const nodes = [make("div", { class: "sides", "aria-hidden": "true" }, ...table.models.slice(0, examples[0].s.length).map((_, model) => modelHeading(table, model)))];
      let kind = "top";
      for (const example of examples) {
        if (example.k !== kind) nodes.push(make("h4", { text: KINDS[example.k] || example.k }));
        kind = example.k;
        const where = [example.v === null || example.v === undefined ? "" : `activation ${shown(example.v, "number")}`, example.d === null || example.d === undefined ? "" : `document ${example.d}`, example.r === null || example.r === undefined ? "" : `row ${example.r}`].filter(Boolean).join(" · ");
        nodes.push(make("div", { class: "example" }, make("p", { class: "where", text: where }),
          make("div", { class: "sides" }, ...example.s.map((_, model) => exampleText(example, model, strongest[model])))));
      }
      return nodes;
    }

    function tokenLine(name, pairs) {
      if (!pairs || !pairs.length) return null;
      const line = make("p", { class: "tokens" }, make("span", { class: "name", text: name }));
      for (let i = 0; i < pairs.length; i += 2) {
        const value = pairs[i + 1];
        line.append(make("span", { class: "token", dir: "auto" }, edged(state.table.strings[pairs[i]]),
          make("small", { text: value === null ? "" : (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(2) })), " ");
      }
      return line;
    }

    function detail(feature) {
      const { table } = state;
      const logits = table.logits[feature] || [];
      const panel = make("div", { class: "panel" }, make("h4", { text: `Feature ${feature} in numbers` }), facts(feature),
        make("h4", { text: "Strongest examples, few from one document" }), ...examplesOf(feature));
      if (logits.some((side) => side[0].length || side[1].length)) {
        panel.append(make("h4", { text: "Tokens it promotes and suppresses" }),
          make("div", { class: "sides" }, ...logits.map((side, model) => make("div", {}, modelHeading(table, model),
            make("small", { text: PATHS[(table.paths[feature] || [])[model]] || "" }),
            tokenLine("promoted", side[0]), tokenLine("suppressed", side[1])))));
      }
      return make("tr", { class: "detail", id: `detail-${feature}` }, make("td", { colspan: state.shownColumns.length }, panel));
    }

    function goTo(feature) {
      if (feature >= state.table.n) return;
      byId("search").value = "";
      Object.assign(state, { query: "", hidden: new Set(), sort: "index", down: false });
      for (const button of byId("labels").children) button.setAttribute("aria-pressed", "true");
      state.open.add(feature);
      update();
      state.page = Math.floor(state.order.indexOf(feature) / PAGE);
      update();
      const button = byId("rows").querySelector(`[data-open="${feature}"]`);
      button.scrollIntoView({ block: "start" });
      button.focus({ preventScroll: true });
    }

    let waiting = 0;
    byId("search").addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { Object.assign(state, { query: event.target.value, page: 0 }); update(); }, 120);
    });
    byId("sort").addEventListener("change", (event) => {
      const key = event.target.value;
      Object.assign(state, { sort: key, down: key !== "index" && !isText(key), page: 0 });
      update();
    });
    byId("previous").addEventListener("click", () => { state.page -= 1; update(); });
    byId("next").addEventListener("click", () => { state.page += 1; update(); });
    byId("pick")?.addEventListener("change", (event) => load(Number(event.target.value)));
    for (const button of document.querySelectorAll("[data-go-feature]")) {
      button.addEventListener("click", () => goTo(Number(button.dataset.goFeature)));
    }
    load(0);
  }

  if (byId("explorer")) explorer();
  else for (const button of document.querySelectorAll("[data-go-feature]")) button.hidden = true;
  for (const root of document.querySelectorAll(".study-table")) designTable(root);
  figureChoices();
  figures();
})();
