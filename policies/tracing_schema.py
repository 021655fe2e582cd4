"""YAML becomes types here: the section `tracing`, spans for an OpenTelemetry collector. As schema.py."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from policies.schema import Name, Section

_EXPECTED: Final = "expected a URL such as http://127.0.0.1:4318/v1/traces"


class TracingSection(Section):
    enabled: bool = Field(default=False, description="Whether spans are made. Needs bybit-gateway[otel].")
    endpoint: str | None = Field(
        default=None,
        description="Where they go, OTLP over HTTP. Null: as the variables OTEL_EXPORTER_OTLP_... say, else port 4318 "
        "of this machine.",
        json_schema_extra={"pattern": "^https?://[^/?#@]+/[^?#@]+$"},
    )
    sample: Annotated[int, Field(ge=0, le=100)] = Field(
        default=100,
        description="Percent of the requests that belong to no trace yet; of the others their client decides.",
    )
    service: Name = Field(default="bybit-gateway", description="The name of this service in the traces.")

    @field_validator("endpoint")
    @classmethod
    def _url_with_path(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if "@" in value or "?" in value or "#" in value:  # not repeated: there may be a secret in it
            raise ValueError(f"{_EXPECTED}, without user or query: secrets belong into OTEL_EXPORTER_OTLP_HEADERS")
        try:
            parts = urlsplit(value)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
            parts = urlsplit("")
        if not good or any(char.isspace() or not char.isprintable() for char in value):
            raise ValueError(f"{_EXPECTED}, got {value!r}")
        if not parts.path.strip("/"):
            raise ValueError(f"{_EXPECTED}, with the path, got {value!r}")
        return value
