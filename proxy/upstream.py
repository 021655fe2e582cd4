"""The one pooled, verified connection set to the exchange. Bytes go out as they came in; failures get our names.

aiohttp adds Accept, Accept-Encoding, User-Agent and Content-Type by itself, decodes bodies, follows redirects, keeps
cookies and silently sends a GET again when a pooled connection turns out dead. All of that is off: a repeated request
must be counted, so repeating is the gateway's decision.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, Self

import aiohttp
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from proxy.config_upstream import UpstreamSection
from proxy.errors import BrokenAnswer, FateUnknown, NotSent
from proxy.names import OwnThreads

_ADDED_BY_AIOHTTP: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
_BODILESS: Final = frozenset({"GET", "HEAD"})
_LINE_BYTES: Final = 64 << 10
_MAX_HEADERS: Final = 512


class Reply:
    """The head of an answer, with its body still on the wire. Must be read to its end or closed."""

    def __init__(self, response: aiohttp.ClientResponse, patience_s: float) -> None:
        self._response = response
        self._patience_s = patience_s
        """How long the body may stand still. aiohttp's own read timeout does not run out after a malformed chunk."""
        self._begun: list[bytes] = []
        self.sent_us = 0
        self.received_us = 0
        """When it was sent and its head came, on our clock; set by whoever timed it."""
        self.status = response.status
        self.reason = response.reason or ""
        self.raw_headers = response.raw_headers
        self.encoding = response.headers.get("Content-Encoding", "identity").strip().lower()

    @property
    def length(self) -> int | None:
        """The promised length of the body; None when only its end tells."""
        text = self._response.headers.get("Content-Length")
        if text is None or self._response.headers.get("Transfer-Encoding") is not None:
            return None
        return int(text) if text.isascii() and text.isdigit() else None

    @property
    def headers(self) -> Mapping[str, str]:
        """By their names in whatever case."""
        return self._response.headers

    @property
    def has_body(self) -> bool:
        return self._response.method != "HEAD" and self.status not in {204, 304}

    async def read(self) -> bytes:
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._response.close()
            raise BrokenAnswer(_name(error)) from None

    async def begin(self, most_bytes: int) -> bytes | None:
        """The whole body if it ends within so many bytes; otherwise None, and pieces() has all of it."""
        size = 0
        try:
            while size < most_bytes:
                async with asyncio.timeout(self._patience_s):
                    piece = await self._response.content.readany()
                if not piece:
                    return b"".join(self._begun)
                self._begun.append(piece)
                size += len(piece)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._response.close()
            raise BrokenAnswer(_name(error)) from None
        return None

    async def look(self, most_bytes: int, patience_s: float) -> tuple[bytes, bool]:
        """What comes of the body within so many seconds, and whether that is all of it."""
        got: list[bytes] = []
        try:
            async with asyncio.timeout(patience_s):
                while sum(map(len, got)) < most_bytes:
                    piece = await self._response.content.readany()
                    if not piece:
                        return b"".join(got), True
                    got.append(piece)
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        self._response.close()
        return b"".join(got), False

    async def pieces(self) -> AsyncIterator[bytes]:
        for piece in self._begun:
            yield piece
        try:
            while True:
                async with asyncio.timeout(self._patience_s):
                    piece = await self._response.content.readany()
                if not piece:
                    return
                yield piece
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._response.close()
            raise BrokenAnswer(_name(error)) from None

    def close(self) -> None:
        """Give the connection back, or up when it still carries something."""
        self._response.close() if not self._response.content.at_eof() else self._response.release()


class _Shut(aiohttp.ClientConnectionError):
    """Nothing may be sent: a connection was wanted, or came to stand, while the pool is shut."""


_reused: ContextVar[bool] = ContextVar("reused", default=False)
"""Whether the present attempt was given a connection that had lain idle."""
_fresh: ContextVar[bool] = ContextVar("fresh", default=False)
"""Whether the present attempt wants one that has not."""
_probing: ContextVar[bool] = ContextVar("probing", default=False)
"""Whether the present attempt is the one that is made while the pool is shut."""


class _FreshConnector(aiohttp.TCPConnector):
    """A pool that does not hand out a connection on which something arrived while it was idle.

    What arrived (a late answer, a 408 for idling) would be taken for the answer to the next request, and every later
    answer would go to the wrong client. tests/proxy/test_failures.py holds this in place.

    It can be shut: idle connections are closed, those in use when their answer is here, and nothing is handed out.
    """

    shut = False

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: Any,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's own signature
    ) -> Connection:
        if self.shut and not _probing.get():
            raise _Shut
        connection = await super().connect(req, traces, timeout)
        if self.shut and not _probing.get():
            connection.close()
            raise _Shut
        return connection

    async def _get(self, key: Any, traces: Any) -> Connection | None:
        while not _fresh.get():
            connection = await super()._get(key, traces)
            if connection is None or connection.protocol is None or not connection.protocol.should_close:
                if connection is not None:
                    _reused.set(True)
                return connection
            connection.close()
        return None

    def close_idle(self) -> None:
        """aiohttp has no public way to do this without ending what is in use."""
        for key in list(self._conns):
            for protocol, _ in self._conns.pop(key):
                protocol.close()

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close or self.shut)


