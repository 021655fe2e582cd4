"""The session for WebSocket connections to the exchange: verified TLS, no redirects, nothing of its own making."""

from __future__ import annotations

from typing import Final

import aiohttp

from proxy.names import OwnThreads
from proxy.upstream import verified

SWITCHING: Final = 101


class NotUpgraded(aiohttp.ClientError):
    """The handshake was answered, but not with 101."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


async def _straight(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A handshake is answered with 101 or it has failed: ws_connect() would follow a redirect to any host."""
    response = await handler(request)
    if response.status != SWITCHING:
        response.close()
        raise NotUpgraded(response.status)
    return response


def stream_session(url: str, ca_file: str | None) -> aiohttp.ClientSession:
    """To be closed by who has opened it. No bound on connections: that is a policy's business."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=verified(url, ca_file), resolver=OwnThreads()),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        middlewares=(_straight,),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )
