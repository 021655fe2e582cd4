"""Settings say no to what they do not know."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_bybit.settings import SettingError, Settings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ip_limt", 1, "unknown setting 'ip_limt'; known: account_level, "),
        ("ip_limit", "1", "ip_limit: expected int, got '1'"),
        ("ip_limit", True, "ip_limit: expected int, got True"),
        ("ip_limit", None, "ip_limit: expected int, got None"),
        ("ip_limit", -1, "ip_limit: expected a number that is not negative"),
        ("ip_window_us", 0, "ip_window_us: a window is longer than 0"),
        ("gzip", 1, "gzip: expected bool, got 1"),
        ("kline_unaligned_start", "up", "kline_unaligned_start: expected one of 'floor', 'ceil', got 'up'"),
        ("account_limits", {"a": "b"}, "account_limits: a: expected int, got 'b'"),
        ("account_limits", {1: 1}, "account_limits: key 1: expected a string"),
        ("account_limits", [], "account_limits: expected an object, got []"),
        ("extra_response_headers", {}, "extra_response_headers: expected a list, got {}"),
        ("extra_response_headers", [["a"]], "extra_response_headers: expected pairs [name, value]"),
        ("extra_response_headers", [["a", 1]], "extra_response_headers: item 0: item 1: expected str, got 1"),
        ("accounts", [{"key": "k"}], "accounts: expected objects with exactly key, secret and uid"),
    ],
)
def test_a_wrong_value_is_refused_in_words(name: str, value: Any, message: str) -> None:
    settings = Settings()
    with pytest.raises(SettingError) as caught:
        setattr(settings, name, value)
    assert str(caught.value).startswith(message)
    assert settings == Settings()


def test_an_update_is_all_or_nothing() -> None:
    settings = Settings()
    with pytest.raises(SettingError):
        settings.update({"ip_limit": 5, "gzip": "no"})
    assert settings == Settings()
    settings.update({"ip_limit": 5, "gzip": False})
    assert (settings.ip_limit, settings.gzip) == (5, False)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("ip_limit=5", "ip_limit", 5),
        ("gzip=false", "gzip", False),
        ("kline_limit_over_max=error", "kline_limit_over_max", "error"),
        ("unknown_key=401", "unknown_key", "401"),
        ("ban_body=", "ban_body", ""),
        ('account_limits={"GET /a":1}', "account_limits", {"GET /a": 1}),
    ],
)
def test_a_command_line_assignment_is_json_or_a_word(text: str, name: str, value: Any) -> None:
    settings = Settings()
    settings.set_text(text)
    assert getattr(settings, name) == value


def test_two_settings_share_no_lists() -> None:
    one, other = Settings(), Settings()
    one.accounts.append({"key": "k", "secret": "s", "uid": "1"})
    assert other == Settings()
    assert one.as_dict()["accounts"][-1]["uid"] == "1"
