"""The `store` section: where the windows are kept, and what becomes of them when that place is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from policies import store_url
from policies.quantities import duration_text
from policies.schema import PositiveDurationUs, Section
from policies.secret_text import Secret
from policies.store_url import StoreAddress, StoreKind


class StoreSection(Section):
    url: str = Field(
        default="memory://",
        description="Where the limits live: memory:// is this process; redis://, rediss://, redis+sentinel:// and "
        "redis+cluster:// are shared by all gateways of one egress.",
        json_schema_extra={"pattern": store_url.PATTERN},
    )
    password: Secret | None = Field(default=None, description="Of the store, where it does not stand in the URL.")
    ca_file: str | None = Field(default=None, description="PEM file of the CA that signed the store's certificate.")
    cert_file: str | None = Field(default=None, description="PEM file of our own certificate for the store, and")
    key_file: str | None = Field(default=None, description="of its key.")
    timeout: PositiveDurationUs = Field(
        default=50_000, description="A store that has not answered by then counts as lost."
    )
    replicas: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=1, description="Gateways that share the budget at most, for when they cannot count each other."
    )
    on_failure: Literal["divided", "closed", "open"] = Field(
        default="divided",
        description="While the store is lost: divided: each gateway has its share; closed: nothing is sent; open: each "
        "sends up to the whole limit, which several of them turn into a ban.",
    )
    accept_bans: bool = Field(default=False, description="Must be true for on_failure: open.")
    state_file: str | None = Field(
        default="auto",
        description="memory:// only: what the next start goes on with. auto: in the user's state directory, or a path; "
        "null: none, and a restart forgets what the exchange still counts.",
    )

    @field_validator("url")
    @classmethod
    def _known_store(cls, value: str) -> str:
        store_url.parse(value)
        return value

    @field_validator("timeout")
    @classmethod
    def _neither_hasty_nor_patient(cls, value: int) -> int:
        if not 5_000 <= value <= 1_000_000:
            raise ValueError(f"expected a time from 5ms to 1s, got {duration_text(value)}: requests wait for it")
        return value

    @field_validator("state_file")
    @classmethod
    def _has_a_directory(cls, value: str | None) -> str | None:
        if value in {None, "auto"} or (value and Path(value).parent.is_dir() and not Path(value).is_dir()):
            return value
        raise ValueError(f"expected auto, null, or a file in a directory that exists, got {value!r}")

    @field_validator("ca_file", "cert_file", "key_file")
    @classmethod
    def _is_there(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).is_file():
            raise ValueError(f"expected a PEM file, there is none at {value!r}")
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> StoreSection:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("expected cert_file and key_file together")
        if not self.address.tls and (self.ca_file or self.cert_file):
            raise ValueError("expected a rediss:// URL beside ca_file or cert_file: the others are not encrypted")
        if self.on_failure == "open" and not self.accept_bans:
            raise ValueError(
                "on_failure: expected divided or closed; open lets several gateways together exceed the exchange's "
                "limit, say accept_bans: true to have it all the same"
            )
        return self

    @property
    def address(self) -> StoreAddress:
        """The URL in parts, with the password from wherever it stands."""
        address = store_url.parse(self.url)
        if self.password is None:
            return address
        return replace(address, password=self.password.get_secret_value())

    @property
    def shared(self) -> bool:
        """Whether other processes can see it."""
        return self.address.kind is not StoreKind.MEMORY
