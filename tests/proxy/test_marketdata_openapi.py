"""The description of the convenience API: valid, complete, and true of every answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import checks

from policies import candle_formats, candles
from policies import market_questions as questions
from tests.fake_bybit import FakeBybit, Settings
from tests.gateway_fixture import DEEP, gateway, url
from tests.market import KLINES, ask

DESCRIPTION: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "proxy" / "marketdata" / "openapi.json").read_text()
)
SYMBOLS = ["BTCUSDT", "ethusdt", "GAPUSDT", "NEWUSDT", "OLDUSDT", "BTCUSD", "BTC-25DEC26-60000-C", "NOPE"]
PAIRS = [("eth", "usdt"), ("ALT100", "USDT"), ("btc", "usd"), ("btc", "USDC")]
KNOWN = st.lists(st.sampled_from(SYMBOLS), max_size=3)
EXAMPLES = 300 if DEEP else 25


def schema_of(name: str) -> Draft202012Validator:
    """Of an answer, with the parts it refers to."""
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": DESCRIPTION["components"]})


def parameters(path: str) -> dict[str, Any]:
    """Schemas by name, references resolved."""
    found = {}
    for each in DESCRIPTION["paths"][path]["get"]["parameters"]:
        stated = DESCRIPTION["components"]["parameters"][each["$ref"].rpartition("/")[2]] if "$ref" in each else each
        found[stated["name"]] = stated["schema"]
    return found


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(DESCRIPTION).validate()


def test_it_names_what_is_understood() -> None:
    one, many = parameters(f"{KLINES}/{{symbol}}"), parameters(KLINES)
    for stated in (one, many):
        assert set(stated["interval"]["enum"]) == candles.INTERVALS
        assert set(stated["kind"]["enum"]) == set(questions.KINDS)
        assert set(stated["category"]["enum"]) == {each for group in questions.KINDS.values() for each in group}
        assert set(stated["order"]["enum"]) == {each.value for each in questions.Order}
        assert stated["limit"]["default"] == questions.DEFAULT_ROWS
    assert set(one["format"]["enum"]) == {each.value for each in candle_formats.Format}
    assert one["limit"]["maximum"] == questions.MOST_ROWS
    assert many["limit"]["maximum"] == questions.page_rows("linear")
    assert many["symbols"]["maxItems"] == questions.MOST_SYMBOLS
    price = parameters("/api/v1/prices/{base}-{quote}")
    assert tuple(price["category"]["enum"]) == questions.PRICE_CATEGORIES


async def test_it_is_served() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await ask(app, "/api/v1/openapi.json")
        assert json.loads(answer.body) == DESCRIPTION
        assert answer.get("Content-Type") == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (f"{KLINES}/BTCUSDT?interval=1&limit=5", "Candles"),
        (f"{KLINES}/BTCUSDT?interval=D&start=1780000000000", "Candles"),
        (f"{KLINES}/BTCUSDT?interval=D&limit=3&kind=premium-index-price-kline", "Candles"),
        (f"{KLINES}?symbols=BTCUSDT,NOPE&interval=1", "CandlesOfMany"),
        ("/api/v1/prices/eth-usdt", "Price"),
        (f"{KLINES}/NOPE?interval=1", "Error"),
        (f"{KLINES}/BTCUSDT", "Error"),
    ],
)
async def test_answers_are_as_it_says(target: str, name: str) -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await ask(app, target)
        schema_of(name).validate(json.loads(answer.body))
        others = {"Candles", "CandlesOfMany", "Price", "Error"} - {name}
        assert not any(schema_of(other).is_valid(json.loads(answer.body)) for other in others)


async def test_lines_are_as_it_says() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app:
        answer = await ask(app, f"{KLINES}?symbols=BTCUSDT,NOPE&interval=1&format=ndjson")
        for line in answer.body.splitlines():
            schema_of("LineOfMany").validate(json.loads(line))
        answer = await ask(app, f"{KLINES}/BTCUSDT?interval=1&format=ndjson")
        for line in answer.body.splitlines():
            schema_of("Candle").validate(json.loads(line))


async def test_the_examples_are_as_it_says() -> None:
    for path in DESCRIPTION["paths"].values():
        for kind, content in path["get"]["responses"]["200"]["content"].items():
            if kind == "application/json" and "example" in content:
                whole = {**content["schema"], "components": DESCRIPTION["components"]}
                Draft202012Validator(whole).validate(content["example"])


async def test_whatever_is_asked_is_answered_as_it_says() -> None:
    """Questions that fit the description and questions that do not: no 5xx, and no status, type, header or body that
    it does not name."""
    async with (
        FakeBybit(settings=Settings(ip_limit=10**9)) as exchange,
        gateway(exchange.url, limits=[]) as app,
    ):
        now_ms = app.clock() // 1000
        await asyncio.to_thread(_fuzz, url(app), now_ms)
        assert exchange.stats.requests > 0
        assert app.metrics.errors.labels("internal-error")._value.get() == 0


def _fuzz(base: str, now_ms: int) -> None:
    schema = schemathesis.openapi.from_dict(DESCRIPTION)
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    for result in schema.get_all_operations():
        operation = result.ok()
        # What takes no parameters cannot be asked wrongly.
        for mode in modes if "parameters" in operation.definition.raw else modes[:1]:

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=not DEEP,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=mode), KNOWN)
            def asked(case: Any, known: list[str]) -> None:
                if known:
                    _name_known(case, known)
                _shorten(case, now_ms)
                case.call_and_validate(
                    base_url=base,
                    checks=[
                        checks.not_a_server_error,
                        checks.status_code_conformance,
                        checks.content_type_conformance,
                        checks.response_headers_conformance,
                        checks.response_schema_conformance,
                        *([] if known else [checks.negative_data_rejection]),
                    ],
                )

            asked()


def _name_known(case: Any, symbols: list[str]) -> None:
    """By themselves the names are never such as exist."""
    if "symbol" in case.path_parameters:
        case.path_parameters["symbol"] = symbols[0]
    if "base" in case.path_parameters:
        base, quote = PAIRS[SYMBOLS.index(symbols[0]) % len(PAIRS)]
        case.path_parameters.update(base=base, quote=quote)
    if case.query and "symbols" in case.query:
        case.query["symbols"] = ",".join(symbols)


def _shorten(case: Any, now_ms: int) -> None:
    """A few thousand candles are enough for a test."""
    start = case.query.get("start") if case.query else None
    if isinstance(start, int) and not isinstance(start, bool) and 0 <= start < now_ms:
        interval = case.query.get("interval")
        length_ms = candles.FIXED_MS.get(interval, 0) if isinstance(interval, str) else 0
        case.query["start"] = max(start, now_ms - 2500 * length_ms) if length_ms else start
