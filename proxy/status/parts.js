// Small pieces of the page. Data goes in as text only, whatever it looks like.

export function byId(id) {
  return document.getElementById(id);
}

export function say(id, text) {
  const place = byId(id);
  if (place.textContent !== text) place.textContent = text;
}

export function made(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

// A bar that is full at `whole`.
export function bar(part, whole) {
  const outer = made("span", "bar");
  outer.setAttribute("aria-hidden", "true");
  const inner = made("span", "fill");
  const percent = Math.min(100, (100 * part) / Math.max(1, whole));
  inner.style.width = `${percent}%`;
  outer.dataset.load = loadOf(percent);
  outer.append(inner);
  return outer;
}

export function loadOf(percent) {
  return percent >= 95 ? "full" : percent >= 80 ? "high" : "low";
}

// Rows of cells: the first is the row's heading. A cell is a text, or {text, number, node, small}.
export function fill(table, rows, empty) {
  const body = table.tBodies[0];
  const width = table.tHead.rows[0].cells.length;
  const lines = rows.map((cells) => {
    const line = document.createElement("tr");
    cells.forEach((cell, place) => line.append(cellOf(cell, place)));
    return line;
  });
  if (!lines.length) {
    const line = document.createElement("tr");
    const cell = made("td", "muted", empty);
    cell.colSpan = width;
    line.append(cell);
    lines.push(line);
  }
  body.replaceChildren(...lines);
}

function cellOf(cell, place) {
  const { text, number = false, node = null, small = "" } = typeof cell === "string" ? { text: cell } : cell;
  const element = made(place === 0 ? "th" : "td", number ? "n" : "", text);
  if (place === 0) element.scope = "row";
  if (small) element.append(made("small", "", small));
  if (node) element.append(node);
  return element;
}

// Pairs of a name and what is said of it.
export function facts(id, pairs) {
  const list = byId(id);
  const rows = pairs.map(([name, text, className = ""]) => {
    const row = made("div", className);
    row.append(made("dt", "", name), made("dd", "", text));
    return row;
  });
  list.replaceChildren(...rows);
}
