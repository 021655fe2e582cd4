"""The health check of a container: `python -m proxy.alive` asks the gateway beside it whether it lives; exit 0 or 1.

It runs every few seconds beside a gateway that may have half a processor. So it imports neither the gateway nor
anything of size, and reads of the configuration, as the gateway would, only where its pages are. A file that the
gateway would refuse is not judged here, because then none is running.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

_PREFIX: Final = "GATEWAY__"
_BY_FILE: Final = "_FILE"
_FILE_VARIABLE: Final = "GATEWAY_CONFIG"
_DEFAULT_FILE: Final = "config.yaml"
_TARGET: Final = "/health/live"
_TIMEOUT_S: Final = 3.0
_NOTHING: Final = frozenset({"", "~", "null"})
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # what is asked instead
# Text only, by libyaml where it is there: what a port is, int() decides, and a host may be called `on`.
_LOADER: Final = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Exit 0 when it is alive; else 1, and one line on stderr that says why."""
    where = "the configuration"
    try:
        host, port = pages(_config_file(arguments, environment), environment)
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}{_TARGET}"
        reason = _refusal(host, port)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    if reason is None:
        return 0
    sys.stderr.write(f"not alive: {where}: {reason}\n")
    return 1


def pages(file: str | None, environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port at which the gateway's pages can be asked from within. Raises OSError, ValueError, YAMLError."""
    sections = _sections(file, environment)
    listen, admin = sections["listen"], sections["admin"]
    port, host = _port("admin.port", admin.get("port")), admin.get("host", "127.0.0.1")
    if port is None:
        port, host = _port("listen.port", listen.get("port", "8080")), listen.get("host", "")
    if not port:
        raise ValueError("its port is of the system's choice (0), which nobody else knows: give it a number")
    return _EVERYWHERE.get(str(host), str(host)), port


def _sections(file: str | None, environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """`listen` and `admin`, the environment laid over the file as proxy.config_environment does it."""
    data = None
    if file is not None:
        data = yaml.load(_text(file), Loader=_LOADER)  # noqa: S506  # makes text, lists and mappings, nothing else
    sections: dict[str, dict[str, Any]] = {}
    for name in ("listen", "admin"):
        section = data.get(name) if isinstance(data, dict) else None
        sections[name] = section if isinstance(section, dict) else {}
    for variable in sorted(environment):
        plain = variable.removesuffix(_BY_FILE)
        name, _, field = plain.removeprefix(_PREFIX).lower().partition("__")
        if not variable.startswith(_PREFIX) or name not in sections or field not in {"", "host", "port"}:
            continue
        value = environment[variable] if plain == variable else _held(environment[variable])
        if field:
            sections[name][field] = value
        elif value.lstrip().startswith("{"):
            import json  # noqa: PLC0415  # for the few who need it

            sections[name] = json.loads(value)
    return sections


def _text(file: str) -> str:
    with open(file, encoding="utf-8") as opened:  # noqa: PTH123  # importing pathlib takes longer than all of this
        return opened.read()


def _held(file: str) -> str:
    return _text(file).removesuffix("\n").removesuffix("\r")


def _port(place: str, value: Any) -> int | None:
    if value is None or value in _NOTHING:
        return None
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{place}: expected a number, got {value!r}") from None


def _config_file(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    match list(arguments):
        case []:
            pass
        case ["--config", file]:
            return file
        case _:
            raise ValueError("usage: python -m proxy.alive [--config FILE]")
    if named := environment.get(_FILE_VARIABLE):
        return named
    return _DEFAULT_FILE if os.path.exists(_DEFAULT_FILE) else None  # noqa: PTH110  # as above


def _refusal(host: str, port: int) -> str | None:
    """Ask; the answer is why it is not alive. OSError: it cannot be asked."""
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(f"GET {_TARGET} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        status = connection.recv(4096).partition(b"\r\n")[0].split(b" ")
    if len(status) > 1 and status[0].startswith(b"HTTP/") and status[1] == b"200":
        return None
    return f"answered {status[1].decode('ascii', 'replace')}" if len(status) > 1 else "gave no answer"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
