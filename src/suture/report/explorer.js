// The feature table: its filters, its order, and the address of everything that is looked at.
//
//   #A.526                     feature 526 of the first dictionary (or #NAME.526)
//   #A?token=happy&sort=-rate  the table as it is filtered and sorted; the same may follow a feature
//
// The address is all there is of state: what changes is written there and drawn from there, so that back, forward and a
// copied address lead to the same place.

const PAGE = 25;
const SHARES = ["refit_share", "decoder_share", "usage_share", "attribution"];  // best evidence first
const TEXT_FILTERS = ["number", "token", "promoted"];
const ROOM = { index: 66, label: 132, _peek: 190, rate: 84, mean_active: 96, cofire_correlation: 96 };  // pixels that a column takes

function explorer() {
  const names = read("tables");
  const letters = names.map((_, i) => letterOf(i));
  const fresh = () => ({ table: 0, feature: null, number: "", token: "", promoted: "", labels: null, notes: "", sort: "index", down: false, page: 0 });
  const state = fresh();
  let index = null;  // of the dictionary looked at
  let order = [];
  let listed = "";  // the columns that are drawn
  let came = null;  // the feature that the reader comes back from
  let turn = 0;
  let followed = null;  // the address that is drawn: a step back tells of itself twice

  // ---- addresses -----------------------------------------------------------------------------------------------------

  function parsed(hash) {
    let text = hash.replace(/^#/, "");
    try { text = text.includes("?") ? `${decodeURIComponent(text.slice(0, text.indexOf("?")))}${text.slice(text.indexOf("?"))}` : decodeURIComponent(text); } catch { return null; }
    const [head, query] = text.includes("?") ? [text.slice(0, text.indexOf("?")), text.slice(text.indexOf("?") + 1)] : [text, ""];
    const whole = (name) => { const i = names.indexOf(name); return i >= 0 ? i : letters.indexOf(name); };
    const numbered = /^(.*)\.(\d{1,9})$/.exec(head);
    let table = whole(head);
    let feature = null;
    if (table < 0 && numbered) { table = whole(numbered[1]); feature = Number(numbered[2]); }
    if (table < 0) return null;
    const given = new URLSearchParams(query);
    const sort = given.get("sort") || "index";
    const page = Number(given.get("page"));
    return {
      ...fresh(), table, feature,
      ...Object.fromEntries(TEXT_FILTERS.map((key) => [key, (given.get(key) || "").slice(0, 200)])),
      labels: given.has("labels") ? given.get("labels").split(",").filter(Boolean) : null,
      notes: (given.get("notes") || "").slice(0, 200),
      sort: sort.replace(/^-/, ""), down: sort.startsWith("-"),
      page: Number.isInteger(page) && page > 1 && page < 1e6 ? page - 1 : 0,
    };
  }

  function address(one) {
    const query = new URLSearchParams();
    for (const key of TEXT_FILTERS) if (one[key]) query.set(key, one[key]);
    if (one.labels) query.set("labels", one.labels.join(","));
    if (one.notes) query.set("notes", one.notes);
    if (one.sort !== "index" || one.down) query.set("sort", (one.down ? "-" : "") + one.sort);
    if (one.page) query.set("page", one.page + 1);
    const text = query.toString().replaceAll("%2C", ",");
    return `#${letters[one.table]}${one.feature === null ? "" : `.${one.feature}`}${text ? `?${text}` : ""}`;
  }
  const linkTo = (feature, table = state.table) => address(table === state.table ? { ...state, feature } : { ...fresh(), table, feature });

  // What changes: typing replaces the address, everything else is a step that back takes back.
  function change(changes, { replace = false } = {}) {
    const to = address({ ...state, ...changes });
    if (to === location.hash) return;
    try { history[replace ? "replaceState" : "pushState"](null, "", to); } catch { location.hash = to; return; }
    follow();
  }

  async function follow() {
    if (location.hash === followed) return;
    followed = location.hash;
    const wanted = parsed(location.hash);
    if (!wanted && (location.hash.length > 1 && index)) {  // an anchor of the page
      if (state.feature !== null) { state.feature = null; show(); }
      byId(location.hash.slice(1))?.scrollIntoView();
      return;
    }
    const mine = (turn += 1);
    const before = state.feature;
    const next = wanted || fresh();
    if (!index || next.table !== state.table) {
      let found = null;
      try { found = await piece(`t${next.table}`); } catch (error) { byId("where").textContent = `This browser cannot unpack the page's data (${error.message}).`; return; }
      if (mine !== turn) return;
      index = found;
      Object.assign(state, next);
      opened();
    }
    Object.assign(state, next);
    if (!Object.hasOwn(index.meta, state.sort)) Object.assign(state, { sort: "index", down: false });
    if (index.later.includes(state.sort) && !index.columns[state.sort]) {
      index.columns[state.sort] = await piece(`t${state.table}-c${index.later.indexOf(state.sort)}`).catch(() => null);
      if (mine !== turn) return;
      if (!index.columns[state.sort]) Object.assign(state, { sort: "index", down: false });
    }
    if (before !== null && state.feature === null) came = before;
    show({ arrived: before !== state.feature });
  }

  // ---- a dictionary is opened: its labels, columns and lists ---------------------------------------------------------

  const title = (key) => (key === "_peek" ? "Strongest on" : index.meta[key].title);
  const kind = (key) => index.meta[key]?.kind;
  const isText = (key) => kind(key) === "text";
  const has = (key) => (key === "_peek" ? index.peaks.some((own) => own.length) : index.columns[key]?.some((v) => v !== null));

  function wantedColumns() {
    // Of two models a share is one column, B's; of more there is one per model.
    const perModel = (key) => (index.columns[key] ? [key] : index.models.map((_, m) => `${key}_${letterOf(m)}`));
    const shares = SHARES.map(perModel).map((keys) => keys.filter(has)).filter((keys) => keys.length);
    const first = ["index", "label", "_peek", ...(shares[0] || []), "rate", ...(index.models.length > 2 ? [] : shares[1] || []), "cofire_correlation", "mean_active"];
    return first.filter((key) => has(key));
  }

  function fitting() {
    const width = byId("explorer").clientWidth || 1000;
    let left = width;
    const chosen = [];
    for (const key of wantedColumns()) {
      left -= ROOM[key] || 152;
      if (left < 0 && chosen.length > 3) break;
      chosen.push(key);
    }
    if (!chosen.includes(state.sort) && width > 600 && has(state.sort)) chosen.splice(3, chosen.length > 4 ? 1 : 0, state.sort);
    return chosen;
  }

  function opened() {
    const every = Object.keys(index.meta).filter((key) => key !== "reason" && (index.columns[key] || index.later.includes(key)));
    byId("sort").replaceChildren(...every.map((key) => make("option", { value: key, text: title(key) })));
    const counts = new Map();
    for (const label of index.columns.label) counts.set(label, (counts.get(label) || 0) + 1);
    const rank = (label) => (LABELS.includes(label) ? LABELS.indexOf(label) : 2.5);
    const labels = [...counts.keys()].sort((a, b) => rank(a) - rank(b) || a.length - b.length || (a < b ? -1 : 1));
    byId("labels").replaceChildren(...labels.map((label) => {
      const button = make("button", { type: "button", "aria-pressed": "true", "data-label": label }, chip(label), make("small", { text: counts.get(label).toLocaleString("en") }));
      button.addEventListener("click", () => {
        const on = labels.filter((one) => (state.labels ? state.labels.includes(one) : true) !== (one === label));
        change({ labels: on.length === labels.length ? null : on, page: 0 });
      });
      return button;
    }));
    byId("left-out").replaceChildren(...index.missing.map((text) => make("p", { class: "quiet-note", text })));
    if (byId("pick")) byId("pick").value = String(state.table);
  }

  function listsChanged() {
    const lists = notes.lists(index.id);
    byId("noted").replaceChildren(make("option", { value: "", text: "all features" }), make("option", { value: "*", text: "with a name, note or list" }),
      ...lists.map((name) => make("option", { value: `=${name}`, text: `list: ${name}` })));
    byId("noted").value = state.notes;
    byId("notes-say").textContent = notes.works ? "" : "This browser keeps nothing for pages on a disk: save notes to a file before you close the page.";
  }

  // ---- which features --------------------------------------------------------------------------------------------------

  // Which texts of the index fit: those that contain the query; in quotes, those that are it but for spaces around.
  function fits(query) {
    const quoted = /^"(.+)"$/.exec(query.trim());
    const needle = (quoted ? quoted[1] : query).toLowerCase();
    return index.strings.map((text) => (quoted ? text.trim().toLowerCase() === needle.trim() : text.toLowerCase().includes(needle)));
  }

  function select() {
    const byToken = state.token && fits(state.token);
    const byPromoted = state.promoted && fits(state.promoted);
    const numbers = state.number.trim() ? state.number.split(/[\s,;]+/).filter(Boolean) : null;
    const ranges = numbers?.map((one) => /^(\d+)(?:[-–](\d+))?$/.exec(one)).map((m) => (m ? [Number(m[1]), Number(m[2] ?? m[1])] : null));
    const kept = state.notes ? new Set(notes.features(index.id).filter((f) => state.notes === "*" || notes.of(index.id, f).lists.includes(state.notes.slice(1)))) : null;
    const chosen = [];
    for (let i = 0; i < index.n; i += 1) {
      if (state.labels && !state.labels.includes(index.columns.label[i])) continue;
      if (ranges && !ranges.some((one) => one && one[0] <= i && i <= one[1])) continue;
      if (kept && !kept.has(i)) continue;
      if (byToken && !index.peaks[i].some((t) => byToken[t])) continue;
      if (byPromoted && !(index.promoted[i] || []).some((side) => side.some((t) => byPromoted[t]))) continue;
      chosen.push(i);
    }
    const values = index.columns[state.sort];
    const sign = state.down ? -1 : 1;
    chosen.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;  // missing numbers come last either way
      return sign * (x < y ? -1 : x > y ? 1 : 0) || a - b;
    });
    return chosen;
  }

  // ---- drawing ---------------------------------------------------------------------------------------------------------

  function show({ arrived = false } = {}) {
    order = select();
    for (const key of TEXT_FILTERS) if (document.activeElement !== byId(key) || byId(key).value.trim() !== state[key].trim()) byId(key).value = state[key];
    for (const button of byId("labels").children) button.setAttribute("aria-pressed", String(!state.labels || state.labels.includes(button.dataset.label)));
    byId("sort").value = state.sort;
    byId("direction").textContent = state.down ? "↓ falling" : "↑ rising";
    byId("direction").setAttribute("aria-label", `Order: ${state.down ? "falling" : "rising"}. Turn round`);
    listsChanged();
    document.body.classList.toggle("on-feature", state.feature !== null);
    byId("explorer").hidden = state.feature !== null;
    byId("feature").hidden = state.feature === null;
    if (state.feature === null) {
      byId("feature").replaceChildren();
      document.title = pageTitle;
      list();
      if (arrived && came !== null) comeBack();
    } else {
      document.title = `${letters[state.table]}.${state.feature} · ${pageTitle}`;
      featurePage(byId("feature"), { index, table: state.table, name: names[state.table], letter: letters[state.table], feature: state.feature, order, linkTo, listAddress: address({ ...state, feature: null }), noted: listsChanged, arrived });
    }
  }

  function comeBack() {
    const link = byId("rows").querySelector(`[data-open="${came}"]`);
    came = null;
    if (!link) { byId("features").scrollIntoView(); return; }
    link.scrollIntoView({ block: "center" });
    link.focus({ preventScroll: true });
  }

  function list() {
    const pages = Math.max(1, Math.ceil(order.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const columns = fitting();
    listed = columns.join();
    head(columns);
    const rows = order.slice(state.page * PAGE, (state.page + 1) * PAGE).map((feature) => row(feature, columns));
    if (!rows.length) rows.push(make("tr", { role: "row" }, make("td", { class: "none", role: "cell", colspan: columns.length, text: "No feature fits the search." })));
    byId("rows").replaceChildren(...rows);
    const first = state.page * PAGE;
    byId("where").textContent = order.length
      ? `${(first + 1).toLocaleString("en")}–${Math.min(first + PAGE, order.length).toLocaleString("en")} of ${order.length.toLocaleString("en")} features`
      : "No feature fits";
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page >= pages - 1;
  }

  const numeric = (key) => key !== "index" && key !== "_peek" && !isText(key) && kind(key) !== "share";

  function head(columns) {
    const focused = document.activeElement?.dataset?.column;
    byId("head").replaceChildren(make("tr", { role: "row" }, ...columns.map((key) => {
      if (key === "_peek") return make("th", { scope: "col", role: "columnheader", class: "plain", text: title(key) });
      const sorted = key === state.sort ? (state.down ? "descending" : "ascending") : "none";
      const button = make("button", { type: "button", "data-column": key, title: index.meta[key].help, text: title(key) });
      button.addEventListener("click", () => sortBy(key));
      return make("th", { scope: "col", role: "columnheader", "aria-sort": sorted, class: numeric(key) ? "n" : null }, button);
    })));
    if (focused) byId("head").querySelector(`[data-column="${CSS.escape(focused)}"]`)?.focus();
  }

  function sortBy(key) {
    change({ sort: key, down: state.sort === key ? !state.down : key !== "index" && !isText(key), page: 0 });
  }

  function row(feature, columns) {
    const own = notes.of(index.id, feature);
    const name = own?.name || "";
    const node = make("tr", { class: "feature", role: "row", "data-feature": feature },
      make("th", { scope: "row", role: "rowheader" }, make("a", { class: "open", href: linkTo(feature), "data-open": feature, "aria-label": `Feature ${feature}${name ? `, ${name}` : ""}` }, String(feature)),
        own ? make("span", { class: "noted", title: name || "has a note or is in a list", text: name || "✎" }) : null),
      ...columns.slice(1).map((key) => cell(key, feature)));
    node.addEventListener("click", (event) => {
      if (event.target.closest("a, button") || String(getSelection())) return;  // a text selection is not a click
      change({ feature });
    });
    return node;
  }

  function cell(key, feature) {
    if (key === "_peek") {
      const tokens = index.peaks[feature].map((t) => make("span", { class: "token", dir: "auto", text: edged(index.strings[t].trim() || index.strings[t]) }));
      return make("td", { role: "cell", class: "peek" }, make("div", {}, ...tokens.slice(0, 5).flatMap((one) => [one, " "])));
    }
    const value = index.columns[key][feature];
    if (key === "label") return make("td", { role: "cell", class: "label" }, chip(value));
    if (kind(key) === "share") return make("td", { role: "cell", class: "of-share" }, shareTrack(index, key, feature));
    return make("td", { role: "cell", class: numeric(key) ? "n" : null, "data-title": title(key), text: shown(value, kind(key)) });
  }

  // ---- what the reader does --------------------------------------------------------------------------------------------

  const pageTitle = document.title;
  let typing = 0;
  for (const key of TEXT_FILTERS) {
    byId(key).addEventListener("input", (event) => {
      clearTimeout(typing);
      typing = setTimeout(() => change({ [key]: event.target.value, page: 0 }, { replace: true }), 120);
    });
    byId(key).addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      clearTimeout(typing);
      change({ [key]: event.target.value, page: 0 }, { replace: true });
      if (order.length === 1) change({ feature: order[0] });
    });
  }
  byId("sort").addEventListener("change", (event) => change({ sort: event.target.value, down: event.target.value !== "index" && !isText(event.target.value), page: 0 }));
  byId("direction").addEventListener("click", () => change({ down: !state.down, page: 0 }));
  byId("noted").addEventListener("change", (event) => change({ notes: event.target.value, page: 0 }));
  byId("previous").addEventListener("click", () => change({ page: state.page - 1 }));
  byId("next").addEventListener("click", () => change({ page: state.page + 1 }));
  byId("reset").addEventListener("click", () => change({ ...fresh(), table: state.table }));
  byId("pick")?.addEventListener("change", (event) => change({ ...fresh(), table: Number(event.target.value) }));
  byId("notes-save").addEventListener("click", () => notes.download());
  byId("notes-read").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    const said = notes.merge(await file.text());
    event.target.value = "";
    show();
    byId("notes-say").textContent = said;
  });
  for (const link of document.querySelectorAll("[data-feature-link]")) {
    link.setAttribute("href", linkTo(Number(link.dataset.featureLink), Number(link.dataset.table)));
  }
  addEventListener("hashchange", follow);
  addEventListener("popstate", follow);
  // Another width may have room for other columns; what is there already is left alone, and with it the focus.
  new ResizeObserver(() => { if (index && state.feature === null && fitting().join() !== listed) list(); }).observe(byId("explorer"));
  follow().then(() => { if (parsed(location.hash) && state.feature === null) byId("features").scrollIntoView(); });
}

// A share of [0, 1] with its interval on a track.
function shareTrack(index, key, feature) {
  const value = index.columns[key][feature];
  if (value === null || value === undefined) return "–";
  const within = intervalOf(index, key, feature);
  const range = within && make("span", { class: "range", style: `left:${100 * within[0]}%;width:${100 * (within[1] - within[0])}%` });
  const track = make("span", { class: `track ${labelClass(index.columns.label[feature])}`, "aria-hidden": "true", "--fair": `${100 / Math.max(2, index.models.length)}%` }, range,
    make("span", { class: "dot", style: `left:${100 * value}%` }));
  return make("span", { class: "share" }, track, value.toFixed(2));
}

function intervalOf(index, key, feature) {
  const { columns } = index;
  const end = (which) => columns[`${key}_${which}`] || columns[key.replace(/_([A-Z])$/, `_${which}_$1`)];
  const [low, high] = ["low", "high"].map((which) => (end(which) === columns[key] ? undefined : end(which)?.[feature]));
  return low !== undefined && low !== null && high !== undefined && high !== null ? [low, high] : null;
}
