// One snapshot becomes what stands in the cards.

import { bytes, clock, count, many, micros, minutes, percent, span, windowWords } from "./format.js";
import { bar, byId, facts, fill, loadOf, made, say } from "./parts.js";
import { described, Plot, roundUp } from "./plots.js";

const plots = {
  budget: new Plot(byId("budget-plot"), {
    lines: [
      { name: "used", className: "first", filled: true },
      { name: "usable", className: "bound" },
    ],
    legend: true,
  }),
  traffic: new Plot(byId("traffic-plot"), {
    lines: [
      { name: "from clients", className: "first", filled: true },
      { name: "to the exchange", className: "second" },
    ],
    legend: true,
  }),
  queue: new Plot(byId("queue-plot"), { lines: [{ name: "waiting", className: "first", filled: true }] }),
};

const CLASSES = {
  cancel: "Cancels", order: "Orders", account: "Accounts", live: "Live data", history: "History",
};
const TIMES = {
  response: "Whole answers", added: "Added by the gateway, without waiting", exchange: "The exchange",
};
const BREAKER = { closed: "Answers", open: "Left alone", "half-open": "On trial" };

export function show(snapshot) {
  budget(snapshot);
  traffic(snapshot);
  cache(snapshot.cache);
  exchange(snapshot);
  ban(snapshot);
  queue(snapshot);
  latency(snapshot.latency);
  windows(snapshot.windows);
  callers(snapshot.callers);
  about(snapshot);
}

function budget({ budget: now, history }) {
  const gauge = byId("budget-gauge");
  const most = Math.max(4, now?.limit ?? 0, ...history.usable.map((value) => value ?? 0));
  plots.budget.draw({
    ago: history.ago_s, spanS: history.span_s, columns: [history.used, history.usable], most, shown: count,
    words: described("Used of the budget", history.used, "requests"),
  });
  gauge.hidden = now === null;
  if (now === null) {
    say("budget-used", "–");
    say("budget-of", "");
    say("budget-note", "No rule counts what is sent from the address, or the common store cannot be asked.");
    return;
  }
  const part = (100 * now.used) / Math.max(1, now.usable);
  say("budget-used", count(now.used));
  say("budget-of", `of ${count(now.usable)} in ${windowWords(now.window_us / 1e6)}`);
  gauge.setAttribute("aria-valuenow", String(Math.round(part)));
  gauge.setAttribute("aria-valuetext", `${count(now.used)} of ${count(now.usable)} requests`);
  gauge.dataset.load = loadOf(part);
  gauge.firstElementChild.style.width = `${Math.min(100, part)}%`;
  const less = now.usable < now.limit ? `; the whole is ${count(now.limit)}` : "";
  say("budget-note", `${percent(now.used, now.usable)} used, by the rule ${now.rule}${less}`);
}

function traffic({ traffic: now, history, exchange: upstream }) {
  say("traffic-in", count(now.requests_per_s));
  say("traffic-out", count(now.sent_per_s));
  say("traffic-note", `${many(now.requests, "request")} in the last ${minutes(now.span_s)}, ` +
    `${count(now.sent)} of the exchange; ${count(upstream.in_flight)} on their way to it`);
  plots.traffic.draw({
    ago: history.ago_s, spanS: history.span_s, columns: [history.requests_per_s, history.sent_per_s], shown: count,
    most: roundUp(Math.max(...history.requests_per_s, ...history.sent_per_s, 0)),
    words: `${described("From clients", history.requests_per_s, "a second")} ` +
      described("To the exchange", history.sent_per_s, "a second"),
  });
}

function cache(now) {
  if (now === null) {
    say("cache-ratio", "Off");
    say("cache-span", "");
    byId("cache-stack").replaceChildren();
    facts("cache-legend", []);
    return;
  }
  const parts = [
    ["Fresh", now.hits, "hit"], ["Older, as allowed", now.stale, "stale"],
    ["Shared another’s fetch", now.shared, "shared"], ["Fetched", now.misses, "miss"],
  ];
  const all = now.hits + now.stale + now.shared + now.misses;
  say("cache-ratio", percent(now.hits + now.stale, all));
  say("cache-span", all ? `of ${count(all)} in the last ${minutes(now.span_s)}` : "nothing asked for lately");
  byId("cache-stack").replaceChildren(...parts.filter(([, value]) => value).map(([, value, className]) => {
    const piece = made("span", className);
    piece.style.flexGrow = String(value);
    return piece;
  }));
  facts("cache-legend", [
    ...parts.map(([name, value, className]) => [name, count(value), className]),
    ["Kept in memory", bytes(now.bytes)],
  ]);
}

