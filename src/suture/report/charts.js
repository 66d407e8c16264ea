// Figures as SVG: histograms, bars, points with error bars, lines and triangles. A figure's specification has the form
// that Plotly takes; what is drawn here is the part of it that the report uses. Colours are the style sheet's variables,
// so that a figure follows the theme by itself. Every mark says its numbers in a <title>.

const SVG = "http://www.w3.org/2000/svg";
function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") node.textContent = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter(Boolean));
  return node;
}

const ROLES = { C: "other", D: "fourth", "one-sided": "some", drifted: "some" };
const KNOWN_ROLES = new Set(["a", "b", "shared", "ambiguous", "dead", "other", "fourth", "some", "accent", "muted", "text", "ground", "line"]);
const several = (label) => /^[A-Z]{2,}$/.test(label);
function roleColour(role) {
  const name = ROLES[role] || (several(role) ? "some" : String(role || "").toLowerCase());
  return `var(--${KNOWN_ROLES.has(name) ? name : "other"})`;
}

const unescaped = (text) => text.replaceAll("<br>", "\n").replace(/<extra>[^]*?<\/extra>/g, "")
  .replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
const trimmed = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text).replace("-", "−");

function byFormat(value, format) {
  if (typeof value !== "number") return String(value ?? "");
  if (/%$/.test(format)) return `${trimmed((100 * value).toFixed(1))}\u00a0%`;
  if (/f$/.test(format)) return value.toFixed(Number(/\.(\d)/.exec(format)?.[1] ?? 2)).replace("-", "−");
  return trimmed(Number(value.toPrecision(Number(/\.(\d)/.exec(format)?.[1] ?? 4))).toString());
}

function hover(trace, values) {
  const template = trace.hovertemplate || "%{x}: %{y}";
  return unescaped(template).replace(/%\{(\w+)(?::([^}]+))?\}/g, (_, key, format) => byFormat(values[key], format || ""));
}

function niceTicks(low, high, n) {
  const raw = (high - low) / Math.max(1, n);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= raw * 0.999);
  const ticks = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) ticks.push(Number(at.toPrecision(12)));
  return ticks;
}

function logTicks(low, high, n) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high * 1.0001; power += 1) {
    for (const digit of [1, 2, 5]) {
      const at = Number((digit * 10 ** power).toPrecision(6));
      if (at >= low * 0.9999 && at <= high * 1.0001) ticks.push(at);
    }
  }
  const tens = ticks.filter((at) => Math.abs(Math.log10(at) % 1) < 1e-9);
  return ticks.length <= n ? ticks : tens.length > n ? tens.filter((_, i) => i % Math.ceil(tens.length / n) === 0) : tens.length > 1 ? tens : ticks.slice(0, n);
}

// An axis from data to pixels. `extent` is of all that is drawn along it.
function axisOf(spec, extent, size, ends) {
  const log = spec.type === "log";
  let [low, high] = extent;
  if (spec.range) [low, high] = log ? spec.range.map((v) => 10 ** v) : spec.range;
  else if (!Number.isFinite(low)) [low, high] = log ? [1, 10] : [0, 1];
  else if (log) [low, high] = low === high ? [low / 2, high * 2] : [low * (low / high) ** 0.05, high * (high / low) ** 0.05];
  else {
    if (low === high) [low, high] = [low - 0.5 * (Math.abs(low) || 1), high + 0.5 * (Math.abs(high) || 1)];
    const room = 0.06 * (high - low);
    [low, high] = spec.rangemode === "tozero" ? [Math.min(0, low), high + room] : [low - room, high + room];
  }
  const f = log ? Math.log10 : (v) => v;
  const [a, b] = [f(low), f(high)];
  const to = (v) => ends[0] + ((f(v) - a) / (b - a)) * (ends[1] - ends[0]);
  let ticks = spec.tickvals;
  if (!ticks) ticks = log ? logTicks(low, high, Math.max(2, Math.floor(size / 46))) : niceTicks(Math.min(low, high), Math.max(low, high), Math.max(2, Math.floor(size / 70)));
  const write = (v) => (spec.tickformat ? byFormat(v, spec.tickformat) : Math.abs(v) >= 1e4 || (v && Math.abs(v) < 1e-3) ? scientific(v) : trimmed(String(v)));
  const texts = ticks.map((v, i) => unescaped(String(spec.ticktext ? spec.ticktext[i] ?? "" : write(v))).trim().split("\n"));
  return { to, ticks, texts, low, high, log };
}

