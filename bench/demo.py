"""`make demo`: the gateway before the fake exchange, with a little traffic: everything can be seen without network.

Prints what it shows and then keeps running, with some traffic, until Ctrl-C (or ends at once with --once). What it
starts belongs to it: if one of the two ends, so does the demo.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

ROOT: Final = Path(__file__).parents[1]
KEY, SECRET = "test-key", "test-secret"
KLINES = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1"
BOTS: Final = 6
RATE: Final = 300
SECONDS: Final = 4
_MINUTE_MS: Final = 60_000


def port_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_535):
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65534, got {text!r}")
    return int(text)


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--port", type=port_number, default=os.environ.get("GATEWAY__LISTEN__PORT", "8080"))
    parser.add_argument("--exchange-port", type=port_number, default=os.environ.get("DEMO_EXCHANGE_PORT", "9443"))
    parser.add_argument("--once", action="store_true", default=bool(os.environ.get("DEMO_ONCE")))
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # also where it is no terminal
    ports = (options.port, options.exchange_port, options.exchange_port + 1)
    if len(set(ports)) < len(ports):
        parser.error("the gateway needs a port, and the exchange another one and the next: they must differ")
    taken = [port for port in ports if not is_free(port)]
    if taken:
        print(
            f"make demo: port {', '.join(map(str, taken))} of 127.0.0.1 is taken (by another demo, or a gateway?)."
            " End that, or choose others: GATEWAY__LISTEN__PORT=8090 DEMO_EXCHANGE_PORT=9553 make demo",
            file=sys.stderr,
        )
        return 1
    shows = asyncio.create_task(show(options))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the last: its terminal was closed
        asyncio.get_running_loop().add_signal_handler(number, shows.cancel)
    good = False
    try:
        good = await shows
    except asyncio.CancelledError:
        good = True  # whoever looked on has seen enough
    except ExceptionGroup as several:
        if several.split((EndedError, aiohttp.ClientError, json.JSONDecodeError))[1] is not None:
            raise
        ended = next((each for each in several.exceptions if isinstance(each, EndedError)), None)
        print(f"make demo: {ended or 'an answer was not as it should be, see above'}", file=sys.stderr)
    return 0 if good else 1


async def show(options: argparse.Namespace) -> bool:
    """All of it. False: the exchange banned somebody, or a bot was not answered as it should be."""
    control = f"http://127.0.0.1:{options.exchange_port + 1}"
    async with (
        running(
            "tests.fake_bybit", "--port", str(options.exchange_port), "--control-port", str(options.exchange_port + 1)
        ) as exchange,
        running("proxy", "run", "--config", "config.yaml", **environment(options)) as gateway,
        aiohttp.ClientSession(f"http://127.0.0.1:{options.port}") as session,
        asyncio.TaskGroup() as group,
    ):
        watch = group.create_task(ends((exchange, gateway)))
        await ready(session)
        print(
            f"\nThe gateway listens on http://127.0.0.1:{options.port}, behind it a fake exchange that bans for real."
        )
        await show_cache(session)
        await show_order(session)
        good = await show_pacing(options.port, control)
        if not options.once:
            print("\nStill running. Try:")
            print(f"  curl -si 'http://127.0.0.1:{options.port}{KLINES}'")
            print(f"  curl -s http://127.0.0.1:{options.port}/gateway/limits")
            print(f"  http://127.0.0.1:{options.port}/gateway/    # in a browser: all of it, live")
            print(f"  curl -s {control}/stats          # the exchange's own books")
            print("Ctrl-C ends it.")
            await trickle(session)
        watch.cancel()
    return good


def environment(options: argparse.Namespace) -> dict[str, str]:
    return {
        "GATEWAY__LISTEN__PORT": str(options.port),
        "GATEWAY__UPSTREAM__URL": f"http://127.0.0.1:{options.exchange_port}",
        "GATEWAY__UPSTREAM__STREAM_URL": f"ws://127.0.0.1:{options.exchange_port}",
        "GATEWAY__STORE__STATE_FILE": "null",  # its exchange begins anew each time
        "LOG_LEVEL": "warning",
    }


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class EndedError(Exception):
    """What the demo needs has ended."""


@contextlib.asynccontextmanager
async def running(module: str, *arguments: str, **settings: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **settings},
        process_group=0,  # a Ctrl-C of the terminal is for the demo, which ends the two one after the other
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            try:
                await asyncio.to_thread(process.wait, 15)
            finally:
                process.kill()  # of no effect on one that has ended


async def ends(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Raises as soon as one of them is no more."""
    while True:
        for process in processes:
            if process.poll() is not None:
                raise EndedError(f"{' '.join(map(str, process.args[1:3]))} has ended, see above")  # type: ignore[index]
        await asyncio.sleep(0.1)


