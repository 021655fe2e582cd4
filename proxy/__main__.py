"""Command line: run the gateway; check its configuration, explain what it does with a request, download candles."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NoReturn

import uvloop
from multidict import CIMultiDict

from policies.routing import RouteTable
from proxy import log, ports, serving
from proxy.advice import advice
from proxy.banner import banner, greet
from proxy.clock import system_clock
from proxy.config import Config, load_routes
from proxy.config_environment import FILE
from proxy.config_problems import ConfigError
from proxy.config_schema import config_schema
from proxy.download import command as download_command
from proxy.download.run import download
from proxy.explain import Question, explain
from proxy.explanation import as_json, as_text
from proxy.metrics.page import as_markdown
from proxy.reload import Source
from proxy.siblings import Worker
from proxy.workers import Workers, drain_seconds, objection_of

_DEFAULT_FILE: Final = Path("config.yaml")
_FILE_VARIABLE: Final = "GATEWAY_CONFIG"
_SCHEMA_FILE: Final = Path("config.schema.json")
_METRICS_FILE: Final = Path("docs/metrics.md")
_BAD_CONFIG: Final = 2
_REFUSED: Final = 1


def program() -> NoReturn:
    """The command line as a process. It ends at once when all is said: a thread that still looks up a name, for which
    no name server answers, would be waited for otherwise, and with it whoever stops a container."""
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads on
        code = code or _REFUSED
    os._exit(code)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    routes = load_routes()
    if options.command == "schema":
        return _made(_SCHEMA_FILE, config_schema(routes), options)
    if options.command == "metrics":
        return _made(_METRICS_FILE, as_markdown().encode(), options)
    source = Source(_file(options.config), os.environ, routes)
    try:
        config = source.load()
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        count = len(error.problems)
        print(f"{count} problem{'s' if count != 1 else ''}; nothing was started.", file=sys.stderr)
        if options.config is None and os.environ.get(_FILE_VARIABLE):
            print(f"{_FILE_VARIABLE} names the file {os.environ[_FILE_VARIABLE]}.", file=sys.stderr)
        return _BAD_CONFIG
    match options.command:
        case "check":
            return _check(config)
        case "explain":
            return _explain(options, config, routes)
        case "download":
            return _download(options, config, routes)
        case _:
            return _run(config, routes, source)


def _run(config: Config, routes: RouteTable, source: Source) -> int:
    worker = Worker.of(os.environ)
    sink = log.Sink(sys.stdout.fileno(), shared=config.workers > 1)
    log.set_up(config.log.level, config.log.format, sink, None if worker is None else worker.index)
    try:
        if worker is None and config.workers > 1:
            return _supervise(config, source)
        # Half of them look names up. Two, as by default, are soon taken up by a PostgreSQL or Sentinel whose name is
        # gone, and every connection is made by way of them (proxy/names.py).
        os.environ.setdefault("UV_THREADPOOL_SIZE", "16")
        uvloop.run(serving.serve(config, routes, sink, source, worker))
    except OSError as error:
        where = f"{config.listen.host}:{config.listen.port}"
        print(f"cannot listen on {where}: {error.strerror} (another listen.port?)", file=sys.stderr)
        return 1
    finally:
        sink.close()
    return 0


def _supervise(config: Config, source: Source) -> int:
    """Keep workers alive, each started as this process was, until the end."""
    with ExitStack() as stack:
        port, chosen = stack.enter_context(ports.held(config))
        try:
            meeting_place = stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-"))
        except OSError as error:
            reason = error.strerror
            print(f"several workers need a directory of their own under TMPDIR or /tmp: {reason}", file=sys.stderr)
            return 1
        workers = Workers(
            [sys.executable, *sys.orig_argv[1:]],
            _without_files_of(chosen) | chosen,
            config.workers,
            meeting_place,
            drain_s=drain_seconds(config),
            objection=lambda: objection_of(config, source),
            all_serve=lambda: greet(config, port),
        )
        return asyncio.run(workers.run())


def _without_files_of(chosen: Mapping[str, str]) -> dict[str, str]:
    """The environment, less the files that name what has been settled."""
    return {name: text for name, text in os.environ.items() if name.removesuffix(FILE) not in chosen}


def _check(config: Config) -> int:
    for line in banner(config, config.listen.port):
        print(line)
    for warning in advice(config):
        print(f"warning: {warning}")
    print("The configuration is good.")
    return 0


def _explain(options: argparse.Namespace, config: Config, routes: RouteTable) -> int:
    headers: CIMultiDict[str] = CIMultiDict()
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            print("-H takes 'Name: value'", file=sys.stderr)  # not the line itself: it may hold a secret
            return _BAD_CONFIG
        headers.add(name.strip(), value.strip())
    try:
        body = Path(options.body[1:]).read_bytes() if options.body[:1] == "@" else options.body.encode()
        usage = None if options.gateway is None else _usage(options.gateway, config)
    except (OSError, ValueError) as error:
        hint = " (are its pages on another port, admin.port?)" if "404" in str(error) else ""
        print(f"cannot be explained: {error}{hint}", file=sys.stderr)
        return _BAD_CONFIG
    question = Question(options.method, options.target, headers, body, options.address)
    explanation = explain(question, config, routes, system_clock(), usage)
    text = as_json(explanation).decode() if options.json else "\n".join([*as_text(explanation), ""])
    sys.stdout.write(text)
    return 0 if explanation.fate.forwarded else _REFUSED


def _download(options: argparse.Namespace, config: Config, routes: RouteTable) -> int:
    try:
        order = download_command.order(options)
    except download_command.UsageError as error:
        print(error, file=sys.stderr)
        return _BAD_CONFIG
    return download(order, config, routes)


def _usage(gateway: str, config: Config) -> list[Mapping[str, Any]]:
    if not gateway.startswith(("http://", "https://")):
        raise ValueError(f"--gateway takes a base URL such as http://127.0.0.1:8080, got {gateway!r}")
    asked = urllib.request.Request(f"{gateway.rstrip('/')}/gateway/limits")  # noqa: S310  # checked
    if config.admin.token is not None:
        asked.add_header("Authorization", f"Bearer {config.admin.token.get_secret_value()}")
    with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310  # checked
        rows: list[Mapping[str, Any]] = json.load(answer)["limits"]
        return rows


def _made(file: Path, made: bytes, options: argparse.Namespace) -> int:
    """Print what is made from the code, or check that the file in the repository still is that."""
    if not options.check:
        sys.stdout.write(made.decode())
        return 0
    if file.exists() and file.read_bytes() == made:
        return 0
    print(f"{file} is out of date: python -m proxy {options.command} > {file}", file=sys.stderr)
    return _REFUSED


def _file(given: Path | None) -> Path | None:
    """The file that was named, or config.yaml where there is one, or none: every field has a default."""
    if given is not None:
        return given
    if named := os.environ.get(_FILE_VARIABLE):
        return Path(named)
    return _DEFAULT_FILE if _DEFAULT_FILE.exists() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bybit-gateway",
        description="A reverse-proxy gateway for Bybit: one shared budget, byte-exact forwarding, a candle cache.",
        epilog="Every field of the configuration can be set by the environment: GATEWAY__LISTEN__PORT=8080, "
        "or GATEWAY__ADMIN__TOKEN_FILE=PATH of a file that holds the value.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,  # or it would undo the one given before the command
        help=f"configuration (default: what {_FILE_VARIABLE} names, else config.yaml if it exists, else defaults)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", parents=[common], help="run the gateway (the default)")
    commands.add_parser("check", parents=[common], help="check a configuration, report every mistake, start nothing")
    _add_explain(commands, common)
    download_command.add_to(commands, common)
    schema = commands.add_parser("schema", help="print the JSON Schema of the configuration, for editors")
    schema.add_argument("--check", action="store_true", help=f"print nothing; exit 1 if {_SCHEMA_FILE} differs")
    metrics = commands.add_parser("metrics", help="print the page about all metrics, in Markdown")
    metrics.add_argument("--check", action="store_true", help=f"print nothing; exit 1 if {_METRICS_FILE} differs")
    parser.set_defaults(command="run")
    parser.add_argument("--config", type=Path, metavar="FILE", default=None, help=argparse.SUPPRESS)
    return parser


def _add_explain(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "explain",
        parents=[common],
        help="tell what would be done with a request, and by which rules; send nothing",
        description="Tell what the gateway would do with a request, and by which rules. Nothing is sent to anybody.",
        epilog="Exit 0: it would be forwarded; 1: it would not; 2: the configuration or the question is wrong.",
    )
    parser.add_argument("method", metavar="METHOD", help="GET, POST, ...")
    parser.add_argument("target", metavar="TARGET", help="path and query, as the client sends them")
    parser.add_argument(
        "-H", "--header", action="append", default=[], metavar="'Name: value'", help="may be repeated; never printed"
    )
    parser.add_argument("--body", default="", metavar="TEXT|@FILE", help="the body, or a file that holds it")
    parser.add_argument(
        "--from", dest="address", default="127.0.0.1", metavar="ADDRESS", help="of the client (default: 127.0.0.1)"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument(
        "--gateway",
        metavar="URL",
        help="of a running gateway: how much of each rule is used there now (asked with the admin.token configured)",
    )


if __name__ == "__main__":
    program()
