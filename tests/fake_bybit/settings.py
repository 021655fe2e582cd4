"""Every limit and switch of the fake exchange, by name, changeable while it runs.

What the reference marks [unknown] is a switch here, with both behaviours built.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from tests.fake_bybit.typed import problem


class SettingError(ValueError):
    """An unknown setting, or a value it cannot take. The message is meant for the person who typed it."""


def default_accounts() -> list[dict[str, str]]:
    """Two keys of one account and one key of another: keys of one UID share its budget (bybit.md 1.4)."""
    return [
        {"key": "test-key", "secret": "test-secret", "uid": "1001"},
        {"key": "test-key-2", "secret": "test-secret-2", "uid": "1001"},
        {"key": "other-key", "secret": "other-secret", "uid": "2002"},
    ]


@dataclass
class Settings:
    """Assigning checks name and type: `settings.ip_limt = 5` and `settings.ip_limit = "5"` both raise."""

    # --- the IP limiter: bybit.md 1.1, 600 requests in a 5-s window, then at least ten minutes of 403 ---
    ip_limit: int = 600
    ip_window_us: int = 5_000_000
    ip_ban_us: int = 600_000_000
    ban_extends_on_hit: bool = False  # bybit.md Unknown 1
    rejected_counts: bool = False  # whether a request refused with 403 counts in the window: not documented

    # --- the public per-endpoint limiter behind 10006 on /v5/market/*: bybit.md Unknown 2. 0 is off ---
    endpoint_limit: int = 0
    endpoint_window_us: int = 1_000_000
    endpoint_key: Literal["ip", "global", "symbol"] = "ip"

    # --- the account limiter: bybit.md 1.2 to 1.6 ---
    account_level: Literal["default", "vip1", "vip2", "vip3"] = "default"
    account_window: Literal["rolling", "fixed"] = "rolling"  # bybit.md Unknown 6
    linear_inverse_shared: bool = True  # bybit.md Unknown 6
    account_rejected_counts: bool = False  # whether a 10006 counts: not documented
    account_limits: dict[str, int] = field(default_factory=dict)  # "POST /v5/order/create [linear]" -> number
    unlisted_limit: int = 0  # per second, for private paths the table does not list; 0 is no limiter, no headers
    batch_none_left: Literal["outer", "items"] = "outer"  # a batch with no budget at all: not documented
    minute_headers: bool = True  # bybit.md Unknown 3: X-Bapi-* on per-minute endpoints
    public_bapi_headers: bool = False  # bybit.md Unknown 3: X-Bapi-* on public answers
    public_bapi_limit: int = 50  # what they then show

    # --- authentication: bybit.md 2.1, 2.2 ---
    accounts: list[dict[str, str]] = field(default_factory=default_accounts)
    verify_public_signatures: bool = False
    unknown_key: Literal["10003", "401"] = "10003"  # bybit.md 1.8 and 2.4 name both
    clock_offset_ms: int = 0  # the exchange's clock against the machine's

    # --- candles: bybit.md 3.1 and Unknown 4, 5 ---
    kline_unaligned_start: Literal["floor", "ceil"] = "floor"  # spot always floors
    kline_limit_over_max: Literal["clamp", "error"] = "clamp"
    kline_start_after_end: Literal["empty", "error"] = "empty"
    kline_gap_fill: bool = True
    kline_settle_ms: int = 0  # how long after its close a candle still changes
    kline_absent_category_echo: Literal["linear", "empty"] = "linear"

    # --- streams: bybit.md 4.3 to 4.6 and Unknown 10 ---
    stream_connect_limit: int = 500
    stream_connect_window_us: int = 300_000_000
    stream_concurrent_limit: int = 1000
    stream_args_chars: int = 21_000  # of all topics of a connection, written as one JSON list
    stream_spot_args: int = 10  # of one request
    stream_option_args: int = 2000  # of one connection
    stream_over_limit: Literal["refuse", "close"] = "refuse"  # bybit.md Unknown 10
    stream_bad_topic: Literal["all", "rest"] = "all"  # what a bad topic takes with it: all of its request, or nothing
    stream_push_ms: int = 1000  # "every 1-60 s"; by the exchange's clock
    stream_confirm_delay_ms: int = 0  # how long after its end a candle is confirmed
    stream_idle_us: int = 600_000_000
    stream_answer_us: int = 0  # how long what a client says is on its way here, in real time
    stream_silent: bool = False  # nothing is pushed, nothing is answered

    # --- orders: bybit.md Unknown 8 ---
    link_id_reuse_after_final: bool = False

    # --- the HTTP face: bybit.md 1.7 and Unknown 1, 7 ---
    gzip: bool = True
    gzip_min_bytes: int = 256
    cors_headers: bool = True
    cdn_headers: bool = False
    ret_code_header: bool = False
    collapse_slashes: bool = True  # one client family always sends //v5/...
    extra_response_headers: list[list[str]] = field(default_factory=list)
    ban_body: str = "access too frequent"
    ban_content_type: str = "text/plain"

    # --- bookkeeping ---
    record_size: int = 100_000

    def __setattr__(self, name: str, value: Any) -> None:
        """Check before keeping."""
        wanted = _types().get(name)
        if wanted is None:
            raise SettingError(f"unknown setting {name!r}; known: {', '.join(sorted(_types()))}")
        if (found := problem(value, wanted)) is not None:
            raise SettingError(f"{name}: {found}")
        if (found := _sense(name, value)) is not None:
            raise SettingError(f"{name}: {found}")
        object.__setattr__(self, name, value)

    def update(self, changes: dict[str, Any]) -> None:
        """Apply all changes, or none of them when one is wrong."""
        trial = dataclasses.replace(self)
        for name, value in changes.items():
            setattr(trial, name, value)
        for name, value in changes.items():
            setattr(self, name, value)

    def set_text(self, assignment: str) -> None:
        """Take `name=value` as typed on a command line: JSON, or a bare word for text."""
        name, equals, text = assignment.partition("=")
        if not equals:
            raise SettingError(f"{assignment!r}: expected name=value")
        wanted = _types().get(name)
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        # unknown_key=401 is meant as the word, although JSON reads a number
        if wanted is not None and problem(value, wanted) is not None and problem(text, wanted) is None:
            value = text
        setattr(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, in the order of this file."""
        return dataclasses.asdict(self)


def _sense(name: str, value: Any) -> str | None:
    if name.endswith("_window_us") and value <= 0:
        return "a window is longer than 0"
    if isinstance(value, int) and value < 0 and name != "clock_offset_ms":
        return "expected a number that is not negative"
    if name == "extra_response_headers" and any(len(pair) != 2 for pair in value):
        return "expected pairs [name, value]"
    if name == "accounts" and any(set(each) != {"key", "secret", "uid"} for each in value):
        return "expected objects with exactly key, secret and uid"
    return None


@cache
def _types() -> dict[str, Any]:
    return typing.get_type_hints(Settings)
