"""A request as it will be sent, and what its headers and body say about when and how."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from aiohttp import web
from multidict import CIMultiDict, MultiMapping

from policies import bybit, orders, quantities
from policies.descriptor import Descriptor
from policies.orders import Operation
from proxy import body as bodies
from proxy import headers
from proxy.body import BodyLimits
from proxy.describe import Asked
from proxy.errors import Malformed

MAX_WAIT = "X-Gateway-Max-Wait"


class Ask(NamedTuple):
    descriptor: Descriptor
    target: str
    headers: CIMultiDict[str]
    body: bytes
    operations: tuple[Operation, ...] = ()
    """What it does to orders; empty when it does nothing or cannot be understood."""
    timestamp_us: int | None = None
    """When it was signed, on the client's clock."""
    max_wait_us: int | None = None
    """How long the client is willing to wait."""
    once: bool = False
    """Not again, whatever goes wrong."""


def max_wait_us(headers: MultiMapping[str]) -> int | None:
    """How long the client says it will wait. Raises Malformed where what it says is no duration."""
    text = headers.get(MAX_WAIT)
    if text is None:
        return None
    if len(headers.getall(MAX_WAIT)) > 1:
        raise Malformed(400, "bad-max-wait", f"{MAX_WAIT}: it stands there twice")
    try:
        return quantities.duration_us(text.strip())
    except ValueError as error:
        raise Malformed(400, "bad-max-wait", f"{MAX_WAIT}: {error}") from None


async def read_ask(request: web.BaseRequest, asked: Asked, limits: BodyLimits) -> Ask:
    """Read the body and all that is wanted of it. The bytes are forwarded as they are, never written anew."""
    # What can be refused without the body is refused before it is read.
    lines = headers.to_upstream(request.raw_headers, behind_proxy=asked.behind_proxy, bearer=asked.bearer)
    patience_us = max_wait_us(request.headers)
    body = await bodies.read(request, limits)
    if asked.descriptor.signed:
        for name in bybit.SIGNING:
            if len(request.headers.getall(name, ())) > 1:  # which one counts is not for us to guess
                raise Malformed(400, "bad-header", f"the header {name} stands there twice")
    descriptor, operations = understood(asked, body)
    timestamp_us = bybit.timestamp_us(request.headers) if descriptor.signed else None
    return Ask(descriptor, request.raw_path, lines, body, operations, timestamp_us, patience_us)


def understood(asked: Asked, body: bytes) -> tuple[Descriptor, tuple[Operation, ...]]:
    """What the body says: how much is asked for, of which business line, and what it does to orders."""
    descriptor = asked.descriptor
    if not body or descriptor.method == "GET" or not (asked.route.by_line or orders.concerns(descriptor.path)):
        return descriptor, ()
    parsed = _mapping(body)
    line = bybit.line_of(parsed.get("category")) if asked.route.by_line else ""
    descriptor = descriptor._replace(cost=orders.cost_of(descriptor.path, parsed), line=line)
    return descriptor, orders.operations(descriptor.path, parsed)


def _mapping(body: bytes) -> dict[str, Any]:
    """The body as the exchange would read it; what is no JSON object is its to refuse."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
