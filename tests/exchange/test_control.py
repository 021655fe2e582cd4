"""The second port: change the exchange while it runs, and read what it saw."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.exchange.help import START_US, Clock, ask, ask_signed
from tests.fake_bybit import FakeBybit

if TYPE_CHECKING:
    from pathlib import Path

TIME = "/v5/market/time"


async def control(exchange: FakeBybit, method: str, path: str, value: Any = None) -> tuple[int, Any]:
    data = None if value is None else json.dumps(value).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, exchange.control_url + path, data=data) as answer,
    ):
        return answer.status, json.loads(await answer.read())


async def test_settings_are_read_and_changed_at_once(exchange: FakeBybit) -> None:
    _, before = await control(exchange, "GET", "/settings")
    assert before["ip_limit"] == 600
    status, after = await control(exchange, "POST", "/settings", {"ip_limit": 1, "gzip": False})
    assert (status, after["ip_limit"], after["gzip"]) == (200, 1, False)
    assert [(await ask(exchange, "GET", TIME)).status for _ in range(2)] == [200, 403]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("/settings", {"ip_limt": 1}, "unknown setting 'ip_limt'"),
        ("/settings", {"gzip": False, "ip_limit": "1"}, "ip_limit: expected int, got '1'"),
        ("/settings", [], "expected an object, got []"),
        ("/faults", {"kind": "nope"}, "kind: expected one of"),
        ("/ban", {}, "ip is missing"),
        ("/ban", {"ip": 5}, "ip: expected str, got 5"),
        ("/ban", {"ip": "x", "for": 5}, "unknown field 'for'; known: ip, ban_us"),
        ("/clock", {"offset_ms": "1"}, "offset_ms: expected int, got '1'"),
    ],
)
async def test_a_mistake_is_a_400_in_words_and_changes_nothing(
    exchange: FakeBybit, path: str, value: Any, message: str
) -> None:
    status, answer = await control(exchange, "POST", path, value)
    assert status == 400
    assert answer["error"].startswith(message)
    assert exchange.settings.gzip
    assert not exchange.faults.rules


async def test_what_is_no_json_is_said_to_be_none(exchange: FakeBybit) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(exchange.control_url + "/settings", data=b"{") as answer,
    ):
        assert answer.status == 400
        assert "not JSON" in await answer.text()


async def test_faults_are_added_listed_and_removed(exchange: FakeBybit) -> None:
    rule = {"kind": "status", "status": 502, "body": "html", "count": 5, "match": {"path": "/v5/market"}}
    assert (await control(exchange, "POST", "/faults", rule))[0] == 200
    assert (await ask(exchange, "GET", TIME)).status == 502
    (shown,) = (await control(exchange, "GET", "/faults"))[1]
    assert shown == {**rule, "probability": 1.0, "fired": 1, "processed": False}
    await control(exchange, "DELETE", "/faults")
    assert (await ask(exchange, "GET", TIME)).status == 200


async def test_every_kind_of_rule_can_be_listed(exchange: FakeBybit) -> None:
    await control(exchange, "POST", "/faults", {"kind": "jitter", "delay_us": 5, "count": 0})
    await control(exchange, "POST", "/faults", {"kind": "ret_code", "ret_code": 10016, "count": 0})
    _, rules = await control(exchange, "GET", "/faults")
    assert [rule["kind"] for rule in rules] == ["jitter", "ret_code"]
    assert (rules[0]["delay_us"], rules[1]["ret_code"]) == (5, 10016)


async def test_bans_are_given_and_lifted(exchange: FakeBybit) -> None:
    _, told = await control(exchange, "POST", "/ban", {"ip": "127.0.0.1", "ban_us": 1000})
    assert told["banned_until_us"] == START_US + 1000
    assert (await ask(exchange, "GET", TIME)).status == 403
    await control(exchange, "POST", "/unban", {"ip": "127.0.0.1"})
    assert (await ask(exchange, "GET", TIME)).status == 200


async def test_stats_tell_what_happened(exchange: FakeBybit) -> None:
    exchange.settings.account_limits = {"GET /v5/order/realtime": 1}
    query = "category=linear&symbol=BTCUSDT"
    await ask(exchange, "GET", TIME)
    await ask(exchange, "GET", "/v5/nope")
    await ask_signed(exchange, "/v5/order/realtime", query)
    await ask_signed(exchange, "/v5/order/realtime", query)
    await ask_signed(exchange, "/v5/order/realtime", query, secret="wrong")
    await ask_signed(exchange, "/v5/order/realtime", query, at_ms=1)
    _, stats = await control(exchange, "GET", "/stats")
    assert stats["requests"] == stats["max_in_window"] == 6
    assert stats["breaches"] == 0
    assert stats["ips"]["127.0.0.1"]["max_in_window"] == 6
    assert stats["endpoints"] == {f"GET {TIME}": 1, "(unknown)": 1, "GET /v5/order/realtime": 4}
    assert stats["statuses"] == {"200": 5, "404": 1}
    assert [stats[name] for name in ("stale_10002", "bad_sign_10004", "too_many_visits_10006")] == [1, 1, 1]
    (account,) = stats["accounts"]
    assert (account["uid"], account["group"], account["refused"]) == ("1001", "futures", 1)
    assert (account["max_asked_in_window"], account["max_admitted_in_window"]) == (2, 1)


async def test_the_record_is_read_from_a_place_on_and_forgotten(exchange: FakeBybit) -> None:
    for number in range(3):
        await ask(exchange, "GET", f"{TIME}?n={number}")
    _, told = await control(exchange, "GET", "/record?since=1")
    assert told["last_sequence"] == 3
    assert [entry["target"] for entry in told["entries"]] == [f"{TIME}?n=1", f"{TIME}?n=2"]
    assert told["entries"][0]["status"] == 200
    await control(exchange, "DELETE", "/record")
    assert (await control(exchange, "GET", "/record"))[1] == {"last_sequence": 3, "entries": []}
    assert (await control(exchange, "GET", "/record?since=x"))[0] == 400


async def test_the_clock_is_read_and_skewed(exchange: FakeBybit) -> None:
    now_ms = START_US // 1000
    assert (await control(exchange, "GET", "/clock"))[1] == {"time_ms": now_ms, "offset_ms": 0}
    assert (await control(exchange, "POST", "/clock", {"offset_ms": -1500}))[1]["time_ms"] == now_ms - 1500
    assert (await ask(exchange, "GET", TIME)).json()["time"] == now_ms - 1500


async def test_reset_forgets_everything_but_settings(exchange: FakeBybit) -> None:
    exchange.settings.ip_limit = 1
    exchange.faults.add({"kind": "status"})
    assert [(await ask(exchange, "GET", TIME)).status for _ in range(2)] == [503, 403]
    await control(exchange, "POST", "/reset", {})
    assert (await ask(exchange, "GET", TIME)).status == 200
    assert exchange.stats.requests == len(exchange.record.since()) == 1
    assert exchange.settings.ip_limit == 1


async def test_the_control_port_is_not_counted(exchange: FakeBybit, clock: Clock) -> None:
    await control(exchange, "GET", "/stats")
    assert not exchange.books.ip.ips
    assert not exchange.record.since()


# --- the command ---


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fake_bybit", "--port", "0", "--control-port", "0", "--seed", "3"]
    command += ["--set", "ip_limit=7", "--tls", "--tls-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert process.stdout.read() == ""
    assert line.startswith("fake Bybit ready: https://127.0.0.1:")
    assert line.rstrip().endswith(f"CA {tmp_path / 'ca.pem'}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [("ip_limit=many", "expected int, got 'many'"), ("nope=1", "unknown setting"), ("gzip", "expected name=value")],
)
def test_the_command_refuses_a_setting_it_does_not_understand(argument: str, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fake_bybit", "--set", argument],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert message in done.stderr
