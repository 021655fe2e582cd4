// What the stream tells goes onto the page; what has changed for good or bad is spoken.

import { show } from "./figures.js";
import { clock, span } from "./format.js";
import { byId, made, say } from "./parts.js";
import { Stream } from "./stream.js";

const TOKEN = "gateway-token";
const STATES = {
  ok: "In order", degraded: "With care", failing: "Failing", banned: "Banned", draining: "Ending", starting: "Starting",
};

let token = kept();
let latest = null; // the last snapshot, and
let aheadMs = 0; // how far the gateway's clock is ahead of ours
let lostMs = null; // since when nothing is heard, and
let againMs = 0; // when it is tried again
let lostWhy = "";
let known = null; // notices by id, as they were last told

const stream = new Stream({ heard, lost, refused }, () => token);

function kept() {
  try {
    return sessionStorage.getItem(TOKEN) ?? "";
  } catch {
    return "";
  }
}

function keep(value) {
  token = value;
  try {
    sessionStorage.setItem(TOKEN, value);
  } catch {
    // storage can be forbidden: it is asked for again in another tab
  }
}

function speak(text) {
  byId("spoken").append(made("p", "", text));
  while (byId("spoken").childElementCount > 5) byId("spoken").firstElementChild.remove();
}

function heard(snapshot) {
  if (lostMs !== null && latest !== null) speak("The connection is back.");
  lostMs = null;
  latest = snapshot;
  aheadMs = snapshot.now_ms - Date.now();
  byId("token").hidden = true;
  byId("figures").hidden = false;
  document.body.classList.remove("old");
  byId("again").hidden = true;
  tellNotices(snapshot.notices);
  pill(snapshot.status, STATES[snapshot.status] ?? snapshot.status);
  document.title = snapshot.status === "ok" ? "Bybit gateway" : `${STATES[snapshot.status]} · Bybit gateway`;
  show(snapshot);
  tick();
}

function lost(why, pauseMs) {
  if (lostMs === null) {
    lostMs = Date.now();
    if (latest !== null) speak("The connection to the gateway is lost. It is tried again.");
  }
  lostWhy = why;
  againMs = Date.now() + pauseMs;
  document.body.classList.add("old");
  byId("again").hidden = false;
  pill("lost", "Connection lost");
  document.title = "Connection lost · Bybit gateway";
  tick();
}

function refused(knewOne) {
  lostMs = null;
  if (knewOne) keep("");
  byId("figures").hidden = true;
  byId("again").hidden = true;
  byId("token").hidden = false;
  pill("unknown", "Token needed");
  say("link", "This gateway shows its status to those who know its token.");
  say("token-error", knewOne ? "The gateway does not know this token." : "");
  byId("token-field").focus();
}

function pill(state, word) {
  byId("state").dataset.state = state;
  say("state-word", word);
}

function tellNotices(notices) {
  const now = new Map(notices.map((notice) => [notice.id, notice]));
  if (known !== null) {
    for (const [id, notice] of now) if (!known.has(id)) speak(notice.text);
    for (const [id, notice] of known) if (!now.has(id)) speak(`This is over: ${notice.text.split(/[.:]/)[0]}.`);
  }
  known = now;
  const items = notices.map(({ level, text }) => {
    const item = made("li", "notice");
    item.dataset.level = level;
    item.append(made("span", "level", { bad: "Trouble", care: "Care", note: "Note" }[level] ?? level), made("span", "", text));
    return item;
  });
  byId("notices").replaceChildren(...items);
  byId("notices-section").hidden = !items.length;
}

// Once a second: what counts down goes on counting, also while nothing is heard.
function tick() {
  if (lostMs !== null) {
    const left = againMs - Date.now();
    const when = left > 0 ? `Trying again in ${span(left)}.` : "Trying again …";
    const since = latest === null ? "" : ` The figures are of ${clock(latest.now_ms - aheadMs)}.`;
    say("link", `${lostWhy} ${when}${since}`);
  } else if (latest !== null && byId("token").hidden) {
    say("link", latest.worker
      ? `Live. Worker ${latest.worker.number} of ${latest.worker.of}: figures of this one only, but for limits and bans.`
      : `Live, as of ${clock(latest.now_ms - aheadMs)}`);
  }
  if (latest?.ban.banned) {
    const left = latest.ban.until_ms - (Date.now() + aheadMs);
    say("ban-state", left > 0 ? span(left) : "Should be over");
  }
}

byId("again").addEventListener("click", () => stream.open());
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keep(byId("token-field").value.trim());
  byId("token-field").value = "";
  stream.open();
});
setInterval(tick, 1_000);
stream.open();
