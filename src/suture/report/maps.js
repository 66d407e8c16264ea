// A map of one dictionary's features: points on a canvas, found again through a grid of cells.
//
// Two layers: the points, drawn anew when colours, filters, selection or view change; and above them what follows the
// pointer, which is a handful of rings. So moving the pointer over 16,384 points costs no redraw of them.

const CELLS = 64;
const REACH = 14; // pixels within which the pointer finds a point

// Points sorted into cells: order[start[c]..start[c + 1]] are those of cell c. Coordinates from 0 to 1.
function cellIndex(x, y) {
  const n = x.length;
  const at = new Uint16Array(n);
  const start = new Int32Array(CELLS * CELLS + 1);
  const cell = (v) => Math.min(CELLS - 1, Math.max(0, Math.floor(v * CELLS)));
  for (let i = 0; i < n; i += 1) { at[i] = cell(y[i]) * CELLS + cell(x[i]); start[at[i] + 1] += 1; }
  for (let c = 0; c < CELLS * CELLS; c += 1) start[c + 1] += start[c];
  const next = start.slice();
  const order = new Int32Array(n);
  for (let i = 0; i < n; i += 1) { order[next[at[i]]] = i; next[at[i]] += 1; }
  return { start, order, cell };
}

function inPolygon(px, py, path) {
  let inside = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i, i += 1) {
    const [ax, ay] = path[i];
    const [bx, by] = path[j];
    if ((ay > py) !== (by > py) && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

// One map in `box`. `tell` has hover(i), pin(i), select(indices, add); -1 is no feature.
function featureMap(box, x, y, name, tell) {
  const n = x.length;
  const index = cellIndex(x, y);
  const points = make("canvas", { "aria-hidden": "true" });
  const above = make("canvas", { tabindex: "0", role: "application", "aria-roledescription": "map", "aria-label": `${name}: arrow keys go from feature to feature, Enter pins, space adds to the selection, B at two features selects the box between them, plus and minus zoom, Escape clears` });
  box.replaceChildren(points, above);
  const [ink, top] = [points.getContext("2d"), above.getContext("2d")];
  const view = { scale: 1, x: 0, y: 0 }; // the corner of what is seen, and how many times larger it is
  let [width, height, dense] = [0, 0, 1];
  let state = { colour: new Uint8Array(n), palette: ["#888"], shown: new Uint8Array(n).fill(1), selected: null };
  let marks = { hover: -1, pinned: -1 };
  let tool = "point";
  let path = null; // of a box or lasso, in pixels
  let corner = -1; // of a box made by keyboard
  let grip = null;

  const px = (i) => (x[i] - view.x) * view.scale * (width - 16) + 8;
  const py = (i) => (y[i] - view.y) * view.scale * (height - 16) + 8;
  const fromX = (v) => (v - 8) / ((width - 16) * view.scale) + view.x;
  const fromY = (v) => (v - 8) / ((height - 16) * view.scale) + view.y;
  const style = (key) => getComputedStyle(box).getPropertyValue(`--${key}`).trim();

  function fit() {
    [width, height] = [box.clientWidth, box.clientHeight];
    dense = Math.min(2, window.devicePixelRatio || 1);
    for (const one of [points, above]) { one.width = width * dense; one.height = height * dense; }
    for (const one of [ink, top]) one.setTransform(dense, 0, 0, dense, 0, 0);
    draw();
  }

  function squares(size, wanted) {
    for (let i = 0; i < n; i += 1) if (wanted(i)) ink.fillRect(px(i) - size / 2, py(i) - size / 2, size, size);
  }

  function draw() {
    if (!width) return;
    ink.clearRect(0, 0, width, height);
    const { colour, palette, shown, selected } = state;
    const size = (n > 6000 ? 2.4 : n > 1500 ? 3.4 : 4.6) * Math.min(2, Math.sqrt(view.scale));
    ink.fillStyle = style("line");
    squares(size * 0.7, (i) => !shown[i]);
    ink.globalAlpha = selected ? 0.3 : 0.85;
    palette.forEach((one, c) => { ink.fillStyle = one; squares(size, (i) => shown[i] && colour[i] === c && !(selected && selected[i])); });
    ink.globalAlpha = 1;
    if (selected) palette.forEach((one, c) => { ink.fillStyle = one; squares(size + 1.6, (i) => shown[i] && selected[i] && colour[i] === c); });
    drawMarks();
  }

  function ring(i, radius, colour, thick) {
    top.beginPath();
    top.arc(px(i), py(i), radius, 0, 2 * Math.PI);
    top.lineWidth = thick;
    top.strokeStyle = colour;
    top.stroke();
  }

  function drawMarks() {
    top.clearRect(0, 0, width, height);
    const text = style("text");
    if (marks.pinned >= 0) { ring(marks.pinned, 8, style("ground"), 5); ring(marks.pinned, 8, text, 2.5); }
    if (marks.hover >= 0) { ring(marks.hover, 6, style("ground"), 5); ring(marks.hover, 6, style("accent"), 2.5); }
    if (corner >= 0) ring(corner, 11, style("accent"), 1);
    if (!path || path.length < 2) return;
    top.beginPath();
    corners().forEach(([a, b], i) => (i ? top.lineTo(a, b) : top.moveTo(a, b)));
    top.closePath();
    top.lineWidth = 1.5;
    top.strokeStyle = style("accent");
    top.stroke();
    top.globalAlpha = 0.1;
    top.fillStyle = style("accent");
    top.fill();
    top.globalAlpha = 1;
  }

  const boxOf = ([ax, ay], [bx, by]) => [[ax, ay], [bx, ay], [bx, by], [ax, by]];
  const corners = () => (tool === "box" ? boxOf(path[0], path[path.length - 1]) : path);

  // The nearest shown point within reach of a pixel, by the cells around it.
  function nearest(atX, atY) {
    const [cx, cy] = [fromX(atX), fromY(atY)];
    const [wide, high] = [REACH / ((width - 16) * view.scale), REACH / ((height - 16) * view.scale)];
    let [best, found] = [REACH * REACH, -1];
    for (let row = index.cell(cy - high); row <= index.cell(cy + high); row += 1) {
      for (let column = index.cell(cx - wide); column <= index.cell(cx + wide); column += 1) {
        const c = row * CELLS + column;
        for (let k = index.start[c]; k < index.start[c + 1]; k += 1) {
          const i = index.order[k];
          if (!state.shown[i]) continue;
          const far = (px(i) - atX) ** 2 + (py(i) - atY) ** 2;
          if (far <= best) [best, found] = [far, i];
        }
      }
    }
    return found;
  }

  function within(polygon, add) {
    const inside = [];
    for (let i = 0; i < n; i += 1) if (state.shown[i] && inPolygon(px(i), py(i), polygon)) inside.push(i);
    tell.select(inside, add);
  }

  function zoom(times, atX = width / 2, atY = height / 2) {
    const [cx, cy] = [fromX(atX), fromY(atY)];
    view.scale = Math.min(40, Math.max(1, view.scale * times));
    view.x = view.scale === 1 ? 0 : cx - (atX - 8) / ((width - 16) * view.scale);
    view.y = view.scale === 1 ? 0 : cy - (atY - 8) / ((height - 16) * view.scale);
    draw();
  }

  // The nearest shown point in a direction: not far to the side of it.
  function beside(from, dx, dy) {
    let [best, found] = [Infinity, -1];
    for (let i = 0; i < n; i += 1) {
      if (!state.shown[i] || i === from) continue;
      const [ax, ay] = [px(i) - px(from), py(i) - py(from)];
      const [along, across] = [ax * dx + ay * dy, Math.abs(ax * dy) + Math.abs(ay * dx)];
      if (along > 0 && across <= along && along + 2 * across < best) [best, found] = [along + 2 * across, i];
    }
    return found;
  }

  function middle() {
    let [best, found] = [Infinity, -1];
    for (let i = 0; i < n; i += 1) {
      const far = (px(i) - width / 2) ** 2 + (py(i) - height / 2) ** 2;
      if (state.shown[i] && far < best) [best, found] = [far, i];
    }
    return found;
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  above.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const here = marks.hover >= 0 ? marks.hover : marks.pinned;
    const step = ARROWS[event.key];
    if (step) {
      const next = here < 0 ? middle() : beside(here, ...step);
      if (next >= 0) tell.hover(next);
    } else if (event.key === "Enter") tell.pin(here);
    else if (event.key === " ") { if (here >= 0) tell.select([here], true); }
    else if (event.key === "+" || event.key === "=") zoom(1.6, here < 0 ? undefined : px(here), here < 0 ? undefined : py(here));
    else if (event.key === "-") zoom(1 / 1.6);
    else if (event.key.toLowerCase() === "b" && here >= 0) {
      if (corner < 0) corner = here;
      else { within(boxOf([Math.min(px(corner), px(here)) - 0.5, Math.min(py(corner), py(here)) - 0.5], [Math.max(px(corner), px(here)) + 0.5, Math.max(py(corner), py(here)) + 0.5]), event.shiftKey); corner = -1; }
      drawMarks();
    } else if (event.key === "Escape") { corner = -1; tell.clear(); }
    else return;
    event.preventDefault();
  });
  above.addEventListener("blur", () => { tell.hover(-1); });

  above.addEventListener("pointerdown", (event) => {
    grip = [event.offsetX, event.offsetY];
    if (tool !== "point") path = [grip];
    try { above.setPointerCapture(event.pointerId); } catch { /* a pointer that is gone again */ }
  });
  above.addEventListener("pointermove", (event) => {
    const at = [event.offsetX, event.offsetY];
    if (path) { path.push(at); drawMarks(); return; }
    if (grip && view.scale > 1) {
      view.x -= (at[0] - grip[0]) / ((width - 16) * view.scale);
      view.y -= (at[1] - grip[1]) / ((height - 16) * view.scale);
      if (Math.hypot(at[0] - grip[0], at[1] - grip[1]) > 2) above.dataset.moved = "1";
      grip = at;
      draw();
      return;
    }
    const found = nearest(...at);
    if (found !== marks.hover) tell.hover(found);
  });
  above.addEventListener("pointerup", (event) => {
    if (path) path.push([event.offsetX, event.offsetY]);
    const far = path ? Math.max(...path.map(([a, b]) => Math.hypot(a - path[0][0], b - path[0][1]))) : 0;
    const drawn = far > 4 && (tool === "box" || path.length > 3);
    if (drawn) within(corners(), event.shiftKey);
    else if (!above.dataset.moved) tell.pin(nearest(event.offsetX, event.offsetY));
    [path, grip] = [null, null];
    delete above.dataset.moved;
    drawMarks();
  });
  above.addEventListener("pointercancel", () => { [path, grip] = [null, null]; drawMarks(); });
  above.addEventListener("pointerleave", () => { if (!path && document.activeElement !== above) tell.hover(-1); });
  above.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // a page is scrolled past a map, not caught by it
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, event.offsetX, event.offsetY);
  }, { passive: false });

  new ResizeObserver(fit).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => requestAnimationFrame(draw));
  return {
    zoom,
    draw(next) { state = { ...state, ...next }; draw(); },
    mark(next) { marks = { ...marks, ...next }; drawMarks(); },
    use(next) { tool = next; above.style.touchAction = next === "point" ? "pan-y" : "none"; above.classList.toggle("drawing", next !== "point"); },
    at: (i) => [px(i), py(i)],
    canvas: above,
  };
}
