"""What became of requests, in metrics: their time, their errors, their bytes."""

from __future__ import annotations

import pytest

from proxy.lately import Lately
from proxy.metrics import Metrics
from proxy.metrics.page import as_markdown
from proxy.telemetry import Story, Telemetry
from tests.hand_clock import HandClock


def told(
    *, source: str = "exchange", status: int = 200, outcome: str = "", ret_code: int | None = 0, took_us: int = 7_000
) -> Metrics:
    clock = HandClock()
    telemetry = Telemetry(Metrics(), clock)
    story = Story("1", "GET", clock())
    story.endpoint, story.source, story.status, story.outcome, story.ret_code = (
        "kline", source, status, outcome, ret_code,
    )  # fmt: skip
    story.body_bytes, story.asked_bytes = 100, 30
    clock.now_us += took_us
    telemetry.tell(story)
    return telemetry.metrics


@pytest.mark.parametrize(
    ("source", "status", "outcome", "ret_code", "kind"),
    [
        ("exchange", 200, "", 0, None),
        ("exchange", 200, "", None, None),
        ("exchange", 200, "", 10001, "refused"),
        ("exchange", 404, "", None, "http-4xx"),
        ("exchange", 500, "", None, "http-5xx"),
        ("exchange", 200, "upstream-truncated", None, "upstream-truncated"),
        ("gateway", 429, "limit-full", None, "limit-full"),
        ("gateway", 504, "upstream-timeout", None, "upstream-timeout"),
        ("gateway", 0, "client-gone", None, None),
        ("cache", 200, "", None, None),
    ],
)
def test_each_way_not_to_end_well_has_its_word(
    source: str, status: int, outcome: str, ret_code: int | None, kind: str | None
) -> None:
    metrics = told(source=source, status=status, outcome=outcome, ret_code=ret_code)

    assert dict(metrics.error_rate.counts) == ({} if kind is None else {(kind, "kline"): 1})


def test_bytes_and_time_are_counted_where_they_belong() -> None:
    metrics = told(took_us=7_000)

    assert dict(metrics.bytes.counts) == {("in",): 30, ("out",): 100}
    assert metrics.response.counts()[("kline",)][metrics.response.bounds_us.index(10_000)] == 1


def test_a_quantile_forgets_what_is_older_than_five_minutes() -> None:
    clock, metrics = HandClock(), Metrics()
    lately = Lately(metrics.response, clock)
    lately.note()
    for _ in range(100):
        metrics.response.observe(("kline",), 9_000_000)
    slow = lately.quantiles_us(95)[("kline",)]
    for _ in range(40):
        clock.now_us += 10_000_000
        lately.note()
    for _ in range(10):
        metrics.response.observe(("kline",), 600)
    fast = lately.quantiles_us(95)[("kline",)]

    assert 5_000_000 < slow <= 10_000_000
    assert 500 < fast <= 1_000
    clock.now_us += 400_000_000
    lately.note()
    clock.now_us += 400_000_000
    lately.note()
    assert lately.quantiles_us(95) == {}


def test_every_metric_says_what_it_means() -> None:
    rows = [line for line in as_markdown().splitlines() if line.startswith("| `")]

    assert len(rows) > 70
    for row in rows:
        name, kind, _, meaning, merged = [cell.strip() for cell in row.strip("|").split("|")]
        assert kind in {"counter", "gauge", "histogram"}, row
        assert len(meaning) > 10, row
        assert meaning.split(" Buckets")[0].endswith("."), row
        assert merged in {"sum", "largest", "smallest"}, row
        assert name.strip("`").replace("_", "").isalnum(), row


def test_sums_that_fail_cost_no_answer_and_no_event() -> None:
    """What the exchange has answered to an order is worth more than our figures of it."""
    clock = HandClock()
    telemetry = Telemetry(Metrics(), clock)
    told: list[str] = []

    def fails(_: Story) -> None:
        raise KeyError("anything")

    telemetry.listeners.append(fails)
    telemetry.requests.tell = lambda story: told.append(story.request_id)
    telemetry.tell(Story("1", "POST", clock()))

    assert told == ["1"]