// ---- traces to marks: {x, y, ..} in data, so that axes can be laid out before anything is drawn ----------------------

function binned(trace) {
  const { start, end, size } = trace.xbins;
  const counts = new Array(Math.round((end - start) / size)).fill(0);
  for (const x of trace.x) counts[Math.min(counts.length - 1, Math.max(0, Math.floor((x - start) / size + 1e-9)))] += 1;
  return { ...trace, type: "bar", x: counts.map((_, i) => start + (i + 0.5) * size), y: counts, width: size * 0.94 };
}

function bars(traces, layout) {
  const groups = layout.barmode === "group" ? traces.length : 1;
  const base = new Map();
  return traces.flatMap((trace, place) => {
    const flat = trace.orientation === "h";
    const [along, length] = flat ? [trace.y, trace.x] : [trace.x, trace.y];
    const gaps = along.slice(1).map((v, i) => Math.abs(v - along[i])).filter((v) => v > 0);
    const full = trace.width ?? (gaps.length ? Math.min(...gaps) : 1) * (1 - (layout.bargap ?? 0.1));
    return along.map((at, i) => {
      const from = layout.barmode === "stack" ? base.get(at) || 0 : 0;
      if (layout.barmode === "stack") base.set(at, from + length[i]);
      const wide = full / groups;
      const middle = at + (groups > 1 ? place - (groups - 1) / 2 : 0) * wide;
      return { trace, i, flat, a: middle - wide / 2, b: middle + wide / 2, middle, from, to: from + length[i] };
    });
  });
}

function errorOf(bars_, i) {
  if (!bars_ || bars_.visible === false) return null;
  const up = bars_.array?.[i] || 0;
  const down = bars_.symmetric === false ? bars_.arrayminus?.[i] || 0 : up;
  return up || down ? [down, up] : null;
}

