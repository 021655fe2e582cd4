// The gateway's stream of events, read by fetch() because EventSource cannot send a token. Tries again by itself, with
// growing pauses, and says what it does: heard(snapshot), lost(why, pauseMs), refused(knewOne).

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;
const SILENCE_MS = 25_000; // the gateway says something at least every ten seconds
const HIDDEN_MS = 60_000; // a page that nobody sees need not be told anything

export class Stream {
  constructor(told, token) {
    this.told = told;
    this.token = token;
    this.pauseMs = FIRST_PAUSE_MS;
    this.heardMs = 0;
    this.again = null;
    this.hide = null;
    this.abort = null;
    this.run = 0;
    document.addEventListener("visibilitychange", () => this.seen());
    setInterval(() => this.watch(), 1_000);
  }

  // Begin anew, at once.
  async open() {
    clearTimeout(this.again);
    this.again = null;
    this.abort?.abort();
    const run = ++this.run;
    this.abort = new AbortController();
    this.heardMs = performance.now();
    const token = this.token();
    let why = "The gateway cannot be reached.";
    try {
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      const answer = await fetch("events", { headers, cache: "no-store", signal: this.abort.signal });
      if (run !== this.run) return;
      if (answer.status === 401) {
        this.told.refused(Boolean(token));
        return;
      }
      if (answer.ok) {
        await this.read(answer.body, run);
        why = "The gateway has ended the connection.";
      } else {
        why = whyNot(answer);
      }
    } catch {
      // the reason is the browser's own affair: what it means stands in `why`
    }
    if (run === this.run) this.retry(why);
  }

  async read(body, run) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done || run !== this.run) return;
      this.heardMs = performance.now();
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) this.take(event);
    }
  }

  take(event) {
    const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
    if (!data.length || !event.includes("event: snapshot")) return;
    this.pauseMs = FIRST_PAUSE_MS;
    try {
      this.told.heard(JSON.parse(data.join("\n")));
    } catch (error) {
      reportError(error); // a mistake of this page is no lost connection
    }
  }

  retry(why) {
    const pauseMs = this.pauseMs;
    this.pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    this.told.lost(why, pauseMs);
    this.again = setTimeout(() => this.open(), pauseMs);
  }

  // A connection can die without a word.
  watch() {
    if (this.again === null && this.abort && !this.abort.signal.aborted &&
        performance.now() - this.heardMs > SILENCE_MS) {
      this.abort.abort();
    }
  }

  seen() {
    clearTimeout(this.hide);
    if (document.hidden) {
      this.hide = setTimeout(() => {
        this.run += 1;
        clearTimeout(this.again);
        this.abort?.abort();
        this.asleep = true;
      }, HIDDEN_MS);
    } else if (this.asleep) {
      this.asleep = false;
      this.open();
    }
  }
}

function whyNot(answer) {
  switch (answer.headers.get("X-Gateway")) {
    case "too-many-viewers":
      return "Too many people are watching this gateway.";
    case "draining":
      return "The gateway is ending.";
    default:
      return `The gateway has answered with HTTP ${answer.status}.`;
  }
}
