"""The health check of a container: it asks where the gateway's pages are, by the same file and the same environment."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import alive
from proxy.config import Config, load, load_routes
from tests.gateway_fixture import gateway
from tests.recorder import answering, recorder
from tests.redis_servers.ports import reserve_port

ROOT = Path(__file__).parents[2]
ROUTES = load_routes()

FILES = {
    "none": None,
    "empty": "",
    "the shipped one": (ROOT / "config.yaml").read_text(),
    "a port": "listen: {port: 9000}\n",
    "a port in a block": "egress: {id: a}\nlisten:\n  host: 0.0.0.0  # all\n  port: 9001\n",
    "a host": "listen: {host: 127.0.0.3}\n",
    "IPv6, everywhere": "listen: {host: '::'}\n",
    "IPv6, here": "listen:\n  host: ::1\n",
    "a host with the name of a truth": "listen: {host: on}\n",
    "pages of their own": "listen: {host: 10.0.0.1, port: 9000}\nadmin: {port: 9100}\n",
    "pages everywhere": "admin: {host: 0.0.0.0, port: 9100}\n",
    "pages on the traffic port": "admin: {host: 127.0.0.9, port: null}\nlisten: {port: 9002}\n",
    "no port of the pages": "admin:\n  port: ~\n  host: 127.0.0.9\n",
    "nothing said of the pages' port": "admin:\n  port:\n",
    "an alias": "limits: []\nadmin: &pages {port: 9100}\n",
}
ENVIRONMENTS = {
    "none": {},
    "a port": {"GATEWAY__LISTEN__PORT": "7000"},
    "a port for the pages": {"GATEWAY__ADMIN__PORT": "7100"},
    "no port for the pages": {"GATEWAY__ADMIN__PORT": ""},
    "null for the pages": {"GATEWAY__ADMIN__PORT": "null"},
    "hosts": {"GATEWAY__LISTEN__HOST": "127.0.0.5", "GATEWAY__ADMIN__HOST": "127.0.0.6"},
    "a section": {"GATEWAY__ADMIN": '{"port": 7200, "host": "::"}'},
    "a section and its port": {"GATEWAY__ADMIN": ' {"port": null}', "GATEWAY__ADMIN__PORT": "7300"},
    "small letters": {"GATEWAY__listen__Port": "7001"},
    "a file that holds the port": {"GATEWAY__LISTEN__PORT_FILE": "7002\n"},
    "a file that holds the section": {"GATEWAY__LISTEN_FILE": '{"port": 7003}\r\n'},
    "a file with a secret, which is not opened": {"GATEWAY__ADMIN__TOKEN_FILE": "s3cr3t-7f3a"},
    "others": {"LOG_LEVEL": "debug", "LISTEN__PORT": "1", "GATEWAY__EGRESS__ID": "b", "GATEWAY_LISTEN_PORT": "2"},
}


def place_of(config: Config) -> tuple[str, int]:
    """Where somebody on the same machine reaches the pages of a gateway with this configuration."""
    host, port = config.listen.host, config.listen.port
    if config.admin.port is not None:
        host, port = config.admin.host, config.admin.port
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("file", FILES)
def test_it_finds_the_pages_where_the_gateway_puts_them(file: str, environment: str, tmp_path: Path) -> None:
    """Held against the gateway's own reading of the same file and the same environment."""
    path, text = tmp_path / "config.yaml", FILES[file]
    if text is not None:
        path.write_text(text)
    variables = dict(ENVIRONMENTS[environment])
    for name, value in ENVIRONMENTS[environment].items():
        if name.endswith("_FILE"):
            (tmp_path / name).write_text(value, newline="")
            variables[name] = str(tmp_path / name)
    named = None if text is None else path

    found = alive.pages(None if named is None else str(named), variables)

    assert found == place_of(load(named, variables, ROUTES))


async def test_a_gateway_that_runs_is_alive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the port of its file, or on that of its pages; the file by GATEWAY_CONFIG or by --config."""
    traffic, pages, file = reserve_port(), reserve_port(), tmp_path / "c.yaml"
    try:
        file.write_text(f"listen: {{port: {traffic.number}}}\n")
        async with gateway("http://127.0.0.1:1", listen__port=traffic.number):
            assert await asyncio.to_thread(alive.main, [], {"GATEWAY_CONFIG": str(file)}) == 0
            assert await asyncio.to_thread(alive.main, ["--config", str(file)], {"GATEWAY_CONFIG": "/nowhere"}) == 0
        file.write_text(f"admin: {{port: {pages.number}}}\n")
        async with gateway("http://127.0.0.1:1", admin__port=pages.number):
            assert await asyncio.to_thread(alive.main, [], {"GATEWAY_CONFIG": str(file)}) == 0
    finally:
        traffic.release()
        pages.release()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "answered 503"),
        (b"SSH-2.0-whoever\r\n", "gave no answer"),
        (b"", "gave no answer"),
    ],
)
async def test_what_answers_otherwise_is_not_alive(
    answer: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with recorder(answering(answer, close=True)) as somebody:
        port = str(somebody.port)
        code = await asyncio.to_thread(alive.main, [], {"GATEWAY__LISTEN__PORT": port, "GATEWAY_CONFIG": os.devnull})

    assert code == 1
    assert capsys.readouterr().err == f"not alive: http://127.0.0.1:{port}/health/live: {told}\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        ([], {"GATEWAY_CONFIG": "/nowhere/c.yaml"}, "No such file or directory: '/nowhere/c.yaml'"),
        ([], {"GATEWAY__LISTEN__PORT": "http"}, "listen.port: expected a number, got 'http'"),
        ([], {"GATEWAY__LISTEN__PORT": "0"}, "give it a number"),
        ([], {"GATEWAY__LISTEN": "{"}, "Expecting property name"),
        (["--port", "80"], {}, "usage: python -m proxy.alive [--config FILE]"),
        ([], {"GATEWAY__LISTEN__HOST": "127.0.0.1", "GATEWAY__LISTEN__PORT": "1"}, "Connection refused"),
    ],
)
def test_why_it_is_not_alive_is_told_in_one_line(
    arguments: list[str], environment: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert alive.main(arguments, {"GATEWAY_CONFIG": os.devnull, **environment}) == 1

    said = capsys.readouterr().err
    assert said.startswith("not alive: ")
    assert told in said
    assert said.count("\n") == 1


def test_a_file_that_cannot_be_read_as_yaml_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("listen: [\n")

    assert alive.main([], {"GATEWAY_CONFIG": str(tmp_path / "c.yaml")}) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_it_costs_next_to_nothing() -> None:
    """It runs every ten seconds on a part of a processor: none of what the gateway needs is imported for it."""
    script = "import sys, proxy.alive; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"policies", "pydantic", "aiohttp", "asyncio", "ssl", "http", "urllib", "json", "pathlib"})
