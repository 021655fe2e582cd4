"""The `archive` section: what a URL may say, and how little of it is shown."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from policies.archive_schema import ArchiveSection

SECRET = "s3cr3tp%40ss"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://gw:{SECRET}@db.internal:5433/candles", "db.internal:5433/candles"),
        (f"postgres://gw:{SECRET}@[::1]/candles?sslmode=verify-full&sslpassword={SECRET}", "[::1]/candles"),
        (f"postgresql://gw:{SECRET}@a:1,b:2/candles?target_session_attrs=read-write", "a:1,b:2/candles"),
        (f"postgresql://gw:{SECRET}@/candles?host=/run/postgresql", "/run/postgresql/candles"),
        ("postgresql://db/my%20candles", "db/my candles"),
    ],
)
def test_people_see_where_it_is_and_no_more(url: str, shown: str) -> None:
    section = ArchiveSection.model_validate({"url": url})
    assert section.shown == shown
    assert "s3cr3t" not in f"{section!r} {section} {section.model_dump()} {section.model_dump_json()}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        SECRET,
        f"postgresql+asyncpg://gw:{SECRET}@db/candles",
        f"postgresql://gw:{SECRET}@/candles",
        f"postgresql://gw:{SECRET}@db/",
        f"postgresql://gw:{SECRET}@db/a/b",
        f"postgresql://gw:{SECRET}@db:port/candles",
        f"postgresql://gw:{SECRET}#x@db/candles",
        f"postgresql://gw:{SECRET}/x@db/candles",
        f"postgresql://gw:{SECRET}@[::1/candles",
        f"postgresql://gw@db/candles?password={SECRET}",
        f"postgresql://gw@db/candles?{SECRET}",
        f"postgresql://gw@db/candles?sslmode={SECRET}",
        "postgresql://db/candles?sslmode=require&sslmode=disable",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ArchiveSection.model_validate({"url": url})
    assert "expected" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_candles_may_be_kept_for_many_years() -> None:
    """Longer than any other duration of the configuration."""
    assert ArchiveSection.model_validate({"retention": "3650d"}).retention == 3650 * 86_400_000_000


def test_there_is_no_archive_unless_it_is_asked_for() -> None:
    assert (ArchiveSection().url, ArchiveSection().shown) == (None, "none")