async def ready(session: aiohttp.ClientSession) -> None:
    for _ in range(200):
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get("/health/ready") as answer:
                if answer.status == 200:
                    async with session.get("/v5/market/time") as time_answer:
                        if time_answer.status == 200:
                            return
        await asyncio.sleep(0.05)
    raise EndedError("the gateway did not become ready within 10 s")


async def show_cache(session: aiohttp.ClientSession) -> None:
    print("\n1. Klines, twice:")
    for _ in range(2):
        async with session.get(f"{KLINES}&limit=3") as answer:
            rows = (await answer.json())["result"]["list"]
            print(f"   {answer.status}  Cache-Status: {answer.headers['Cache-Status']}   newest row {rows[0]}")


async def show_order(session: aiohttp.ClientSession) -> None:
    print("\n2. A signed order:")
    body = json.dumps(
        {
            "category": "linear",
            "symbol": "BTCUSDT",
            "side": "Buy",
            "orderType": "Limit",
            "qty": "0.01",
            "price": "20000",
        }
    )
    async with session.post("/v5/order/create", data=body, headers=sign(body)) as answer:
        reply = await answer.json()
        print(
            f"   {answer.status}  retCode {reply['retCode']} {reply['retMsg']}   orderId {reply['result']['orderId']}"
        )


def sign(payload: str) -> dict[str, str]:
    stamp = str(time.time_ns() // 1_000_000)
    text = f"{stamp}{KEY}5000{payload}"
    return {
        "Content-Type": "application/json",
        "X-BAPI-API-KEY": KEY,
        "X-BAPI-TIMESTAMP": stamp,
        "X-BAPI-RECV-WINDOW": "5000",
        "X-BAPI-SIGN": hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest(),
    }


async def show_pacing(port: int, control: str) -> bool:
    """Six bots, each on an address of its own (and none on yours), ask for 300 different candle ranges a second."""
    print(
        f"\n3. {BOTS} bots ask for {RATE} different kline ranges a second for {SECONDS} s; most are put together here:"
    )
    async with aiohttp.ClientSession() as direct:
        before = await stats(direct, control)
        statuses: Counter[str] = Counter()
        waits: list[float] = []
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            sampler = group.create_task(sample(direct, control))
            await asyncio.gather(*(bot(number, port, statuses, waits) for number in range(BOTS)))
            took = time.monotonic() - began
            sampler.cancel()
        after = await stats(direct, control)
    sent = after["requests"] - before["requests"]
    print(f"   answers: {dict(statuses)}")
    print(f"   the exchange saw {sent} requests in {took:.1f} s = {sent / took:.0f}/s; longest wait {max(waits):.1f} s")
    print(f"   bans {after['bans']}, most in any 5 s window {after['max_in_window']} of 600")
    return set(statuses) == {"200 retCode 0"} and after["bans"] == 0


async def bot(number: int, port: int, statuses: Counter[str], waits: list[float]) -> None:
    connector = aiohttp.TCPConnector(local_addr=(f"127.0.0.{number + 2}", 0), limit=0)
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, timeout=timeout) as session:

        async def ask(turn: int) -> None:
            end = 1_770_000_000_000 + (turn * BOTS + number) * _MINUTE_MS
            began = time.monotonic()
            async with session.get(f"{KLINES}&start={end - 4 * _MINUTE_MS}&end={end}") as answer:
                reply = await answer.json(content_type=None)
                statuses[f"{answer.status} retCode {reply['retCode']}"] += 1
                waits.append(time.monotonic() - began)

        pace = BOTS / RATE
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for turn in range(RATE * SECONDS // BOTS):
                await asyncio.sleep(max(0.0, began + turn * pace - time.monotonic()))
                group.create_task(ask(turn))


async def sample(session: aiohttp.ClientSession, control: str) -> None:
    last = (await stats(session, control))["requests"]
    while True:
        await asyncio.sleep(1)
        now = (await stats(session, control))["requests"]
        print(f"   sent to the exchange in the last second: {now - last}")
        last = now


async def stats(session: aiohttp.ClientSession, control: str) -> dict[str, Any]:
    async with session.get(f"{control}/stats") as answer:
        found: dict[str, Any] = await answer.json()
    return found


async def trickle(session: aiohttp.ClientSession) -> None:
    """A little traffic, so that metrics and limits show something."""
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{KLINES}&limit=200") as answer:
                await answer.read()
        await asyncio.sleep(1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
