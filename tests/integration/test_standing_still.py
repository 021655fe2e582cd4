"""A gateway whose process stands still for a moment, as in a container that has used up its share of the processor."""

from __future__ import annotations

import asyncio
import signal

from tests.fake_bybit import FakeBybit
from tests.integration.test_process import free_port, process, wait_until_ready
from tests.raw_http import exchange_bytes
from tests.redis_servers import needs_redis, redis_server

STILL_S, TIMES, CLIENTS = 0.2, 10, 20
"""Four times as long as Redis is waited for (`store.timeout`)."""


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@needs_redis
async def test_a_redis_that_has_answered_meanwhile_is_not_lost() -> None:
    """In a process, because the event loop that is shipped looks at its timers before it looks at its sockets."""
    port = free_port()
    with redis_server() as redis:
        async with FakeBybit() as exchange:
            settings = {
                "GATEWAY__UPSTREAM__URL": exchange.url,
                "GATEWAY__LISTEN__HOST": "127.0.0.1",
                "GATEWAY__LISTEN__PORT": str(port),
                "GATEWAY__STORE__URL": redis.url,
                "GATEWAY__STORE__STATE_FILE": "null",
                "GATEWAY__LIMITS": '[{"name": "all", "quota": "100000/5s"}]',
                "LOG_LEVEL": "error",
            }
            with process("run", **settings) as running:
                await asyncio.to_thread(wait_until_ready, port, running)

                async def client() -> None:
                    while True:
                        await exchange_bytes(port, get("/v5/market/time"))

                async with asyncio.TaskGroup() as group:
                    clients = [group.create_task(client()) for _ in range(CLIENTS)]
                    for _ in range(TIMES):
                        await asyncio.sleep(0.3)  # real time in another process
                        running.send_signal(signal.SIGSTOP)
                        await asyncio.sleep(STILL_S)  # as above
                        running.send_signal(signal.SIGCONT)
                    await asyncio.sleep(0.3)  # as above
                    for each in clients:
                        each.cancel()
                page = (await exchange_bytes(port, get("/metrics"))).body.decode()

    assert 'gateway_store_mode{mode="shared"} 1.0' in page
    assert [line for line in page.splitlines() if line.startswith("gateway_store_failures_total{")] == []
