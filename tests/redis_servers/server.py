"""One redis-server process, which can be killed, stopped and brought back empty on the same port."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.redis_servers.ports import reserve_port
from tests.redis_servers.waiting import wait_until

Option = str | int | Path

_DEFAULTS: dict[str, Option] = {
    "save": '""',
    "appendonly": "no",
    "rdb-del-sync-files": "yes",  # else a replica would come back with what it had received
    "repl-diskless-sync-delay": 0,
}

# The kernel sends PDEATHSIG when the thread that started the process ends, not the program: a thread of
# asyncio.to_thread ends with its loop. This one ends with the interpreter.
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="redis-starter")


class RedisServer:
    """Options are directives of redis.conf, with underscores: maxmemory_policy="noeviction".

    With `tls_cert_file` (and `tls_key_file`, `tls_ca_cert_file`) the port speaks TLS and nothing else.
    """

    def __init__(self, *flags: str, **options: Option) -> None:
        self._reserved = reserve_port()
        self._directory = TemporaryDirectory(prefix="redis-server-", ignore_cleanup_errors=True)
        self._flags = flags
        self._options = {name.replace("_", "-"): value for name, value in options.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._file.write_text("".join(f"{name} {value}\n" for name, value in self._directives().items()))

    def __repr__(self) -> str:
        return f"<RedisServer {self.port} {'runs' if self.running else 'does not run'}>"

    @property
    def port(self) -> int:
        return self._reserved.number

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        password = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis{'s' if self._tls else ''}://{password}{self.address}/0"

    @property
    def running(self) -> bool:
        """It can answer: it was started, and neither killed nor stopped."""
        return self._process is not None and self._process.poll() is None and not self._stopped

    def client(self, *, seconds: float = 2.0) -> Redis:
        """A client of its own that gives up after `seconds` and never tries again. Use it in `with`."""
        authority: dict[str, Any] = (
            {"ssl": True, "ssl_ca_certs": str(self._options["tls-ca-cert-file"])} if self._tls else {}
        )
        return Redis(
            port=self.port,
            host="127.0.0.1",
            password=self._password,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            protocol=2,
            **authority,
        )

    def start(self) -> None:
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the process and do not wait: several can come up side by side."""
        assert self._process is None, "it was started already"
        with self._log.open("ab") as log:
            self._process = _STARTER.submit(
                subprocess.Popen,
                ["setpriv", "--pdeathsig", "KILL", "redis-server", str(self._file), *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            ).result()

    def wait_until_ready(self) -> None:
        """Until this very process answers, and not somebody else on its port."""
        process = self._process
        assert process is not None, "it was not started"

        def answers() -> bool:
            assert process.poll() is None, f"redis-server ended:\n{self._log.read_text()[-2000:]}"
            with self.client() as redis:
                return bool(redis.ping()) and redis.info("server")["process_id"] == process.pid

        wait_until(answers, f"{self} answers")

    def kill(self) -> None:
        """SIGKILL: the kernel closes its connections and refuses new ones."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        self._process, self._stopped = None, False

    def stop_process(self) -> None:
        """SIGSTOP: connections stay open, new ones are accepted by the kernel, nothing is answered."""
        assert self._process is not None, "it was not started"
        assert self._process.poll() is None, "it has ended"
        if not self._stopped:
            self._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # delivered, not only sent
            self._stopped = True

    def continue_process(self) -> None:
        assert self._process is not None, "it was not started"
        self._process.send_signal(signal.SIGCONT)
        self._stopped = False

    def restart(self) -> None:
        """Killed if it runs; then again on the same port, without its data and its scripts."""
        self.kill()
        self.start()

    def close(self) -> None:
        """The process, its files and its port are given back."""
        self.kill()
        self._directory.cleanup()
        self._reserved.release()

    @property
    def _file(self) -> Path:
        return Path(self._directory.name, "redis.conf")

    @property
    def _log(self) -> Path:
        return Path(self._directory.name, "log")

    @property
    def _password(self) -> str | None:
        password = self._options.get("requirepass")
        return None if password is None else str(password)

    @property
    def _tls(self) -> bool:
        return "tls-cert-file" in self._options

    def _directives(self) -> dict[str, Option]:
        ports: dict[str, Option] = {"port": self.port}
        if self._tls:
            ports = {"port": 0, "tls-port": self.port, "tls-auth-clients": "no"}
        return {"bind": "127.0.0.1", "dir": self._directory.name, **ports, **_DEFAULTS, **self._options}


@contextmanager
def redis_server(**options: Option) -> Iterator[RedisServer]:
    """One server, started. `options` as for RedisServer."""
    server = RedisServer(**options)
    try:
        server.start()
        yield server
    finally:
        server.close()
