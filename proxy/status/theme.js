// Light, dark, or as the system says. Runs before the first paint, so it is no module.
"use strict";
(() => {
  const KEY = "gateway-theme";
  const ORDER = ["auto", "dark", "light"];
  const WORDS = { auto: ["Auto", "as the system"], dark: ["Dark", "dark"], light: ["Light", "light"] };
  const root = document.documentElement;

  function stored() {
    try {
      const kept = localStorage.getItem(KEY);
      return ORDER.includes(kept) ? kept : "auto";
    } catch {
      return "auto"; // storage can be forbidden: the choice lasts as long as the page
    }
  }

  function put(theme) {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button === null) return;
    const [label, words] = WORDS[theme];
    button.textContent = label;
    button.setAttribute("aria-label", `Theme: ${words}`);
  }

  let theme = stored();
  put(theme);
  document.addEventListener("DOMContentLoaded", () => {
    put(theme);
    document.getElementById("theme").addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      put(theme);
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // as above
      }
    });
  });
})();
