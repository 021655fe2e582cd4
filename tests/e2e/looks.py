"""What a page must be for everybody, computed in the page itself: contrast, names, headings, tables."""

from __future__ import annotations

from typing import Final

CONTRAST: Final = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const light = (color) => {
    const [r, g, b] = color.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    if (element === null) return [255, 255, 255];
    return over(rgb(getComputedStyle(element).backgroundColor), ground(element.parentElement));
  };
  const poor = [];
  let looked = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility() || element.closest("title, script")) continue;
    looked += 1;
    const back = ground(element);
    const front = over(rgb(getComputedStyle(element).color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${node.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return [looked, poor];
}"""
"""How many texts were looked at, and those that are hard to read (WCAG 2.2, 1.4.3)."""

FAULTS: Final = """() => {
  const faults = [];
  const named = (element) => (element.getAttribute("aria-label") ?? "").trim() ||
    (element.labels?.length ? element.labels[0].textContent.trim() : "") ||
    (element.matches("button, a") ? element.textContent.trim() : "");
  const all = (selector) => [...document.querySelectorAll(selector)];
  for (const each of all("button, a[href], input, select, textarea, [role=meter]")) {
    if (!named(each)) faults.push(`no name: ${each.outerHTML.slice(0, 60)}`);
  }
  for (const each of all("[tabindex]")) if (each.tabIndex > 0) faults.push(`jumps the order: ${each.id}`);
  const ids = all("[id]").map((each) => each.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`twice: ${id}`);
  for (const each of all("[aria-labelledby], [aria-describedby]")) {
    const text = `${each.getAttribute("aria-labelledby") ?? ""} ${each.getAttribute("aria-describedby") ?? ""}`;
    for (const id of text.split(" ").filter(Boolean)) if (!document.getElementById(id)) faults.push(`nowhere: ${id}`);
  }
  for (const each of all("section")) if (!each.getAttribute("aria-labelledby")) faults.push("a section without a name");
  for (const each of all("table")) {
    if (!each.caption?.textContent.trim()) faults.push(`no caption: ${each.id}`);
    for (const cell of each.querySelectorAll("th")) if (!cell.scope) faults.push(`no scope: ${cell.textContent}`);
  }
  for (const each of all("svg").filter((picture) => picture.checkVisibility())) {
    if (each.getAttribute("role") !== "img" || !each.querySelector("title")?.textContent.trim()) {
      faults.push("a plot without words");
    }
  }
  if (all("h1").length !== 1) faults.push("not one h1");
  if (all("main").length !== 1 || all("header").length !== 1) faults.push("landmarks are missing");
  let level = 1;
  for (const each of all("h1, h2, h3, h4")) {
    const next = Number(each.tagName[1]);
    if (next > level + 1) faults.push(`a heading skips a level: ${each.textContent}`);
    level = next;
  }
  if (!document.documentElement.lang) faults.push("no language");
  return faults;
}"""
"""What somebody who does not see the page, or has no mouse, would stumble over."""
