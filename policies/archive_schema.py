"""YAML becomes types here: the section `archive`, candles in PostgreSQL. As schema.py.

    postgresql://[user:password@]host[:5432]/database[?sslmode=verify-full&sslrootcert=/path/ca.pem]
    postgresql://[user:password@]/database?host=/var/run/postgresql       (a Unix socket)

`postgres://` is the same. No message repeats anything of a URL: an unescaped ? or # in a password moves the rest of it
to where a message would show it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WithJsonSchema, field_validator, model_validator

from policies import quantities
from policies.identity_schema import Mistakes
from policies.quantities import duration_text
from policies.schema import DURATION, PositiveDurationUs, Section
from policies.secret_text import Secret

_EXPECTED: Final = "expected postgresql://USER:PASSWORD@HOST:5432/DATABASE"
_HOST: Final = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?"
_HOSTS: Final = re.compile(rf"(?:{_HOST}(?:,{_HOST})*)?")
_OPTIONS: Final = frozenset(
    {"host", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "target_session_attrs", "application_name"}
)
"""What may stand behind the ?. The library would take anything else for a setting of the server."""
_TLS: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_PATTERN: Final = r"^postgres(ql)?://([^@/?#]*@)?[^@/?#]*/[^/?#@]+(\?[^#]*)?$"

_DAY_US: Final = 86_400_000_000
_LONGEST_US: Final = 36_500 * _DAY_US


def _address(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError(_EXPECTED)
    try:
        parts = urlsplit(text)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        raise ValueError(f"{_EXPECTED}, with what is special in it written as %XX") from None
    _, _, hosts = parts.netloc.rpartition("@")
    names = [name for name, _ in options]
    if not _HOSTS.fullmatch(hosts) or parts.fragment or len(set(names)) < len(names) or not _OPTIONS.issuperset(names):
        known = ", ".join(sorted(_OPTIONS))
        raise ValueError(f"{_EXPECTED}, with nothing behind it but ? and some of {known}")
    if not re.fullmatch(r"/[^/@]+", parts.path):
        raise ValueError(f"{_EXPECTED}, with one database at its end")
    given = dict(options)
    if bool(hosts) == ("host" in given):
        raise ValueError(f"{_EXPECTED}: a host before the database, or ?host=/DIRECTORY of a socket behind it")
    if given.get("sslmode", "prefer") not in _TLS:
        raise ValueError(f"expected sslmode to be one of {', '.join(_TLS)}")
    return value


def _long_duration(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError("expected a duration with a unit such as 365d")  # noqa: TRY004  # pydantic wants ValueError
    return quantities.duration_us(value, _LONGEST_US)


ArchiveUrl = Annotated[
    Secret,
    AfterValidator(_address),
    WithJsonSchema({"type": "string", "format": "password", "writeOnly": True, "pattern": _PATTERN}),
]
LongDurationUs = Annotated[int, BeforeValidator(_long_duration), DURATION]
Rows = Annotated[int, Field(ge=1, le=100_000)]


class ArchiveSection(Section):
    url: ArchiveUrl | None = Field(
        default=None, description="postgresql://USER:PASSWORD@HOST/DATABASE: where closed candles go. Null: nowhere."
    )
    password: Secret | None = Field(default=None, description="Of the user, where it does not stand in the URL.")
    batch: Rows = Field(default=5_000, description="So many rows are written at once, as soon as they are there, or")
    flush: PositiveDurationUs = Field(default=1_000_000, description="what there is after this time.")
    queue: Annotated[int, Field(ge=1_000, le=10_000_000)] = Field(
        default=100_000, description="Rows that wait to be written at most; what comes beyond that is not archived."
    )
    retention: LongDurationUs | None = Field(
        default=None, description="Candles older than this are deleted, and not archived. Null: none is."
    )
    serve: bool = Field(default=True, description="Whether the candle store may take what it lacks from the archive.")
    timeout: PositiveDurationUs = Field(
        default=250_000, description="An archive that has not answered by then is done without: requests wait for it."
    )

    @field_validator("flush")
    @classmethod
    def _soon(cls, value: int) -> int:
        if value > 60_000_000:
            raise ValueError(f"expected at most 1m, got {duration_text(value)}: what waits is lost with the process")
        return value

    @field_validator("timeout")
    @classmethod
    def _neither_hasty_nor_patient(cls, value: int) -> int:
        if not 10_000 <= value <= 5_000_000:
            raise ValueError(f"expected a time from 10ms to 5s, got {duration_text(value)}: requests wait for it")
        return value

    @field_validator("retention")
    @classmethod
    def _at_least_a_day(cls, value: int | None) -> int | None:
        if value is not None and value < _DAY_US:
            raise ValueError(
                f"expected at least 1d, got {duration_text(value)}: candles are counted by their beginning"
            )
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> ArchiveSection:
        if self.queue < self.batch:
            raise Mistakes([(("queue",), f"expected room for a batch, at least {self.batch}, got {self.queue}")])
        if self.password is not None and self.url is None:
            raise Mistakes([(("password",), "expected archive.url beside it")])
        return self

    @property
    def shown(self) -> str:
        """For people: host and database, without user, password and options."""
        if self.url is None:
            return "none"
        parts = urlsplit(self.url.get_secret_value())
        hosts = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "")
        return f"{hosts}{unquote(parts.path)}"
