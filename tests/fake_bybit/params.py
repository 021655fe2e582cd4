"""Reading a decoded query the way the exchange does: unknown names ignored, empty values absent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fake_bybit.settings import Settings

PARAMETER_ERROR: Final = 10001
# bybit.md 3.1: errors are HTTP 200 with retCode 10001 and these texts
ILLEGAL_CATEGORY: Final = "Illegal category"
NOT_SUPPORTED_SYMBOLS: Final = "Not supported symbols"

OverLimit = Literal["clamp", "error"]


class Refusal(Exception):
    """A business refusal: HTTP 200 with this retCode and retMsg, and an empty result."""

    def __init__(self, ret_code: int, ret_msg: str) -> None:
        super().__init__(f"{ret_code} {ret_msg}")
        self.ret_code = ret_code
        self.ret_msg = ret_msg


def wrong(name: str) -> Refusal:
    """The refusal of one parameter's value. The texts for single parameters are not documented."""
    return Refusal(PARAMETER_ERROR, f"params error: {name} is invalid")


def whole_number(text: str) -> int | None:
    """Plain digits as a number, as long as a 64-bit integer could hold them."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


class Query:
    """Decoded pairs in order. Of a repeated name the first value counts (not documented)."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            self._values.setdefault(name, value)

    def text(self, name: str) -> str | None:
        """The value, or None when the name is absent or empty."""
        return self._values.get(name) or None

    def whole(self, name: str) -> int | None:
        """The value as a whole number, None when absent; refuses anything else."""
        text = self.text(name)
        if text is None:
            return None
        number = whole_number(text)
        if number is None:
            raise wrong(name)
        return number

    def choice(self, name: str, allowed: Sequence[str], default: str | None = None) -> str:
        """One of `allowed`; refuses others, and an absent value where there is no default."""
        text = self.text(name) or default
        if text is None or text not in allowed:
            raise wrong(name)
        return text

    def category(self, allowed: Sequence[str], default: str | None = None) -> str:
        """The category, or `Illegal category`."""
        text = self.text("category") or default
        if text is None or text not in allowed:
            raise Refusal(PARAMETER_ERROR, ILLEGAL_CATEGORY)
        return text

    def symbol(self) -> str:
        """A symbol that has to be there. Upper case only: nothing is folded."""
        text = self.text("symbol")
        if text is None:
            raise Refusal(PARAMETER_ERROR, NOT_SUPPORTED_SYMBOLS)
        return text

    def limit(self, highest: int, default: int, over: OverLimit) -> int:
        """bybit.md 3.1: limit above the maximum, 0 or no number: clamp or 10001 is unknown, so `over` decides."""
        text = self.text("limit")
        if text is None:
            return default
        number = whole_number(text.removeprefix("-"))
        if number is not None and text.startswith("-"):
            number = -number
        if number is not None and 1 <= number <= highest:
            return number
        if over == "error":
            raise wrong("limit")
        return default if number is None else min(max(number, 1), highest)


def over_limit(settings: Settings) -> OverLimit:
    """How pages other than kline treat a limit out of range: `limit_over_max`, else as kline does."""
    chosen: OverLimit = getattr(settings, "limit_over_max", settings.kline_limit_over_max)
    return chosen


def encoded_cursor(**fields: object) -> str:
    """bybit.md 2.1: cursors are returned already percent-encoded, `lastid%3D19408935%26lasttime%3D1780617600`."""
    return quote("&".join(f"{name}={value}" for name, value in fields.items()), safe="")


def decoded_cursor(text: str, settings: Settings, *names: str) -> list[str]:
    """The fields of a cursor as the server sees it, decoded once.

    A client that encodes the cursor again sends `%253D`; whether that is taken is not documented.
    """
    if "%" in text:
        if getattr(settings, "cursor_encoded_twice", "accept") == "error":
            raise wrong("cursor")
        text = unquote(text)
    found = dict(part.partition("=")[::2] for part in text.split("&"))
    if any(name not in found for name in names):
        raise wrong("cursor")
    return [found[name] for name in names]


def cursor_number(text: str) -> int:
    """A whole number out of a cursor."""
    number = whole_number(text)
    if number is None:
        raise wrong("cursor")
    return number
