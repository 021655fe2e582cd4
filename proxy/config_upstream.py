"""The `upstream` section: the exchange, and how it is connected to."""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from policies.schema import PositiveDurationUs, Section

_HOST: Final = re.compile(r"[0-9a-f:]+|(?!-)[a-z0-9_-]{1,63}(?:\.(?!-)[a-z0-9_-]{1,63})*")


class TimeoutSection(Section):
    connect: PositiveDurationUs = Field(
        default=10_000_000, description="A free connection of the pool, or a new one with its TLS handshake."
    )
    read: PositiveDurationUs = Field(default=20_000_000, description="Silence of the exchange.")
    total: PositiveDurationUs = Field(default=30_000_000, description="From the first to the last byte.")


class PoolSection(Section):
    total: Annotated[int, Field(ge=1, le=10_000)] = Field(default=300, description="Connections in total.")
    per_host: Annotated[int, Field(ge=1, le=10_000)] = Field(default=100, description="Connections to one host.")
    keepalive: PositiveDurationUs = Field(
        default=60_000_000, description="Idle connections are closed after this time."
    )
    dns_ttl: PositiveDurationUs = Field(default=300_000_000, description="How long an answer of DNS is believed.")


class UpstreamSection(Section):
    url: str = Field(
        default="https://api.bybit.com",
        description="Base URL of the exchange, with nothing behind the host.",
        json_schema_extra={"pattern": "^https?://[^/?#@]+/?$"},
    )
    stream_url: str = Field(
        default="wss://stream.bybit.com",
        description="Base URL of the exchange's streams, with nothing behind the host.",
        json_schema_extra={"pattern": "^wss?://[^/?#@]+/?$"},
    )
    ca_file: str | None = Field(
        default=None,
        description="PEM file of a further CA, for an egress that ends TLS; verification is never off.",
    )
    timeouts: TimeoutSection = Field(default=TimeoutSection(), description="How long the exchange is waited for.")
    pool: PoolSection = Field(default=PoolSection(), description="Connections to the exchange.")
    prewarm: Annotated[int, Field(ge=0, le=100)] = Field(
        default=0, description="Connections opened before the first request."
    )

    @field_validator("url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        return _base(value, ("https", "http"), "https://api.bybit.com")

    @field_validator("stream_url")
    @classmethod
    def _base_stream_url(cls, value: str) -> str:
        return _base(value, ("wss", "ws"), "wss://stream.bybit.com")

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if not Path(value).is_file():
            raise ValueError(f"expected a file of PEM certificates, there is none at {value!r}")
        try:
            ssl.create_default_context(cafile=value)
        except (ssl.SSLError, OSError):
            raise ValueError(f"expected a file of PEM certificates, {value!r} holds none") from None
        return value

    @property
    def plain_and_remote(self) -> bool:
        """Orders would cross a network unencrypted."""
        parts = urlsplit(self.url)
        if parts.scheme == "https":
            return False
        host = parts.hostname or ""
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"


def _base(value: str, schemes: tuple[str, ...], example: str) -> str:
    """A scheme and a host, without the slash behind it."""
    expected = f"expected a base URL such as {example}, with nothing behind the host"
    if "@" in value:
        raise ValueError(f"{expected}, got one with a user name")  # not repeated: there may be a password in it
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(f"{expected}, got one with an odd port") from None  # that may be half of user:password
    if parts.scheme not in schemes or not _HOST.fullmatch(parts.hostname or "") or port == 0:
        raise ValueError(f"{expected}, got {value!r}")
    if parts.query or parts.fragment:
        raise ValueError(f"{expected}, got one with a query or a fragment")
    if parts.path.strip("/") or "?" in value or "#" in value:
        raise ValueError(f"{expected}, got {value!r}")
    return f"{parts.scheme}://{parts.netloc}"