class Upstream:
    """Sends requests to the configured host and to no other."""

    def __init__(self, settings: UpstreamSection) -> None:
        self._settings = settings
        self._base = settings.url
        self._session: aiohttp.ClientSession | None = None
        self._connector: _FreshConnector | None = None
        self._shut = False
        self._timeout = self._timeouts(settings.timeouts.connect / 1e6)

    async def __aenter__(self) -> Self:
        pool = self._settings.pool
        connector = self._connector = _FreshConnector(
            limit=pool.total,
            limit_per_host=pool.per_host,
            keepalive_timeout=pool.keepalive / 1e6,
            ttl_dns_cache=pool.dns_ttl // 1_000_000,
            ssl=verified(self._base, self._settings.ca_file),
            resolver=OwnThreads(),
        )
        connector.shut = self._shut
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_ADDED_BY_AIOHTTP,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            max_headers=_MAX_HEADERS,
            trust_env=False,
        )
        # aiohttp has no public switch for its silent second sending; tests/proxy/test_failures.py holds this in place.
        self._session._retry_connection = False  # noqa: SLF001
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def shut(self) -> None:
        """Close all connections, those in use once they are answered; send() raises NotSent from now on."""
        self._shut = True
        if self._connector is not None:
            self._connector.shut = True
            self._connector.close_idle()

    def reopen(self) -> None:
        self._shut = False
        if self._connector is not None:
            self._connector.shut = False

    async def probe(self, target: str) -> Reply:
        """Send a GET although the pool is shut. Raises as send() does."""
        token = _probing.set(True)
        try:
            return await self.send("GET", target, CIMultiDict(), b"")
        finally:
            _probing.reset(token)

    async def send(
        self,
        method: str,
        target: str,
        headers: CIMultiDict[str],
        body: bytes,
        *,
        within_us: int | None = None,
        fresh: bool = False,
    ) -> Reply:
        """One attempt. Raises NotSent or FateUnknown; an answer of any status is an answer.

        `within_us`: it must leave in this time, or not at all. `fresh`: on a connection that has not lain idle.
        """
        assert self._session is not None, "not entered"  # noqa: S101
        _reused.set(False)
        _fresh.set(fresh)
        try:
            response = await self._session.request(
                method,
                URL(self._base + target, encoded=True),
                headers=headers,
                data=body if body and method not in _BODILESS else None,
                allow_redirects=False,
                timeout=self._timeout if within_us is None else self._leaving_within(within_us),
            )
        except aiohttp.ClientConnectorCertificateError:
            raise NotSent("upstream-certificate") from None
        except aiohttp.ClientSSLError:
            raise NotSent("upstream-tls") from None
        except aiohttp.ClientConnectorDNSError:
            raise NotSent("upstream-dns") from None
        except aiohttp.ClientConnectorError:
            raise NotSent("upstream-unreachable") from None
        except aiohttp.ConnectionTimeoutError:
            raise NotSent("upstream-connect-timeout") from None
        except _Shut:
            raise NotSent("banned", of_ours=True) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            gone = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError)
            raise FateUnknown(_name(error), idle=gone and _reused.get()) from None
        if response.status == 101 or response.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            response.close()
            raise FateUnknown("upstream-malformed")
        return Reply(response, self._settings.timeouts.read / 1e6)

    async def prewarm(self, connections: int) -> int:
        """Open connections before the first request, without sending one; the answer is how many stand."""
        assert self._session is not None, "not entered"  # noqa: S101
        connector = self._session.connector
        assert connector is not None  # noqa: S101
        request = aiohttp.ClientRequest("GET", URL(self._base), loop=asyncio.get_running_loop(), session=self._session)
        timeout = self._session.timeout

        async def connect() -> Connection:
            return await connector.connect(request, [], timeout)

        opened = await asyncio.gather(*(connect() for _ in range(connections)), return_exceptions=True)
        standing = [connection for connection in opened if not isinstance(connection, BaseException)]
        for connection in standing:
            connection.release()
        return len(standing)

    def _timeouts(self, connect_s: float) -> aiohttp.ClientTimeout:
        """`connect` covers the wait for a free connection of the pool as well as making a new one."""
        given = self._settings.timeouts
        return aiohttp.ClientTimeout(
            total=given.total / 1e6, connect=connect_s, sock_connect=connect_s, sock_read=given.read / 1e6
        )

    def _leaving_within(self, within_us: int) -> aiohttp.ClientTimeout:
        """A signature that expires while a connection is waited for must not leave on it."""
        if within_us >= self._settings.timeouts.connect:
            return self._timeout
        return self._timeouts(max(within_us, 1_000) / 1e6)


def verified(url: str, ca_file: str | None) -> ssl.SSLContext | bool:
    """How to connect: verification is never off; a CA of one's own may be added for an egress that ends TLS."""
    if not url.startswith(("https:", "wss:")):
        return True
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _name(error: BaseException) -> str:
    """A bounded word for a failure: messages of the library can hold the URL, and so a signature."""
    if isinstance(error, asyncio.TimeoutError):
        return "upstream-timeout"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError):
        return "upstream-disconnected"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "upstream-truncated"
    if isinstance(error, aiohttp.ClientResponseError):
        return "upstream-malformed"
    return "upstream-failed"
