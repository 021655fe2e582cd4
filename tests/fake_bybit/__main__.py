"""Run the fake exchange on its own: python -m tests.fake_bybit --help."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from tests.fake_bybit import FakeBybit
from tests.fake_bybit.settings import SettingError, Settings

_EPILOG = """\
examples:
  python -m tests.fake_bybit --port 9443
  python -m tests.fake_bybit --port 9443 --tls --tls-dir /tmp/fake-bybit
  python -m tests.fake_bybit --set ip_limit=60 --set ip_ban_us=5000000 --set kline_limit_over_max=error

keys: test-key/test-secret and test-key-2/test-secret-2 (account 1001), other-key/other-secret (account 2002).
While it runs, the control port changes settings, adds faults and shows what arrived; see docs/fake-exchange.md.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.fake_bybit",
        description="A fake of Bybit's v5 REST API with its signatures, limits, bans and failures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    made.add_argument("--port", type=int, default=9443, help="0 picks a free one (default: %(default)s)")
    made.add_argument(
        "--control-port",
        type=int,
        help="remote control, on 127.0.0.1 only; 0 picks a free one (default: the next one after --port)",
    )
    made.add_argument("--tls", action="store_true", help="serve https with a certificate made at start")
    made.add_argument(
        "--tls-dir", type=Path, metavar="DIR", help="where to write ca.pem (default: a temporary directory)"
    )
    made.add_argument("--seed", type=int, default=1, help="of prices, trades and faults (default: %(default)s)")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="assignments",
        help="change a setting, may be repeated; VALUE is JSON or a bare word",
    )
    return made


async def run(arguments: argparse.Namespace, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    next_port = arguments.port + 1 if arguments.port else 0
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    async with FakeBybit(
        tls=arguments.tls,
        tls_dir=arguments.tls_dir,
        seed=arguments.seed,
        settings=settings,
        host=arguments.host,
        port=arguments.port,
        control_port=next_port if arguments.control_port is None else arguments.control_port,
    ) as exchange:
        trust = f", CA {exchange.ca_path}" if exchange.ca_path else ""
        print(f"fake Bybit ready: {exchange.url}, control {exchange.control_url}{trust}", flush=True)
        await stop.wait()


def main() -> int:
    """Parse, serve, stop."""
    arguments = parser().parse_args()
    settings = Settings()
    try:
        for assignment in arguments.assignments:
            settings.set_text(assignment)
    except SettingError as error:
        print(f"--set: {error}", file=sys.stderr)
        return 2
    try:
        asyncio.run(run(arguments, settings))
    except OSError as error:
        print(f"cannot listen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
