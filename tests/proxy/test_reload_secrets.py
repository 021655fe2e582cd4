"""A secret that is exchanged while the gateway runs, as Kubernetes does it: a symlink leads somewhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.app import App
from proxy.config import load_routes
from proxy.reload import Result, Source
from tests.kubelet import Volume
from tests.raw_http import exchange_bytes

ROUTES = load_routes()
FIRST, SECOND = "the-first-token-of-all", "the-second-token-of-all"


@asynccontextmanager
async def running(poll_s: float = 3600.0, **environment: str) -> AsyncIterator[App]:
    """Without a file: it lives by its environment, and by what that names."""
    source = Source(None, {"GATEWAY__LISTEN__HOST": "127.0.0.1", "GATEWAY__LISTEN__PORT": "0", **environment}, ROUTES)
    async with App(source.load(), ROUTES, source=source, poll_s=poll_s) as app:
        yield app


async def accepted(app: App, token: str) -> bool:
    request = f"GET /gateway/limits HTTP/1.1\r\nHost: me\r\nAuthorization: Bearer {token}\r\n\r\n"
    return (await exchange_bytes(app.port, request.encode())).status == 200


async def reloaded(app: App) -> Result:
    assert app.reloader is not None
    return await app.reloader.reload()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)  # bounded polling: the gateway looks at the file by itself


async def test_a_token_is_exchanged_without_a_restart(tmp_path: Path) -> None:
    secrets = Volume(tmp_path / "secrets")
    secrets.publish({"token": FIRST})
    async with running(GATEWAY__ADMIN__TOKEN_FILE=secrets.path("token")) as app:
        assert (await accepted(app, FIRST), await accepted(app, SECOND)) == (True, False)
        secrets.publish({"token": SECOND})
        assert await reloaded(app) is Result.APPLIED

        assert (await accepted(app, FIRST), await accepted(app, SECOND)) == (False, True)
        assert app.reloader is not None
        assert app.reloader.state()["status"] == "ok"


async def test_a_swapped_link_is_noticed_by_itself(tmp_path: Path) -> None:
    """Nobody sends SIGHUP in a cluster."""
    secrets = Volume(tmp_path / "secrets")
    secrets.publish({"token": FIRST})
    async with running(0.02, GATEWAY__ADMIN__TOKEN_FILE=secrets.path("token")) as app:
        assert await accepted(app, FIRST)
        secrets.publish({"token": SECOND})
        await until(lambda: app._config.admin.token.get_secret_value() == SECOND)  # type: ignore[union-attr]

        assert (await accepted(app, FIRST), await accepted(app, SECOND)) == (False, True)


async def test_what_needs_a_restart_keeps_its_value_and_is_named(tmp_path: Path) -> None:
    """A connection to a store was made with the password of its time; the token beside it is exchanged all the same."""
    secrets = Volume(tmp_path / "secrets")
    secrets.publish({"token": FIRST, "password": "one"})
    async with running(
        GATEWAY__ADMIN__TOKEN_FILE=secrets.path("token"), GATEWAY__STORE__PASSWORD_FILE=secrets.path("password")
    ) as app:
        secrets.publish({"token": SECOND, "password": "other"})
        assert await reloaded(app) is Result.APPLIED

        password = app._config.store.password
        assert password is not None
        assert password.get_secret_value() == "one"
        assert await accepted(app, SECOND)
        assert app.reloader is not None
        assert app.reloader._left == ("store.password",)
        assert app.reloader.state()["status"] == "needs-restart"


async def test_a_file_that_has_gone_changes_nothing(tmp_path: Path) -> None:
    """The pages stay closed to whoever has no token."""
    secrets = Volume(tmp_path / "secrets")
    secrets.publish({"token": FIRST})
    async with running(GATEWAY__ADMIN__TOKEN_FILE=secrets.path("token")) as app:
        secrets.publish({})
        assert await reloaded(app) is Result.REFUSED
        secrets.publish({"token": ""})
        assert await reloaded(app) is Result.REFUSED

        assert (await accepted(app, FIRST), await accepted(app, "")) == (True, False)
