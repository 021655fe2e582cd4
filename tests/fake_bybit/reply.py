"""What a handler answers, before it becomes bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """One business answer, sent as HTTP 200 whatever `ret_code` says (bybit.md 1.8).

    `result` and `ext` become `result` and `retExtInfo`. With `envelope=False`, `result` is the whole
    top-level object already: historical-volatility keeps no envelope (bybit.md 2.3). `cost` is what the call
    took from the account's budget where the handler knows better than the limiter.
    """

    ret_code: int = 0
    ret_msg: str = "OK"
    result: Any = field(default_factory=dict)
    ext: Any = field(default_factory=dict)
    envelope: bool = True
    cost: int | None = None


# bybit.md 1.2: the observed body is 123 bytes long with this text.
TOO_MANY_VISITS = Reply(10006, "Too many visits. Exceeded the API Rate Limit.")
