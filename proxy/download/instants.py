"""How a person writes an instant on the command line: a date, a date and a time, or epoch milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_EXPECTED: Final = "expected 2024-01-31, 2024-01-31T12:30 (UTC unless it says otherwise) or epoch milliseconds"
_EARLIEST_MS: Final = 946_684_800_000
"""2000-01-01: what is earlier was meant as seconds."""
_LATEST_MS: Final = 4_102_444_800_000


def instant_ms(text: str) -> int:
    """Epoch milliseconds. Raises ValueError with a message for the person who wrote it."""
    if text.isascii() and text.isdigit():
        value = int(text)
        if value < _EARLIEST_MS:
            raise ValueError(f"{text} lies before the year 2000: {_EXPECTED} (seconds are not understood)")
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is not an instant: {_EXPECTED}") from None
        value = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    if not _EARLIEST_MS <= value <= _LATEST_MS:
        raise ValueError(f"{text} lies before the year 2000 or after 2099: {_EXPECTED}")
    return value
