"""Workers read each other's metrics, and a missing one is missed without a gap in the sums."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator

import pytest

from proxy.combined import Reading, read
from proxy.metrics import Metrics
from proxy.siblings import Gathered, Siblings, Worker
from tests.gateway_fixture import gateway
from tests.raw_http import exchange_bytes
from tests.recorder import recorder


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="gateway-") as path:  # tmp_path is too long for a socket
        yield path


class Process:
    """A worker without a gateway: metrics and a place among its siblings."""

    def __init__(self, index: int, count: int, directory: str) -> None:
        self.metrics = Metrics()
        self.siblings = Siblings(Worker(index, count, directory, -1, 1), self._read)

    async def _read(self) -> Reading:
        return read(self.metrics.registry)

    def serve(self, requests: int) -> None:
        self.metrics.requests.inc(("kline", "2xx", "cache"), requests)
        self.metrics.in_flight.set(requests)


def told(gathered: Gathered, name: str) -> float:
    return sum(value for family in gathered.reading for (sample, _), value in family.samples.items() if sample == name)


async def test_each_worker_tells_of_all(directory: str) -> None:
    first, second, third = (Process(index, 3, directory) for index in range(3))
    async with first.siblings, second.siblings, third.siblings:
        for requests, process in enumerate((first, second, third), 1):
            process.serve(requests)
        pages = [await process.siblings.gathered() for process in (first, second, third)]

    assert [told(page, "bybit_api_requests_total") for page in pages] == [6, 6, 6]
    assert [told(page, "gateway_upstream_in_flight") for page in pages] == [6, 6, 6]
    assert {(page.up, page.expected) for page in pages} == {(3, 3)}


async def test_of_a_worker_that_has_gone_the_counters_stay(directory: str) -> None:
    """Its requests were answered; what it had in flight is no longer."""
    first, second = Process(0, 2, directory), Process(1, 2, directory)
    async with first.siblings:
        first.serve(1)
        async with second.siblings:
            second.serve(10)
            await first.siblings.gathered()
        page = await first.siblings.gathered()

    assert told(page, "bybit_api_requests_total") == 11
    assert told(page, "gateway_upstream_in_flight") == 1
    assert (page.up, page.expected) == (1, 2)


async def test_who_comes_after_a_worker_counts_on(directory: str) -> None:
    """However often a worker is replaced, a sum that was once told never falls."""
    first, seen = Process(0, 2, directory), []
    async with first.siblings:
        first.serve(1)
        for _ in range(3):
            successor = Process(1, 2, directory)
            async with successor.siblings:
                seen.append(told(await first.siblings.gathered(), "bybit_api_requests_total"))
                successor.serve(10)
                seen.append(told(await first.siblings.gathered(), "bybit_api_requests_total"))

    assert seen == [1, 11, 11, 21, 21, 31]


@pytest.mark.parametrize("answer", [None, b"", b'[["a"'])
async def test_a_worker_that_is_stuck_or_confused_holds_up_nobody(directory: str, answer: bytes | None) -> None:
    first, release = Process(0, 2, directory), asyncio.Event()

    async def stuck(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await release.wait()
        writer.write(answer or b"")
        writer.close()

    async with first.siblings, await asyncio.start_unix_server(stuck, f"{directory}/1.sock"):
        first.serve(5)
        page = await first.siblings.gathered()
        release.set()

    assert told(page, "bybit_api_requests_total") == 5
    assert page.up == 1


async def test_the_socket_of_a_killed_worker_is_taken_over(directory: str) -> None:
    killed = Process(0, 1, directory)
    await killed.siblings.__aenter__()
    async with Process(0, 1, directory).siblings as successor:
        assert (await successor.gathered()).up == 1
    await killed.siblings.__aexit__()


async def test_a_disk_that_takes_nothing_does_not_take_the_metrics_away(directory: str) -> None:
    first = Process(0, 1, directory)
    async with first.siblings:
        first.serve(2)
        with tempfile.TemporaryDirectory(dir=directory, prefix="0.") as blocked:
            first.siblings._worker = Worker(0, 1, f"{blocked}/gone", -1, 1)
            page = await first.siblings.gathered()

    assert told(page, "bybit_api_requests_total") == 2


def test_a_worker_is_told_through_the_environment() -> None:
    worker = Worker(1, 4, "/tmp/gateway-x", 7, 60)  # noqa: S108  # a name, nothing is written

    assert Worker.of(worker.environment()) == worker
    assert Worker.of({}) is None


async def test_a_page_is_never_older_than_one_that_another_worker_has_given(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus takes a counter that falls for a restart, and adds all of it once more."""
    monkeypatch.setattr("proxy.admin._LONG_US", -1)  # each page takes long to write
    async with recorder() as upstream, gateway(upstream.url) as app:
        other = Process(1, 2, directory)
        async with Siblings(Worker(0, 2, directory, -1, 1), app.admin.reading) as own, other.siblings:
            monkeypatch.setattr(app.admin, "siblings", own)
            told_of = []
            for _ in range(3):
                other.serve(1)
                page = (await exchange_bytes(app.port, b"GET /metrics HTTP/1.1\r\nHost: me\r\n\r\n")).body.decode()
                (line,) = [
                    each for each in page.splitlines() if each.startswith('bybit_api_requests_total{endpoint="kline"')
                ]
                told_of.append(float(line.split()[-1]))

    assert told_of == [1, 2, 3]
