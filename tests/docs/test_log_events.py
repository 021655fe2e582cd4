"""docs/logs.md tells of every event that the gateway can log, and of no other."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT, pages
from tests.docs.events import LEVELS, OF_REQUESTS, events

PAGE = ROOT / "docs" / "logs.md"
_ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \| (?P<level>[a-z, ]+) \| (?P<meaning>.+) \|$", re.MULTILINE)


def rows() -> dict[str, re.Match[str]]:
    text = PAGE.read_text(encoding="utf-8").partition("## All other events")[2].partition("\n## ")[0]
    found = list(_ROW.finditer(text))
    names = [match["name"] for match in found]
    assert len(names) == len(set(names)), "an event stands there twice"
    return {match["name"]: match for match in found}


def test_every_event_of_the_code_stands_on_the_page() -> None:
    """An operator finds what a line of the log means; one that is no more is not promised."""
    written, real = set(rows()), set(events())
    assert not real - written, f"not on the page: {sorted(real - written)}"
    assert not written - real, f"no longer in the code: {sorted(written - real)}"


def test_each_stands_there_with_its_level() -> None:
    """What `log.level` leaves out, and what alerts may rest on."""
    for name, row in rows().items():
        levels = events()[name].levels
        assert set(re.split(r", ", row["level"])) == (set(levels) or LEVELS - {"debug"}), name


def test_fields_that_the_page_names_are_those_of_the_event() -> None:
    """`reason`, `rows`: a word in backticks in the row of an event is a field of it."""
    for name, row in rows().items():
        named = set(re.findall(r"`([a-z_]+)`", row["meaning"]))
        unknown = named - set(events()[name].fields) - set(events())
        assert not unknown or name in {"backpressure", "memory_growing"}, f"{name}: {sorted(unknown)}"


def test_the_reader_of_the_code_sees_events() -> None:
    """Each way of telling: plain, on several lines, chosen by a condition, named after a store, by the library."""
    found = events()
    assert {
        "started",
        "memory_growing",
        "state_file_nowhere",
        "cache_store_lost",
        "usage_store_back",
        "library",
    } <= set(found)
    assert found["backpressure"].levels == {"info", "warning"}
    assert found["banned"].fields == {"until", "times", "source"}


def test_events_that_pages_name_are_in_the_code() -> None:
    """Where a page says `Events: ...` or `event ...`, there is such an event."""
    known = set(events()) | OF_REQUESTS
    wrong = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"\b[Ee]vents? `([a-z_]+)`", text)
        for paragraph in re.findall(r"(?m)^Events:.*?(?=\n\n|\Z)", text, re.DOTALL):
            named += re.findall(r"`([a-z]+(?:_[a-z]+)+)`", paragraph)
        wrong += [f"{page.name}: {name}" for name in named if name not in known]
    assert not wrong, "\n".join(wrong)