function exchange({ exchange: now, latency: times, ban }) {
  const state = byId("exchange-state");
  state.dataset.tone = now.breaker === "closed" && !ban.banned ? "good" : "bad";
  const silent = now.breaker === "closed" && now.answered_ago_us === null;
  say("exchange-state", ban.banned ? "Banned" : silent ? "Not asked yet" : BREAKER[now.breaker] ?? now.breaker);
  const took = times.find(({ what }) => what === "exchange") ?? {};
  facts("exchange-facts", [
    ["Circuit breaker", now.tried_again_in_us
      ? `${now.breaker}, tried again in ${span(now.tried_again_in_us / 1000)}` : now.breaker],
    ["Last answer to a client", ago(now.answered_ago_us)],
    ["Last failure for a client", now.failed_ago_us === null ? "none" : `${ago(now.failed_ago_us)}: ${now.failure}`],
    [`Failed in ${minutes(now.span_s)}`, `${count(now.failed)} of ${count(now.asked)}, ${percent(now.failed, now.asked)}`],
    ["Answers within", `${micros(took.p50_us)} (half), ${micros(took.p95_us)} (95 %)`],
  ]);
}

function ago(us) {
  if (us === null) return "none yet";
  return us < 1_500_000 ? "just now" : `${span(us / 1000)} ago`;
}

function ban({ ban: now, blocks, trading }) {
  byId("ban-state").dataset.tone = now.banned ? "bad" : "good";
  if (now.banned) {
    say("ban-note", `left of a ban at least, until ${clock(now.until_ms)}; it began at ${clock(now.since_ms)}` +
      (now.times > 1 ? `, the ${count(now.times)}th in a row` : ""));
  } else {
    say("ban-state", "No ban");
    say("ban-note", (trading === "normal" ? "Trading: normal" : "Trading is halted: new orders are refused") +
      (blocks.length ? "" : "; no account is blocked"));
  }
  byId("blocks").hidden = !blocks.length;
  fill(byId("blocks"), blocks.map((block) => [
    { text: block.rule, small: block.whose }, { text: span(block.left_ms), number: true },
  ]), "");
}

function queue({ queue: now, history }) {
  fill(byId("queue"), now.classes.map((row) => [
    CLASSES[row.class] ?? row.class,
    { text: count(row.waiting), number: true },
    { text: micros(row.p50_us), number: true },
    { text: micros(row.p95_us), number: true },
  ]), "");
  plots.queue.draw({
    ago: history.ago_s, spanS: history.span_s, columns: [history.waiting], shown: count,
    most: roundUp(Math.max(...history.waiting, 0)), words: described("Waiting", history.waiting, "requests"),
  });
}

function latency(rows) {
  fill(byId("latency"), rows.map((row) => [
    { text: TIMES[row.what] ?? row.what, small: row.count ? `${count(row.count)} of them` : "none lately" },
    ...[row.p50_us, row.p95_us, row.p99_us].map((us) => ({ text: micros(us), number: true })),
  ]), "");
}

function windows(now) {
  for (const kind of ["rules", "accounts", "clients"]) {
    const rows = now[kind].map((row) => [
      { text: row.rule, small: whose(row) },
      {
        text: `${count(row.used)} of ${count(row.usable)} in ${windowWords(row.window_s)}`,
        node: bar(row.used, row.usable),
      },
      { text: count(row.waiting), number: true },
    ]);
    const more = now[`${kind}_more`];
    if (more) rows.push([`and ${many(more, "window")} less full`, "", ""]);
    fill(byId(kind), rows, "None in use.");
  }
}

function whose(row) {
  const parts = row.whose && row.whose !== row.rule ? [row.whose] : [];
  if (!row.enforced) parts.push("on trial, not enforced");
  if (row.others) parts.push(`${count(row.others)} left to others`);
  return parts.join(" · ");
}

function callers(now) {
  fill(byId("callers"), now.rows.map((row) => [
    row.name,
    { text: count(row.requests), number: true },
    { text: percent(row.cached, row.requests), number: true },
    { text: count(row.refused), number: true },
  ]), "Nobody has asked for anything.");
}

function about({ version, uptime_s: uptimeS, unready, config, store, worker, trading }) {
  const states = {
    ok: "in force", fixed: "in force", refused: `the file has ${many(config.error_count, "mistake")}, the one before is in force`,
    "needs-restart": "in force, but for fields that need a restart",
  };
  const loaded = config.loaded_at === null ? "" : `, loaded ${new Date(config.loaded_at).toLocaleString("en-GB")}`;
  const shared = store.mode === undefined ? "in this process"
    : `${store.mode}, ${many(store.replicas, "gateway")}, own share ${percent(store.share, 1)}`;
  facts("about", [
    ["Ready for requests", unready.length ? `no: ${unready.join(", ")}` : "yes"],
    ["Version", version],
    ["Running for", span(uptimeS * 1000)],
    ["Configuration", `${config.hash}, ${states[config.status] ?? config.status}${loaded}`],
    ["Limits are kept", shared],
    ["Trade switch", trading],
    ...(worker ? [["Worker process", `${worker.number} of ${worker.of}`]] : []),
  ]);
}
