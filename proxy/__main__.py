"""Command line: run the gateway, or check a configuration without starting it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

import uvloop

from proxy import app, log
from proxy.config import Config, ConfigError, load, load_routes

_DEFAULT_FILE: Final = Path("config.yaml")
_BAD_CONFIG: Final = 2


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        config = load(_file(options.config), os.environ, load_routes())
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        count = len(error.problems)
        print(f"{count} problem{'s' if count != 1 else ''}; nothing was started.", file=sys.stderr)
        return _BAD_CONFIG
    if options.command == "check":
        return _check(config)
    return _run(config)


def _run(config: Config) -> int:
    sink = log.Sink(sys.stdout.fileno())
    log.set_up(config.log.level, config.log.format, sink)
    try:
        uvloop.run(app.serve(config, load_routes(), sink))
    except OSError as error:
        where = f"{config.listen.host}:{config.listen.port}"
        print(f"cannot listen on {where}: {error.strerror} (another listen.port?)", file=sys.stderr)
        return 1
    finally:
        sink.close()
    return 0


def _check(config: Config) -> int:
    for line in app.banner(config, config.listen.port):
        print(line)
    print("The configuration is good.")
    return 0


def _file(given: Path | None) -> Path | None:
    """The file that was named, or config.yaml where there is one, or none: every field has a default."""
    if given is not None:
        return given
    return _DEFAULT_FILE if _DEFAULT_FILE.exists() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bybit-gateway",
        description="A reverse-proxy gateway for Bybit: one shared budget, byte-exact forwarding, a candle cache.",
        epilog="Every field of the configuration can be set by the environment: GATEWAY__LISTEN__PORT=8080.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,  # or it would undo the one given before the command
        help="configuration (default: config.yaml if it exists, else defaults)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", parents=[common], help="run the gateway (the default)")
    commands.add_parser("check", parents=[common], help="check a configuration, report every mistake, start nothing")
    parser.set_defaults(command="run")
    parser.add_argument("--config", type=Path, metavar="FILE", default=None, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
