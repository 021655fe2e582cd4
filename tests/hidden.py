"""Secrets that are planted wherever one can stand, and looked for in whatever is emitted, in every form that tells it.

A secret is made of letters and digits only, so that no escaping hides it, and not of hexadecimal digits, which the log
would cut out as such.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

_PART = 14
"""Who repeats so many characters of a secret has told it."""


@dataclass
class Hidden:
    """`hidden["cookie"]` is the secret that is planted there, the same one each time."""

    planted: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, place: str) -> str:
        if place not in self.planted:
            digest = base64.b64encode(sha256(f"planted in {place}".encode()).digest()).decode()
            self.planted[place] = "Zq" + re.sub(r"[^A-Za-z0-9]", "", digest)[:28]
        return self.planted[place]

    def found_in(self, emitted: bytes) -> list[str]:
        """Which of them, and how they were written."""
        text = emitted.decode("latin-1").lower()
        return [
            f"{place} ({form})"
            for place, secret in self.planted.items()
            for form, trace in _traces(secret)
            if trace.lower() in text
        ]

    def hashed_in(self, emitted: bytes) -> list[str]:
        """Of which of them there is a hash that anybody can make who has guessed them."""
        text = emitted.decode("latin-1").lower()
        return [place for place, secret in self.planted.items() if sha256(secret.encode()).hexdigest()[:24] in text]


def _traces(secret: str) -> Iterator[tuple[str, str]]:
    raw = secret.encode()
    yield "as it is", secret[:_PART]
    yield "its end", secret[-_PART:]
    yield "in hexadecimal digits", raw.hex()
    yield "percent-encoded", "".join(f"%{byte:02x}" for byte in raw)
    yield "in JSON's escapes", "".join(f"\\u{byte:04x}" for byte in raw)
    for shift in range(3):
        # Wherever it stands in what was encoded: but for its edges it looks one of three ways.
        yield "in base64", base64.b64encode(bytes(shift) + raw).decode()[4 : 4 + 4 * ((len(raw) - 3) // 3)]


HIDDEN = Hidden()
