# ruff: noqa: INP001, T201  # mounted as it is, and what it says is all it does
"""A bot that does nothing but ask: the price of a contract every two seconds, through the gateway beside it.

`--alive`: exit 0 if the bot has come round lately, for its probe.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from threading import Event

URL = os.environ["BYBIT_URL"]
PULSE = Path(tempfile.gettempdir(), "pulse")
EVERY_S = 2.0
LATE_S = 60.0


def ask(target: str) -> dict[str, object]:
    with urllib.request.urlopen(URL + target, timeout=15) as answer:  # noqa: S310  # the pod's own gateway
        found: dict[str, object] = json.load(answer)
        return found


def run() -> None:
    told_to_stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: told_to_stop.set())
    while True:
        last = told_to_stop.wait(EVERY_S)
        try:
            answer = ask("/v5/market/tickers?category=linear&symbol=BTCUSDT")
            print(json.dumps({"bot": "last" if last else "asked", "retCode": answer.get("retCode")}))
        except OSError as error:
            print(json.dumps({"bot": "failed", "error": str(error)}))
        PULSE.touch()
        if last:  # where a real one would cancel its orders: the gateway is still there
            return


if __name__ == "__main__":
    if sys.argv[1:] == ["--alive"]:
        sys.exit(time.time() - PULSE.stat().st_mtime > LATE_S)  # noqa: TID251  # as the file system's
    run()
