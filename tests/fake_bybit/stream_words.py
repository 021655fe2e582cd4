"""What a public stream says about itself: acknowledgements and pongs, category by category."""

from __future__ import annotations

from typing import Any, Final

import orjson

PREFIX: Final = "/v5/public/"
# bybit.md 4.2; rfq, misc/status, private and trade are not here
CATEGORIES: Final = ("spot", "linear", "inverse", "option", "spread")
_COMMAND_STYLE: Final = ("option", "spread")


def category_of(path: str) -> str | None:
    """The category of a stream's path, or None for a path that is no stream."""
    category = path.removeprefix(PREFIX)
    return category if path.startswith(PREFIX) and category in CATEGORIES else None


def pong(category: str, conn_id: str, req_id: str | None, now_ms: int) -> bytes:
    """bybit.md 4.4: three shapes; `op` is "ping" on spot, linear and inverse."""
    if category in _COMMAND_STYLE:
        return orjson.dumps({"args": [str(now_ms)], "op": "pong"})
    told: dict[str, Any] = {"success": True, "ret_msg": "pong", "conn_id": conn_id}
    if category != "spot":
        told["req_id"] = req_id or ""
    return orjson.dumps({**told, "op": "ping"})


def done(category: str, conn_id: str, req_id: str | None, op: str, topics: list[str]) -> bytes:
    """A request was carried out."""
    if category in _COMMAND_STYLE:
        return command(conn_id, topics, [])
    # bybit.md 4.5: spot says "subscribe", linear nothing. The docs show req_id on spot where one was given, on linear
    # always; spot's "unsubscribe" is from the v3 docs
    return _told(category, conn_id, req_id, op, op if category == "spot" else "", success=True)


def refused(category: str, conn_id: str, req_id: str | None, op: str, why: str) -> bytes:
    """A request was not carried out. bybit.md 4.5: `success` is false and `ret_msg` the reason."""
    return _told(category, conn_id, req_id, op, why, success=False)


def command(conn_id: str, good: list[str], bad: list[str]) -> bytes:
    """bybit.md 4.5: the acknowledgement on option and spread."""
    topics = {"failTopics": bad, "successTopics": good}
    return orjson.dumps({"success": True, "conn_id": conn_id, "data": topics, "type": "COMMAND_RESP"})


def bad_topic(category: str, topic: str) -> str:
    """bybit.md 4.5 has both texts; people post the second one from spot: Invalid symbol :[orderbook.50.X]."""
    return f"Invalid symbol :[{topic}]" if category == "spot" else f"error:handler not found,topic:{topic}"


def repeated_topic(topic: str) -> str:
    """As posted from linear: github.com/sieblyio/bybit-api/issues/477."""
    return f"error:already subscribed,topic:{topic}"


# bybit.md Unknown 10. Posted from spot: github.com/yufuquant/rust-bybit/issues/24
TOO_MANY_SPOT_ARGS: Final = "args size >10"
# bybit.md Unknown 10: nobody has posted these
TOO_LONG_ARGS: Final = "args length >21000"
TOO_MANY_OPTION_ARGS: Final = "args size >2000"
NOT_UNDERSTOOD: Final = "Params Error"


def _told(category: str, conn_id: str, req_id: str | None, op: str, ret_msg: str, *, success: bool) -> bytes:
    told: dict[str, Any] = {"success": success, "ret_msg": ret_msg, "conn_id": conn_id}
    if category != "spot" or req_id is not None:
        told["req_id"] = req_id or ""
    return orjson.dumps({**told, "op": op})
