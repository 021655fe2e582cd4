"""A real PostgreSQL for tests: one server for the session, a database for each test. Methods block; they are bounded.

PostgreSQL refuses to run as root, so where the tests are root it runs as `postgres`, the user that Debian's package
makes, or as `nobody`. A test that shares its event loop with the gateway calls the methods through `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import quote

import asyncpg
import pytest

from tests.redis_servers.ports import reserve_port

SUPERUSER = "postgres"
OWNER = "archivist"
"""Owns the databases of the tests, and may do no more than that."""
PASSWORD = "planted secret/7f3a@9c:x"
"""Of both; what is special in it must survive a URL."""
_SECONDS = 60.0


def _binaries() -> Path | None:
    """Where initdb and postgres are; Debian keeps them off the PATH."""
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True
    )
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


def _why_not() -> str | None:
    if _binaries() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if shutil.which("setpriv") is None:
        return "setpriv of util-linux is not installed"
    if os.getuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody"
    return None


def _user() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


WHY_NOT = _why_not()
needs_postgres = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

# The kernel sends PDEATHSIG when the thread that started the process ends: this one ends with the interpreter.
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="postgres-starter")


class PostgresServer:
    def __init__(self) -> None:
        binaries = _binaries()
        assert binaries is not None, WHY_NOT
        self._binaries = binaries
        self._reserved = reserve_port()
        self._directory = Path(mkdtemp(prefix="postgres-server-"))
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user = self._unprivileged()
        password_file = self._directory / "password"
        password_file.write_text(PASSWORD)
        self._own(password_file)
        self._run(
            "initdb",
            *("-D", str(self._data), "-U", SUPERUSER, "--pwfile", str(password_file)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
        )

    @property
    def port(self) -> int:
        return self._reserved.number

    def url(self, database: str, user: str = OWNER, *, port: int | None = None, password: str | None = PASSWORD) -> str:
        """`port` of a relay; `password` None: leave it out."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{user}{secret}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        assert self._process is None, "it was started already"
        with self._log.open("ab") as log:
            self._process = _THREAD.submit(
                subprocess.Popen,
                [
                    *self._as_user,
                    *("--pdeathsig", "QUIT"),
                    str(self._binaries / "postgres"),
                    *("-D", str(self._data), "-p", str(self.port), "-k", ""),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60"),
                    *("-c", "shared_buffers=32MB", "-c", "autovacuum=off"),
                ],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            ).result()
        self._wait_until_ready()

    def kill(self) -> None:
        """SIGQUIT: all its processes end at once, as in a crash, and the next start recovers from the log."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_SECONDS)
        self._process = None

    def restart(self) -> None:
        """Killed if it runs; then again on the same port, with the same data."""
        self.kill()
        self.start()

    def database(self) -> str:
        """A new, empty database, whose owner is OWNER; the answer is its name."""
        if not self._process:
            self.start()  # a test has left it dead
        name = f"archive_{next(self._numbers)}"
        self.sql("postgres", f"CREATE DATABASE {name} OWNER {OWNER}")
        return name

    def drop(self, database: str) -> None:
        if not self._process:
            self.start()
        self.sql("postgres", f"DROP DATABASE {database} WITH (FORCE)")

    def sql(self, database: str, text: str) -> None:
        """As the superuser."""

        async def said() -> None:
            connection = await asyncpg.connect(self.url(database, SUPERUSER), timeout=_SECONDS)
            try:
                await connection.execute(text, timeout=_SECONDS)
            finally:
                await connection.close()

        _THREAD.submit(asyncio.run, said()).result()  # the caller's may have a loop of its own

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
        self._reserved.release()

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _unprivileged(self) -> list[str]:
        user = _user()
        if os.getuid() != 0 or user is None:
            return ["setpriv"]
        self._own(self._directory)
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def _own(self, path: Path) -> None:
        user = _user()
        if os.getuid() == 0 and user is not None:
            os.chown(path, user.pw_uid, user.pw_gid)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, "--", str(self._binaries / program), *arguments],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"

    def _wait_until_ready(self) -> None:
        """Until it listens and lets somebody in: while it recovers, it only listens."""
        ends = time.monotonic() + _SECONDS
        last = "nothing"
        while time.monotonic() < ends:
            assert self._process is not None
            assert self._process.poll() is None, f"postgres ended:\n{self._log.read_text()[-2000:]}"
            try:
                self.sql("postgres", f"DO $$BEGIN {_MAKE_OWNER} END$$")
            except (OSError, asyncpg.PostgresError) as error:
                last = type(error).__name__
                time.sleep(0.05)  # noqa: TID251  # another process sets no Event
            else:
                return
        raise AssertionError(f"not within {_SECONDS:g} s: postgres answers (last: {last})")


_MAKE_OWNER = (
    f"IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{OWNER}') "
    f"THEN CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}'; END IF;"
)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if WHY_NOT is not None:
        pytest.skip(WHY_NOT)
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The name of an empty database."""
    name = postgres.database()
    yield name
    postgres.drop(name)
