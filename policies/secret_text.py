"""Secrets in the configuration: pydantic's SecretStr, which shows itself to nobody; no message repeats one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, SecretStr

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SENDABLE: Final = re.compile(r"[\x21-\x7e]+")
LEAST_JWT_SECRET: Final = 32
"""Bytes: RFC 7518, 3.2, wants a key as long as the hash."""


def _secret(value: Any) -> Any:
    if isinstance(value, str | SecretStr):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError("expected text (in quotes, if it looks like something else)")


def _of_length(least: int) -> Callable[[SecretStr], SecretStr]:
    def check(value: SecretStr) -> SecretStr:
        if len(value.get_secret_value().encode()) < least:
            raise ValueError(f"expected at least {least} characters: a short secret can be guessed")
        return value

    return check


def _sendable(value: SecretStr) -> SecretStr:
    if not _SENDABLE.fullmatch(value.get_secret_value()):
        raise ValueError("expected printable ASCII without blanks, as a header can carry it")
    return value


def _digest(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().lower()
    if not _DIGEST.fullmatch(text):
        raise ValueError("expected the 64 hexadecimal digits of a SHA-256")
    return SecretStr(text)


Secret = Annotated[SecretStr, BeforeValidator(_secret)]
HashKey = Annotated[Secret, AfterValidator(_of_length(8))]
SharedSecret = Annotated[Secret, AfterValidator(_of_length(16))]
TokenText = Annotated[Secret, AfterValidator(_of_length(8)), AfterValidator(_sendable)]
JwtSecret = Annotated[Secret, AfterValidator(_of_length(LEAST_JWT_SECRET))]
Digest = Annotated[Secret, AfterValidator(_digest)]
ApiKey = Annotated[Secret, AfterValidator(_sendable)]