const PATTERN_PATHS = { "/": "M0,6 L6,0", "\\": "M0,0 L6,6", "-": "M0,3 L6,3", "|": "M3,0 L3,6", "+": "M3,0 L3,6 M0,3 L6,3", x: "M0,0 L6,6 M0,6 L6,0" };
let patterns = 0;
function filled(defs, trace) {
  const colour = roleColour(trace.meta?.role);
  const shape = trace.marker?.pattern?.shape;
  if (!shape) return colour;
  patterns += 1;
  const id = `pattern-${patterns}`;
  const mark = shape === "." ? svg("circle", { cx: 3, cy: 3, r: 1, style: "fill:var(--ground)" }) : svg("path", { d: PATTERN_PATHS[shape] || PATTERN_PATHS["+"], style: "stroke:var(--ground);stroke-width:1.1;fill:none" });
  defs.append(svg("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, svg("rect", { width: 6, height: 6, style: `fill:${colour}` }), mark));
  return `url(#${id})`;
}

function symbol(name, x, y, size, colour, width) {
  const r = size / 2;
  const hollow = /open$/.test(name || "");
  const style = hollow ? `fill:none;stroke:${colour};stroke-width:${width || 1.5}` : `fill:${colour}`;
  const kind = String(name || "circle").replace("-open", "");
  if (kind === "square") return svg("rect", { class: "point", x: x - r, y: y - r, width: size, height: size, style });
  if (kind === "diamond") return svg("path", { class: "point", d: `M${x},${y - r * 1.3} L${x + r * 1.3},${y} L${x},${y + r * 1.3} L${x - r * 1.3},${y} Z`, style });
  if (kind === "triangle-up") return svg("path", { class: "point", d: `M${x},${y - r * 1.2} L${x + r * 1.1},${y + r * 0.8} L${x - r * 1.1},${y + r * 0.8} Z`, style });
  if (kind === "x-thin") return svg("path", { class: "point", d: `M${x - r},${y - r} L${x + r},${y + r} M${x - r},${y + r} L${x + r},${y - r}`, style: `fill:none;stroke:${colour};stroke-width:1.3` });
  return svg("circle", { class: "point", cx: x, cy: y, r, style });
}

const DASH = { dash: "8 5", dot: "2 4", dashdot: "8 4 2 4" };

function drawFigure(box, spec) {
  const width = box.clientWidth;
  const height = box.clientHeight;
  if (!width || !height) return;
  const layout = spec.layout;
  const root = svg("svg", { class: "main-svg", width, height, viewBox: `0 0 ${width} ${height}` });
  const defs = svg("defs");
  root.append(defs);
  if (spec.data.some((trace) => trace.type === "scatterternary")) triangle(root, spec, width, height);
  else plane(root, defs, spec, layout, width, height);
  box.replaceChildren(root);
}

function plane(root, defs, spec, layout, width, height) {
  const traces = spec.data.map((trace) => (trace.type === "histogram" ? binned(trace) : trace));
  const boxes = bars(traces.filter((trace) => trace.type === "bar"), layout);
  const points = traces.filter((trace) => trace.type === "scatter").flatMap((trace) => trace.x.map((x, i) => ({ trace, i, x, y: trace.y[i] })));
  const [xs, ys] = [[], []];
  for (const one of boxes) {
    const [along, length] = one.flat ? [ys, xs] : [xs, ys];
    along.push(one.a, one.b);
    length.push(one.from, one.to);
    const error = errorOf(one.flat ? one.trace.error_x : one.trace.error_y, one.i);
    if (error) length.push(one.to - error[0], one.to + error[1]);
  }
  for (const { trace, i, x, y } of points) {
    if (x === null || y === null) continue;
    const [ex, ey] = [errorOf(trace.error_x, i), errorOf(trace.error_y, i)];
    xs.push(...(ex ? [x - ex[0], x + ex[1]] : [x]));
    ys.push(...(ey ? [y - ey[0], y + ey[1]] : [y]));
  }
  const [sx, sy] = [layout.xaxis || {}, layout.yaxis || {}];
  const usable = (values, axis) => values.filter((v) => Number.isFinite(v) && (axis.type !== "log" || v > 0));
  const extent = (values) => [Math.min(...values), Math.max(...values)];
  const margin = { l: 52, r: 18, t: 8, b: 44, ...layout.margin };
  if (sx.title?.text && !layout.margin) margin.b = Math.max(margin.b, 46);
  const yOf = () => axisOf(boxes.length && !sy.rangemode && !boxes[0].flat ? { ...sy, rangemode: "tozero" } : sy, extent(usable(ys, sy)), height - margin.t - margin.b, [height - margin.b, margin.t]);
  let y = yOf();
  if (sy.visible !== false) {
    const longest = Math.max(0, ...y.texts.flat().map((text) => text.length)) * 6.7 + 14 + (sy.title?.text ? 18 : 0);
    margin.l = Math.min(width * 0.45, Math.max(margin.l === 52 ? 34 : margin.l, longest));
  }
  const x = axisOf(boxes.length && boxes[0].flat && !sx.rangemode ? { ...sx, rangemode: "tozero" } : sx, extent(usable(xs, sx)), width - margin.l - margin.r, [margin.l, width - margin.r]);
  y = yOf();
  const [bottom, left, right, top] = [height - margin.b, margin.l, width - margin.r, margin.t];
  if (sx.visible !== false) {
    for (const [i, at] of x.ticks.entries()) {
      const px = x.to(at);
      if (px < left - 1 || px > right + 1) continue;
      if (sx.showgrid !== false) root.append(svg("line", { class: "grid-line", x1: px, x2: px, y1: top, y2: bottom }));
      const anchor = px < left + 12 && x.texts[i].join("").length > 3 ? "start" : px > right - 12 && x.texts[i].join("").length > 3 ? "end" : "middle";
      root.append(svg("g", { class: "xtick" }, svg("text", { x: anchor === "start" ? Math.max(2, px - 12) : anchor === "end" ? Math.min(width - 2, px + 14) : px, y: bottom + 16, "text-anchor": anchor },
        ...x.texts[i].map((line, k) => svg("tspan", { x: anchor === "start" ? Math.max(2, px - 12) : anchor === "end" ? Math.min(width - 2, px + 14) : px, dy: k ? 14 : 0, text: line })))));
    }
    if (sx.title?.text) root.append(svg("text", { class: "axis-title", x: (left + right) / 2, y: height - 6, "text-anchor": "middle", text: unescaped(sx.title.text) }));
  }
  root.append(svg("line", { class: "axis-line", x1: left, x2: right, y1: bottom, y2: bottom }));
  if (sy.visible !== false) {
    for (const [i, at] of y.ticks.entries()) {
      const py = y.to(at);
      if (py < top - 1 || py > bottom + 1) continue;
      if (sy.showgrid !== false) root.append(svg("line", { class: at === 0 && sy.zeroline !== false ? "axis-line" : "grid-line", x1: left, x2: right, y1: py, y2: py }));
      root.append(svg("g", { class: "ytick" }, svg("text", { x: left - 8, y: py + 4 - 6.5 * (y.texts[i].length - 1), "text-anchor": "end" }, ...y.texts[i].map((line, k) => svg("tspan", { x: left - 8, dy: k ? 13 : 0, text: line })))));
    }
    if (sy.title?.text) root.append(svg("text", { class: "axis-title", transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle", text: unescaped(sy.title.text) }));
  }
  const inside = (v, axis) => Math.min(Math.max(v, Math.min(axis.low, axis.high)), Math.max(axis.low, axis.high));
  const fills = new Map();
  for (const one of boxes) {
    if (!(one.to - one.from) && !errorOf(one.flat ? one.trace.error_x : one.trace.error_y, one.i)) continue;
    if (!fills.has(one.trace)) fills.set(one.trace, filled(defs, one.trace));
    const style = `fill:${fills.get(one.trace)}`;
    const title = svg("title", { text: hover(one.trace, valuesAt(one.trace, one.i)) });
    const [along, length] = one.flat ? [y, x] : [x, y];
    const [p, q] = [along.to(one.a), along.to(one.b)].sort((u, v) => u - v);
    const [from, to] = [length.to(inside(one.from, length)), length.to(inside(one.to, length))].sort((u, v) => u - v);
    root.append(one.flat ? svg("rect", { class: "bar-mark", x: from, y: p, width: Math.max(1, to - from), height: q - p, style }, title)
      : svg("rect", { class: "bar-mark", x: p, y: from, width: Math.max(0.8, q - p), height: Math.max(1, to - from), style }, title));
    const error = errorOf(one.flat ? one.trace.error_x : one.trace.error_y, one.i);
    if (error) whisker(root, one.flat, one.flat ? y.to(one.middle) : x.to(one.middle), length.to(inside(one.to - error[0], length)), length.to(inside(one.to + error[1], length)), roleColour(one.trace.meta?.whiskers || one.trace.meta?.role));
  }
  for (const trace of traces.filter((one) => one.type === "scatter")) scatter(root, trace, x, y, inside);
}

function whisker(root, flat, at, from, to, colour) {
  const d = flat ? `M${from},${at} L${to},${at} M${from},${at - 3} L${from},${at + 3} M${to},${at - 3} L${to},${at + 3}` : `M${at},${from} L${at},${to} M${at - 3},${from} L${at + 3},${from} M${at - 3},${to} L${at + 3},${to}`;
  root.append(svg("path", { class: "whisker", d, style: `stroke:${colour};fill:none;stroke-width:1.1` }));
}

function valuesAt(trace, i) {
  return { x: trace.x?.[i], y: trace.y?.[i], a: trace.a?.[i], b: trace.b?.[i], c: trace.c?.[i], text: trace.text?.[i], customdata: trace.customdata?.[i] };
}

function scatter(root, trace, x, y, inside) {
  const colour = roleColour(trace.meta?.role);
  const group = svg("g", { opacity: trace.meta?.control ? 0.75 : 1 });
  root.append(group);
  const shown = trace.x.map((v, i) => (v === null || trace.y[i] === null || (x.log && v <= 0) || (y.log && trace.y[i] <= 0) ? null : [x.to(v), y.to(trace.y[i]), i]));
  if (trace.mode.includes("lines")) {
    let d = "";
    shown.forEach((at, i) => { if (at) d += `${shown[i - 1] ? "L" : "M"}${at[0].toFixed(1)},${at[1].toFixed(1)} `; });
    group.append(svg("path", { class: "curve", d, style: `fill:none;stroke:${colour};stroke-width:${trace.line?.width || 2}`, "stroke-dasharray": DASH[trace.line?.dash] }));
  }
  for (const at of shown) {
    if (!at) continue;
    const [px, py, i] = at;
    const [ex, ey] = [errorOf(trace.error_x, i), errorOf(trace.error_y, i)];
    if (ex) whisker(group, true, py, x.to(inside(trace.x[i] - ex[0], x)), x.to(inside(trace.x[i] + ex[1], x)), colour);
    if (ey) whisker(group, false, px, y.to(inside(trace.y[i] - ey[0], y)), y.to(inside(trace.y[i] + ey[1], y)), colour);
    const mark = symbol(trace.marker?.symbol, px, py, trace.mode.includes("markers") ? trace.marker?.size || 6 : 9, trace.mode.includes("markers") ? colour : "transparent", trace.marker?.line?.width);
    mark.append(svg("title", { text: hover(trace, valuesAt(trace, i)) }));
    group.append(mark);
    if (trace.mode.includes("text")) group.append(svg("g", { class: "textpoint" }, svg("text", { x: px, y: py + 3.5, "text-anchor": "middle", text: trace.text[i] })));
  }
}

function triangle(root, spec, width, height) {
  const size = Math.min(width - 60, (height - 60) / 0.866);
  const [cx, top] = [width / 2, 28];
  const corners = [[cx, top], [cx - size / 2, top + 0.866 * size], [cx + size / 2, top + 0.866 * size]];
  const at = (a, b, c) => [0, 1].map((k) => (a * corners[0][k] + b * corners[1][k] + c * corners[2][k]) / (a + b + c));
  root.append(svg("path", { class: "axis-line", style: "fill:none", d: `M${corners.map((p) => p.join(",")).join(" L")} Z` }));
  for (const level of [0.25, 0.5, 0.75]) {
    for (const [p, q] of [[at(level, 1 - level, 0), at(level, 0, 1 - level)], [at(1 - level, level, 0), at(0, level, 1 - level)], [at(1 - level, 0, level), at(0, 1 - level, level)]]) {
      root.append(svg("line", { class: "grid-line", x1: p[0], y1: p[1], x2: q[0], y2: q[1] }));
    }
  }
  const names = ["aaxis", "baxis", "caxis"].map((key) => spec.layout.ternary[key]?.title?.text || "");
  names.forEach((text, i) => root.append(svg("text", { class: "axis-title", x: corners[i][0] + (i - 1) * (i ? 14 : 0), y: corners[i][1] + (i ? 16 : -8), "text-anchor": "middle", text })));
  for (const trace of spec.data) {
    const group = svg("g", { opacity: trace.meta?.control ? 0.75 : 1 });
    trace.a.forEach((a, i) => {
      const total = a + trace.b[i] + trace.c[i];
      if (!(total > 0)) return;
      const [px, py] = at(a, trace.b[i], trace.c[i]);
      const mark = symbol(trace.marker?.symbol, px, py, trace.marker?.size || 6, roleColour(trace.meta?.role));
      mark.append(svg("title", { text: hover(trace, valuesAt(trace, i)) }));
      group.append(mark);
    });
    root.append(group);
  }
}

// ---- figures on the page ---------------------------------------------------------------------------------------------

function draw(box) {
  drawFigure(box, read(box.dataset.figure));
  box.dataset.drawn = String(box.clientWidth);
}

function figures() {
  const boxes = [...document.querySelectorAll("[data-figure]")];
  // A figure is drawn when its box has a width and again when that changes: one in a closed box has none before.
  const fit = new ResizeObserver((entries) => {
    for (const { target } of entries) if (target.clientWidth && target.dataset.drawn !== String(target.clientWidth)) draw(target);
  });
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      fit.observe(entry.target);
    }
  }, { rootMargin: "600px" });
  for (const box of boxes) near.observe(box);
  const idle = window.requestIdleCallback || ((task) => setTimeout(task, 200));
  const next = () => {
    const box = boxes.find((one) => !one.dataset.drawn && one.offsetWidth);
    if (!box) return;
    near.unobserve(box);
    draw(box);
    fit.observe(box);
    idle(next);
  };
  idle(next);
  addEventListener("beforeprint", () => boxes.filter((box) => !box.dataset.drawn && box.offsetWidth).forEach(draw));
}

function figureChoices() {
  for (const select of document.querySelectorAll("[data-figure-of]")) {
    select.addEventListener("change", () => {
      const box = byId(select.dataset.figureOf);
      box.dataset.figure = select.value;
      box.setAttribute("aria-label", read(select.value).alt);
      if (box.offsetWidth) draw(box);
    });
  }
}
