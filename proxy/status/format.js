// Numbers as people read them, always with their unit.

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const NOTHING = "–";

export function count(value) {
  return value === null || value === undefined ? NOTHING : GROUPED.format(value);
}

export function many(value, one, more = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : more}`;
}

export function percent(part, whole) {
  if (!whole) return NOTHING;
  const value = (100 * part) / whole;
  return `${value > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

export function micros(us) {
  if (us === null || us === undefined) return NOTHING;
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1_000_000) return `${significant(us / 1000)} ms`;
  return `${significant(us / 1_000_000)} s`;
}

function significant(value) {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

// 9 min 41 s; rounded up, so that nothing is over before it says so.
export function span(ms) {
  let seconds = Math.max(0, Math.ceil(ms / 1000));
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const whole = Math.floor(seconds / size);
    seconds -= whole * size;
    if (whole) parts.push(`${whole} ${unit}`);
  }
  return parts.slice(0, 2).join(" ") || "0 s";
}

export function minutes(seconds) {
  return seconds < 90 ? many(Math.round(seconds), "second") : many(Math.round(seconds / 60), "minute");
}

export function bytes(value) {
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB"]) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return `${GROUPED.format(value)} ${unit}`;
}

// The time of day where the reader is.
export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

export function windowWords(seconds) {
  if (seconds % 3600 === 0) return `${seconds / 3600} h`;
  if (seconds % 60 === 0) return `${seconds / 60} min`;
  return `${seconds} s`;
}
