// Plots as inline SVG: a picture with a text alternative, its labels beside it in HTML so that they never stretch.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 120;

function element(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function span(className, text = "") {
  const made = document.createElement("span");
  made.className = className;
  made.textContent = text;
  return made;
}

// A round number that is not below the value: 1, 2, 5 times a power of ten.
export function roundUp(value) {
  if (value <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

export class Plot {
  // `lines`: [{name, className, filled}], in the order in which their values are given.
  constructor(place, { lines, legend = false }) {
    this.svg = element("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", focusable: "false",
    });
    this.title = element("title");
    this.svg.append(this.title);
    for (const part of [0, 0.5, 1]) {
      const y = HEIGHT * part;
      this.svg.append(element("line", { x1: 0, x2: WIDTH, y1: y, y2: y, class: "rule" }));
    }
    this.areas = lines.map(({ className, filled }) => {
      const area = filled ? element("path", { class: `area ${className}` }) : null;
      const line = element("path", { class: `line ${className}` });
      this.svg.append(...(area ? [area, line] : [line]));
      return { area, line };
    });
    const frame = span("frame");
    frame.append(this.svg);
    this.top = span("y top");
    this.half = span("y half");
    const axis = span("axis");
    axis.setAttribute("aria-hidden", "true");
    this.from = span("");
    axis.append(this.from, ...(legend ? [legendOf(lines)] : []), span("", "now"));
    for (const label of [this.top, this.half]) label.setAttribute("aria-hidden", "true");
    frame.append(this.top, this.half);
    place.append(frame, axis);
  }

  // `ago`: seconds, the oldest first; `columns`: values of each line; `most`: what the upper edge stands for.
  draw({ ago, spanS: longestS, columns, most, words, shown = String }) {
    const spanS = spanOf(ago, longestS);
    this.title.textContent = words;
    this.top.textContent = shown(most);
    this.half.textContent = shown(most / 2);
    this.from.textContent = `${Math.round(spanS / 60)} min ago`;
    columns.forEach((values, number) => {
      const runs = runsOf(ago, values, spanS, most);
      const { area, line } = this.areas[number];
      line.setAttribute("d", runs.map(lineOf).join(""));
      if (area) area.setAttribute("d", runs.map(areaOf).join(""));
    });
  }
}

// A young gateway has a short past: it is drawn across the whole width all the same.
function spanOf(ago, longestS) {
  const oldestS = ago.length ? ago[0] : 0;
  return [60, 120, 300].find((spanS) => spanS >= oldestS && spanS < longestS) ?? longestS;
}

function legendOf(lines) {
  const legend = span("keys");
  for (const { name, className } of lines) legend.append(span(`key ${className}`, name));
  return legend;
}

// Where nobody could tell there is a gap.
function runsOf(ago, values, spanS, most) {
  const runs = [];
  let run = [];
  values.forEach((value, place) => {
    if (value === null) {
      if (run.length) runs.push(run);
      run = [];
      return;
    }
    const x = WIDTH * (1 - ago[place] / spanS);
    const y = HEIGHT * (1 - Math.min(1, value / most));
    run.push([x.toFixed(1), y.toFixed(1)]);
  });
  if (run.length) runs.push(run);
  return runs;
}

function lineOf(run) {
  return run.map(([x, y], place) => `${place ? "L" : "M"}${x} ${y}`).join("");
}

function areaOf(run) {
  return `${lineOf(run)}L${run[run.length - 1][0]} ${HEIGHT}L${run[0][0]} ${HEIGHT}Z`;
}

// What a picture says, for those who do not see it.
export function described(name, values, unit) {
  const known = values.filter((value) => value !== null);
  if (!known.length) return `${name}: nothing known yet.`;
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const round = (value) => Math.round(value * 10) / 10;
  return `${name}: ${round(known[known.length - 1])} ${unit} now, ${round(mean)} on average, ` +
    `${round(Math.max(...known))} at most in the last ten minutes.`;
}
