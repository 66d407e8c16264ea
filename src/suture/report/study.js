// A study's table: sorted by a click, its groups of columns shown and hidden.

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
