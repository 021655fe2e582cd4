"""What the exchange has answered: its head, and the whole body where it is short enough to be judged first."""

from __future__ import annotations

from typing import Final, NamedTuple

from policies import bybit
from proxy import coding
from proxy.errors import BrokenAnswer
from proxy.upstream import Reply

_WHOLE_BYTES: Final = 256 << 10
"""Answers up to this length are read in one piece; longer ones stream."""
_BEGINNING_BYTES: Final = 64 << 10
"""So much of an answer without a length is read before it is taken for a long one."""


_FORBIDDEN: Final = 403
_PATIENCE_S: Final = 1.0
"""A 403 may be a ban: what it says must be known at once, whether it ends or not."""


class Answered(NamedTuple):
    reply: Reply
    raw: bytes | None
    """The body as it came; None for a long one, which is still on the wire."""
    text: bytes
    """The decoded body where that is short."""
    ret_code: int | None

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def failed(self) -> bool:
        """The exchange is in trouble: an older answer is better than this one."""
        return bybit.in_trouble(self.status, self.ret_code)


async def read_through(reply: Reply) -> Answered:
    """Read what is short. Raises BrokenAnswer."""
    if not reply.has_body:
        reply.close()
        return Answered(reply, b"", b"", None)
    if reply.status == _FORBIDDEN:
        return await _read_refusal(reply)
    length = reply.length
    if length is None:
        raw = await reply.begin(_BEGINNING_BYTES)  # most answers without a length end soon as well
    else:
        raw = await reply.read() if length <= _WHOLE_BYTES else None
    if raw is None:
        return Answered(reply, None, b"", None)
    text = coding.decode_if_short(raw, reply.encoding)
    return Answered(reply, raw, text, bybit.ret_code(text))


async def _read_refusal(reply: Reply) -> Answered:
    raw, whole = await reply.look(_WHOLE_BYTES, _PATIENCE_S)
    text = coding.decode_if_short(raw, reply.encoding)
    if not whole:
        raise BrokenAnswer("upstream-truncated", forbidden=text or raw)
    return Answered(reply, raw, text, bybit.ret_code(text))
