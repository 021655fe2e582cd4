"""Signs as a client does: over the very bytes that go out."""

from __future__ import annotations

import hashlib
import hmac
import time

KEY, SECRET = "test-key", "test-secret"


def signed(
    payload: str | bytes,
    *,
    key: str = KEY,
    secret: str = SECRET,
    stamp_ms: int | None = None,
    window_ms: int = 5_000,
) -> dict[str, str]:
    """Headers for a query string (GET) or a body (POST)."""
    stamp = str(time.time_ns() // 1_000_000 if stamp_ms is None else stamp_ms)
    raw = payload if isinstance(payload, bytes) else payload.encode()
    text = f"{stamp}{key}{window_ms}".encode() + raw
    return {
        "X-BAPI-API-KEY": key,
        "X-BAPI-TIMESTAMP": stamp,
        "X-BAPI-RECV-WINDOW": str(window_ms),
        "X-BAPI-SIGN": hmac.new(secret.encode(), text, hashlib.sha256).hexdigest(),
    }
