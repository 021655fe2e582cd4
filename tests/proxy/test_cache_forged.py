"""Values that a stranger has made with the right seal: what cannot be true is not believed, no header is smuggled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final

import pytest
import zstandard

from policies import columns
from policies.frame import Frame, Kind, pack
from tests.by_hand import target
from tests.cached import ask, unlike
from tests.planted import BEFORE, KINDS, SEAL, Change, about, lines, nobody_is_told, replaced, stage
from tests.redis_servers import RedisServer, needs_redis, redis_server

pytestmark = needs_redis


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


HEADS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "a cookie": lambda told: told + b"Set-Cookie: sid=evil\r\n",
    "the end of the head": lambda told: told + b"\r\n",
    "another answer behind it": lambda told: told + b"Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX-Evil: 1\r\n",
    "an end inside": lambda told: told.replace(b"\r\nServer", b"\r\n\r\nServer"),
    "a length": lambda told: told + b"Content-Length: 1\r\n",
    "a coding": lambda told: told + b"Content-Encoding: gzip\r\n",
    "chunks": lambda told: told + b"Transfer-Encoding: chunked\r\n",
    "a close": lambda told: told + b"Connection: close\r\n",
    "limits": lambda told: told + b"X-Bapi-Limit-Status: 0\r\n",
    "a tag": lambda told: told + b'ETag: "evil"\r\n',
    "a name for the request": lambda told: told + b"X-Request-Id: evil\r\n",
    "a reason of ours": lambda told: told + b"X-Gateway: banned\r\n",
    "a bare line feed": lambda told: told + b"X-A: 1\nX-Evil: 1\r\n",
    "a bare carriage return": lambda told: told + b"X-A: 1\rX-Evil: 1\r\n",
    "no end of line": lambda told: told[:-2],
    "a zero": lambda told: told + b"X-Evil: \0\r\n",
    "a blank in a name": lambda told: told + b"X-Evil : 1\r\n",
    "no name": lambda told: told + b": 1\r\n",
    "no colon": lambda told: told + b"X-Evil\r\n",
    "a folded line": lambda told: told + b" X-Evil: 1\r\n",
    "a redirect": lambda told: told.replace(b"200 OK", b"302 Found") + b"Location: https://evil.example/\r\n",
    "other HTTP": lambda told: told.replace(b"HTTP/1.1", b"HTTP/0.9"),
    "no status": lambda told: told.partition(b"\r\n")[2],
    "nothing": lambda _: b"",
}


@KINDS
@pytest.mark.parametrize("name", HEADS)
async def test_no_header_is_smuggled(redis: RedisServer, kind: Kind, name: str) -> None:
    async with stage(redis) as on:
        await on.filled(kind)
        on.forge(kind, lines(HEADS[name]))

        await nobody_is_told(on, kind)


def rows_changed(change: Callable[[list[list[str]]], Any]) -> Change:
    """Of a segment, newest first; unpacked, changed and packed as a gateway would."""

    def changed(frame: Frame) -> Frame:
        listed = columns.unpacked(frame.body, b",")
        assert listed is not None
        rows = json.loads(b"[" + listed + b"]")
        change(rows)
        table = list(zip(*rows, strict=True))
        times = [int(each) for each in table[0]]
        steps = [str(times[0]), *(str(newer - older) for newer, older in pairwise(times))]
        return frame._replace(body="\n".join(",".join(column) for column in (steps, *table[1:])).encode())

    return changed


def swapped(rows: list[list[str]]) -> None:
    rows[3], rows[4] = rows[4], rows[3]


def doubled(rows: list[list[str]]) -> None:
    rows.insert(3, rows[3])


def moved(by_ms: int) -> Callable[[list[list[str]]], None]:
    def change(rows: list[list[str]]) -> None:
        for row in rows:
            row[0] = str(int(row[0]) + by_ms)

    return change


def written(cell: str) -> Callable[[list[list[str]]], None]:
    def change(rows: list[list[str]]) -> None:
        rows[2][4] = cell

    return change


LOW, HIGH = 1_769_970_000_000 + 30_000_000, 1_770_000_660_000  # of the segment, and of what is known of it
SEGMENTS: Final[dict[str, Change]] = {
    "rows swapped": rows_changed(swapped),
    "a row twice": rows_changed(doubled),
    "rows of another segment": rows_changed(moved(60_000_000)),
    "rows before the segment": rows_changed(moved(-60_000)),
    "rows off the calendar": rows_changed(moved(1)),
    "a word": rows_changed(written("free")),
    "a tag": rows_changed(written("<b>")),
    "a quotation mark": rows_changed(written('1"')),
    "an exponent": rows_changed(written("1e9")),
    "a bracket": rows_changed(written("1]")),
    "a column too few": lambda frame: frame._replace(body=frame.body.rpartition(b"\n")[0]),
    "a column too many": lambda frame: frame._replace(body=frame.body + b"\n" + frame.body.rpartition(b"\n")[2]),
    "a cell too few": lambda frame: frame._replace(body=frame.body.rpartition(b",")[0]),
    "no columns": lambda frame: frame._replace(body=b"\n\n\n\n\n\n"),
    "two thousand rows": rows_changed(lambda rows: rows.extend([[str(int(rows[-1][0]) - 1), *rows[-1][1:]]] * 2_000)),
    "no range": about(covered=...),
    "a word as a range": about(covered="all"),
    "a number as a range": about(covered=1),
    "an empty range": about(covered=[[LOW, LOW]]),
    "a range backwards": about(covered=[[HIGH, LOW]]),
    "a range before the segment": about(covered=[[LOW - 60_000, HIGH]]),
    "a range behind it": about(covered=[[LOW, LOW + 60_000_001]]),
    "a range for ever": about(covered=[[0, 1 << 62]]),
    "half a range": about(covered=[[LOW]]),
    "a null in a range": about(covered=[[LOW, None]]),
    "an object": about(covered={"low": 1}),
    "other symbol": about(before=BEFORE.replace("BTCUSDT", "ETHUSDT")),
    "other category": about(before=BEFORE.replace("linear", "spot")),
    "an error": about(before=BEFORE.replace('"retCode":0', '"retCode":10006')),
    "no code": about(before=BEFORE.replace('"retCode":0,', "")),
    "rows in what stands before": about(before=BEFORE + '["1770000660000","6","6","6","6","6","6"],'),
    "a list in what stands before": about(before=BEFORE.replace('"list":[', '"list":[],"more":[')),
    "rows in what stands between": about(
        between=',["1769999940000","6","6","6","6","6","6"]]},"retExtInfo":{},"time":'
    ),
    "no JSON before": about(before=BEFORE.replace('"OK"', "OK")),
    "no JSON behind": about(after="}}"),
    "more behind": about(after="}<script>"),
    "nothing behind": about(after=""),
    "no time": about(between=']},"retExtInfo":{},"when":'),
    "two times": about(after=',"time":1770000000000}'),
    "other joint": about(joint=",\r\n"),
    "no joint": about(joint=...),
    "a number before": about(before=1),
    "another script": about(after="}\u20ac"),
    "no head": lambda frame: frame._replace(head=b""),
    "a list as head": lambda frame: frame._replace(head=b"[1,2,3]\n" + frame.head.partition(b"\n")[2]),
}


@pytest.mark.parametrize("name", SEGMENTS)
async def test_no_segment_is_believed_that_cannot_be_true(redis: RedisServer, name: str) -> None:
    async with stage(redis) as on:
        await on.filled(Kind.SEGMENT)
        on.forge(Kind.SEGMENT, SEGMENTS[name])

        await nobody_is_told(on, Kind.SEGMENT)


def query(*values: Any) -> Change:
    """Of a tail: the request that it answers."""

    def change(frame: Frame) -> Frame:
        return frame._replace(head=json.dumps(values).encode() + b"\n" + frame.head.partition(b"\n")[2])

    return change


def later(seconds: float) -> Change:
    return lambda frame: frame._replace(
        stored_us=frame.stored_us + int(seconds * 1e6), expires_us=frame.expires_us + int(seconds * 1e6)
    )


TAILS: Final[dict[str, Change]] = {
    "no rows": query(None, None, 0),
    "fewer than none": query(None, None, -5),
    "too many rows": query(None, None, 1_001),
    "half a row": query(None, None, 1.5),
    "yes": query(None, None, True),
    "a word": query(None, None, "5"),
    "a list too short": query(None, None),
    "a list too long": query(None, None, 5, 5),
    "no request": lambda frame: frame._replace(head=frame.head.partition(b"\n")[2]),
    "an object": lambda frame: frame._replace(head=b"{}\n" + frame.head.partition(b"\n")[2]),
    "a start in the far future": query(1 << 62, None, 5),
    "a start before all time": query(-(1 << 62), None, 5),
    "a start behind the end": query(1_770_000_000_000, 1_760_000_000_000, 5),
    "an end long ago": query(None, 1_770_000_000_000, 5),
    "other symbol": replaced("BTCUSDT", "ETHUSDT"),
    "other category": replaced("linear", "inverse"),
    "an error": replaced('"retCode":0', '"retCode":10001'),
    "no JSON": replaced('"OK"', "OK"),
    "a list": lambda frame: frame._replace(body=b"[" + frame.body + b"]"),
    "more behind": lambda frame: frame._replace(body=frame.body + b"{}"),
    "nothing": lambda frame: frame._replace(body=b""),
    "rows that ascend": replaced('"1790598840000"', '"1790500000000"'),
    "rows off the calendar": replaced('"1790598840000"', '"1790598840001"'),
    "rows of tomorrow": replaced('"1790598840000"', '"179' + "9" * 20 + '"'),
    "a word in a row": replaced('","', '","free'),
    "an answer of tomorrow": replaced('"time":1790598', '"time":1790698'),
    "an answer that is past its time": later(-2),
}


@pytest.mark.parametrize("name", TAILS)
async def test_no_tail_is_believed_that_cannot_be_true(redis: RedisServer, name: str) -> None:
    async with stage(redis) as on:
        await on.filled(Kind.TAIL)
        with on.client() as client:
            client.delete(*(key for key in client.scan_iter() if b":segment:" in key))  # it is about the tail alone
        on.forge(Kind.TAIL, TAILS[name])

        await nobody_is_told(on, Kind.TAIL)


ENTRIES: Final[dict[str, Change]] = {
    "an error": replaced('"retCode":0', '"retCode":10001'),
    "no code": replaced('"retCode":0,', ""),
    "no JSON": replaced('"OK"', "OK"),
    "a list": lambda frame: frame._replace(body=b"[" + frame.body + b"]"),
    "a page": lambda frame: frame._replace(body=b"<script>alert(1)</script>"),
    "nothing": lambda frame: frame._replace(body=b""),
    "cut short": lambda frame: frame._replace(body=frame.body[:-1]),
    "more behind": lambda frame: frame._replace(body=frame.body + b"\r\n<script>"),
    "a coding": lambda frame: frame._replace(encoding="gzip"),
    "other status": lambda frame: frame._replace(status=500),
    "no status": lambda frame: frame._replace(status=0),
    "past its time": later(-61),
    "of tomorrow": later(86_400),
    "for ever": lambda frame: frame._replace(expires_us=(1 << 63) - 1),
    "since ever": lambda frame: frame._replace(stored_us=-(1 << 63), expires_us=-(1 << 63)),
    "for a month": lambda frame: frame._replace(expires_us=frame.expires_us + 30 * 86_400_000_000),
}


@pytest.mark.parametrize("name", ENTRIES)
async def test_no_answer_is_believed_that_cannot_be_true(redis: RedisServer, name: str) -> None:
    async with stage(redis) as on:
        await on.filled(Kind.ENTRY)
        on.forge(Kind.ENTRY, ENTRIES[name])

        await nobody_is_told(on, Kind.ENTRY)


@KINDS
async def test_a_value_of_one_kind_is_not_taken_for_another(redis: RedisServer, kind: Kind) -> None:
    async with stage(redis) as on:
        await on.filled(kind)
        for other in set(Kind) - {kind}:
            on.forge(kind, lambda frame, other=other: frame._replace(kind=other))

            await nobody_is_told(on, kind)
            await on.filled(kind)
            break


@KINDS
async def test_a_bomb_does_not_go_off(redis: RedisServer, kind: Kind) -> None:
    """A few bytes that would become a gigabyte, or more than they say; no matter who has sealed them."""
    bomb = zstandard.ZstdCompressor(level=19).compress(b"0" * (64 << 20))
    for claimed in (64 << 20, 1_000, len(bomb) + 1, (1 << 32) - 1):
        async with stage(redis) as on:
            await on.filled(kind)
            frame = on.frame(kind)._replace(body=bomb, plain_bytes=max(claimed, len(bomb)))
            on.plant(frame.key, pack(frame, SEAL))

            await nobody_is_told(on, kind)


async def test_no_unfinished_candle_is_frozen_by_what_claims_to_be_closed(redis: RedisServer) -> None:
    """A segment that says the running candle, and those to come, are final: only what has settled is taken from it."""
    async with stage(redis) as on:
        await on.filled(Kind.TAIL)
        frame = on.frame(Kind.SEGMENT)
        low_ms = json.loads(frame.head.partition(b"\n")[0])["covered"][0][0]
        now_ms = on.here.now_ms
        segment_ends_ms = (now_ms // 60_000_000 + 1) * 60_000_000
        running = [str(on.here.minute_ms), "6", "6", "6", "6", "6", "6"]
        forged = about(covered=[[low_ms, segment_ends_ms]])(rows_changed(lambda rows: rows.insert(0, running))(frame))
        on.plant(forged.key, pack(forged._replace(plain_bytes=len(forged.body)), SEAL))
        with on.client() as client:
            client.delete(on.key(Kind.TAIL))
        async with on.beside() as other:
            for _ in range(3):
                for more in ({}, {"end": on.here.minute_ms}, {"start": on.here.minute_ms - 120_000}):
                    asked = target("BTCUSDT", limit=3, **more)
                    told = await ask(other.app, asked)
                    assert unlike(told.body) == unlike(await on.direct(asked)), asked
                await on.here.clock.leap(61)
