"""The status page in a real browser: it lives, says what is wrong, works for everybody, and lets no attack in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from playwright.async_api import Route

from policies.trading import TradingMode
from proxy.app import App
from proxy.egress import Trading
from tests.conversation import INFO, TICKERS, TIME, Client, new_session
from tests.e2e.browser import Screen, browser, needs_chromium
from tests.e2e.looks import CONTRAST, FAULTS
from tests.fake_bybit import FakeBybit
from tests.gateway_fixture import gateway, url
from tests.integration.test_process import free_port

pytestmark = needs_chromium

PAGE = "/gateway/"
CANDLES = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=1&limit=3"
HOSTILE = "<img src=x onerror=alert(1)>"
JWT_SECRET = "a-secret-for-tokens-of-this-test-only"


@asynccontextmanager
async def watched(app: App, **options: Any) -> AsyncIterator[Screen]:
    """The page of a gateway. At the end nobody has complained, and nobody else was asked for anything."""
    async with browser(**options) as screen:
        await screen.page.goto(url(app, PAGE))
        yield screen
        assert screen.complaints == []
        assert screen.hosts <= {f"127.0.0.1:{app.port}", ""}


async def ban(exchange: FakeBybit, client: Client) -> None:
    exchange.books.ip.ban("127.0.0.1", exchange.exchange.now_us(), 600_000_000)
    assert (await client.get(INFO)).status == 403


async def test_the_numbers_move_under_traffic() -> None:
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        client = Client(session, app)
        async with watched(app) as screen:
            await screen.reads("#state-word", "In order")
            assert await screen.number("#budget-used") == 0
            await screen.reads("#callers", "Nobody has asked")

            async def used() -> bool:
                await asyncio.gather(client.get(TIME), client.get(CANDLES), client.get_signed())
                shown = [await screen.number(f"#{name}") for name in ("budget-used", "traffic-in", "traffic-out")]
                return all(shown) and await screen.text("#cache-ratio") != "–"

            await screen.until(used)
            await screen.reads("#budget-of", "of 600 in 5 s")
            await screen.reads("#callers", "127.0.0.1")
            await screen.reads("#callers", "account ")
            await screen.reads("#accounts", "account-info")
            await screen.reads("#rules", "bybit-ip")
            await screen.reads("#clients", "per-ip")
            await screen.reads("#latency", "ms")
            await screen.reads("#exchange-facts", "closed")
            line = screen.page.locator("#budget-plot path.line.first")
            await screen.until(lambda: _drawn(line))
            await screen.reads("#budget-plot title", "in the last ten minutes")


async def _drawn(line: Any) -> bool:
    return "L" in (await line.get_attribute("d") or "")


async def test_a_ban_shows_counts_down_and_is_said_to_be_over() -> None:
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url) as app,
        new_session() as session,
        watched(app, scheme="dark") as screen,
    ):
        await screen.reads("#state-word", "In order")
        await ban(exchange, Client(session, app))

        await screen.reads("#state-word", "Banned")
        await screen.reads("#notices", "The exchange has banned this address")
        await screen.reads("#spoken", "The exchange has banned this address")
        await screen.reads("#ban-state", "min")
        first = await screen.text("#ban-state")
        await screen.until(lambda: _other(screen, "#ban-state", first))
        assert _seconds(await screen.text("#ban-state")) < _seconds(first) <= 600
        spoken = await screen.page.locator("#spoken p").count()
        assert spoken == 1, "the countdown is not read out"
        await screen.reads("#about", "no: banned")
        assert await screen.page.title() == "Banned · Bybit gateway"

        app.egress.lift()
        await screen.reads("#ban-state", "No ban")
        await screen.reads("#spoken", "This is over: The exchange has banned this address.")
        await screen.reads("#notices", "of the budget is used at present")


async def _other(screen: Screen, selector: str, text: str) -> bool:
    return await screen.text(selector) != text


def _seconds(text: str) -> int:
    words = text.split()
    return sum(int(count) * {"min": 60, "s": 1}[unit] for count, unit in zip(words[::2], words[1::2], strict=True))


async def test_who_waits_and_what_is_degraded_is_said_in_words() -> None:
    limits = [{"name": "bybit-ip", "quota": "3/30s", "when_full": "wait"}]
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, limits=limits, queue__max_wait="90s") as app,
        new_session() as session,
        watched(app) as screen,
    ):
        client = Client(session, app)
        async with asyncio.TaskGroup() as group:
            # Nobody keeps the answers, so each goes to the exchange.
            crowd = [group.create_task(client.get(TIME)) for _ in range(9)]
            row = screen.page.locator("#queue tbody tr", has_text="Live data").locator("td").first
            await row.filter(has_text="6").wait_for()
            await screen.reads("#rules", "3 of 3 in 30 s")
            app.egress.hear_trading(Trading(TradingMode.HALT_NEW, app.clock()))
            await screen.reads("#notices", "Trading is halted by the switch")
            await screen.reads("#about", "halt-new")
            for task in crowd:
                task.cancel()
        await row.filter(has_text="0").wait_for()


async def test_it_comes_back_by_itself_after_the_gateway_was_restarted() -> None:
    """Meanwhile it says that it has lost it, of when the figures are, and when it tries again."""
    port = free_port()
    async with FakeBybit() as exchange, browser() as screen:
        async with gateway(exchange.url, listen__port=str(port)) as app:
            await screen.page.goto(url(app, PAGE))
            await screen.reads("#state-word", "In order")
        await screen.reads("#state-word", "Connection lost")
        await screen.reads("#link", "The figures are of ")
        await screen.reads("#link", "Trying again")
        await screen.reads("#spoken", "The connection to the gateway is lost")
        assert await screen.page.locator("#again").is_visible()
        async with gateway(exchange.url, listen__port=str(port)):
            await screen.reads("#state-word", "In order")
            await screen.reads("#spoken", "The connection is back.")
            assert not await screen.page.locator("#again").is_visible()

    assert [text for text in screen.complaints if "ERR_CONNECTION_REFUSED" not in text] == []


async def test_try_now_does_not_wait_for_the_pause() -> None:
    """The page's own clock stands still, so that nothing but the button can try again."""
    port = free_port()
    async with FakeBybit() as exchange, browser() as screen:
        await screen.page.clock.install()
        async with gateway(exchange.url, listen__port=str(port)) as app:
            await screen.page.goto(url(app, PAGE))
            await screen.reads("#state-word", "In order")
            await screen.page.clock.pause_at(await screen.page.evaluate("Date.now() + 5_000"))
        await screen.reads("#state-word", "Connection lost")
        async with gateway(exchange.url, listen__port=str(port)):
            assert await screen.text("#state-word") == "Connection lost"
            await screen.page.locator("#again").click()
            await screen.reads("#state-word", "In order")


async def test_where_a_token_is_set_the_page_asks_for_it_once() -> None:
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, admin__token="the-admins-own-token") as app,
        browser() as screen,
    ):
        await screen.page.goto(url(app, PAGE))
        field = screen.page.get_by_label("Admin token")
        await field.wait_for()
        assert not await screen.page.locator("#figures").is_visible()
        await field.fill("a-wrong-one")
        await field.press("Enter")
        await screen.reads("#token-error", "does not know this token")
        assert await field.input_value() == ""
        await field.fill("the-admins-own-token")
        await field.press("Enter")
        await screen.reads("#state-word", "In order")
        assert not await field.is_visible()
        await screen.page.reload()
        await screen.reads("#state-word", "In order")
        assert await screen.page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        assert "token" not in screen.page.url

    assert [text for text in screen.complaints if "401" not in text] == []


async def test_names_are_shown_as_they_are_written() -> None:
    """A client may call himself what he likes: it is text here."""
    identity = json.dumps({"jwt": {"algorithms": "HS256", "secret": JWT_SECRET}})
    async with FakeBybit() as exchange, gateway(exchange.url, identity=identity) as app, new_session() as session:
        token = jwt.encode({"sub": HOSTILE, "exp": 4_000_000_000}, JWT_SECRET, "HS256")
        assert (await Client(session, app).get(TIME, Authorization=f"Bearer {token}")).status == 200
        async with watched(app) as screen:
            await screen.reads("#callers", f"jwt:{HOSTILE}")
            assert await screen.page.locator("img").count() == 0


async def test_whatever_a_snapshot_says_is_text() -> None:
    """Every text in it at once, and every list longer than the page is wide."""
    async with FakeBybit() as exchange, gateway(exchange.url) as app, new_session() as session:
        await Client(session, app).get_signed()
        told = (await Client(session, app).get("/gateway/status")).json
        told["blocks"] = [{"rule": "r", "whose": "w", "left_ms": 90_000}]
        told["notices"] = [{"id": "i", "level": "bad", "text": "t"}]
        told["ban"] |= {"banned": True, "until_ms": told["now_ms"], "since_ms": told["now_ms"], "times": 2}
        event = f"id: 1\nevent: snapshot\ndata: {json.dumps(_hostile(told))}\n\n"

        async def answered(route: Route) -> None:
            await route.fulfill(status=200, content_type="text/event-stream", body=event)

        async with watched(app, width=320) as screen:
            await screen.page.route("**/gateway/events", answered)
            await screen.page.reload()
            for place in ("#notices", "#blocks", "#callers", "#rules", "#accounts", "#clients", "#about", "#queue"):
                await screen.reads(place, HOSTILE)
            assert await screen.page.locator("img, script:not([src])").count() == 0
            assert await screen.wide() == 320


def _hostile(value: Any) -> Any:
    match value:
        case str():
            return HOSTILE * 4
        case dict():
            return {name: _hostile(inner) for name, inner in value.items()}
        case list():
            return [_hostile(inner) for inner in value]
    return value


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_it(scheme: str) -> None:
    """In order and banned: texts stand out, everything has a name, every plot has its words."""
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url) as app,
        new_session() as session,
        watched(app, scheme=scheme, reduced_motion="reduce") as screen,
    ):
        client = Client(session, app)
        await client.get_signed()
        app.egress.hear_trading(Trading(TradingMode.HALT_NEW, app.clock()))
        await screen.reads("#callers", "account ")
        await screen.reads("#notices", "Trading")
        for state in ("With care", "Banned"):
            looked, poor = await screen.page.evaluate(CONTRAST)
            assert looked > 60, state
            assert poor == [], state
            assert await screen.page.evaluate(FAULTS) == [], state
            if state != "Banned":
                await ban(exchange, client)
                await screen.reads("#state-word", "Banned")
        moving = "[...document.querySelectorAll('.fill')].map((each) => getComputedStyle(each).transitionDuration)"
        assert set(await screen.page.evaluate(moving)) == {"0s"}


async def test_the_token_form_can_be_read_too() -> None:
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url, admin__token="the-admins-own-token") as app,
        browser(scheme="dark", width=320) as screen,
    ):
        await screen.page.goto(url(app, PAGE))
        await screen.page.get_by_label("Admin token").fill("a-wrong-one")
        await screen.page.get_by_role("button", name="Show the status").click()
        await screen.reads("#token-error", "does not know this token")
        assert (await screen.page.evaluate(CONTRAST))[1] == []
        assert await screen.page.evaluate(FAULTS) == []
        assert await screen.wide() == 320


async def test_a_phone_shows_all_of_it() -> None:
    async with (
        FakeBybit() as exchange,
        gateway(exchange.url) as app,
        new_session() as session,
        watched(app, width=320) as screen,
    ):
        client = Client(session, app)
        for target in (TIME, TICKERS):
            await client.get(target)
        await client.get_signed()
        await ban(exchange, client)
        await screen.reads("#state-word", "Banned")
        await screen.reads("#callers", "account ")
        assert await screen.wide() == 320
        cut = "[...document.querySelectorAll('.card')].filter((each) => each.scrollWidth > each.clientWidth).length"
        assert await screen.page.evaluate(cut) == 0


async def test_a_keyboard_is_enough() -> None:
    """Every control can be reached, seen to be reached, and used; after the last one comes the browser again."""
    focused = """() => {
      const style = getComputedStyle(document.activeElement);
      return [document.activeElement.id || document.activeElement.className || document.activeElement.tagName,
              style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
    }"""
    async with FakeBybit() as exchange, gateway(exchange.url) as app, watched(app) as screen:
        await screen.reads("#state-word", "In order")
        walked = []
        for _ in range(3):
            await screen.page.keyboard.press("Tab")
            walked.append(await screen.page.evaluate(focused))
        assert walked[:2] == [["skip", True], ["theme", True]]
        assert walked[2][0] in {"BODY", "skip"}

        await screen.page.locator(".skip").focus()
        await screen.page.keyboard.press("Enter")
        assert (await screen.page.evaluate(focused))[0] == "main"


async def test_the_theme_is_the_systems_until_somebody_chooses() -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    async with FakeBybit() as exchange, gateway(exchange.url) as app, watched(app, scheme="light") as screen:
        await screen.reads("#state-word", "In order")
        light = await screen.page.evaluate(ground)
        await screen.page.emulate_media(color_scheme="dark")
        dark = await screen.page.evaluate(ground)
        assert light != dark
        await screen.page.emulate_media(color_scheme="light")
        button = screen.page.get_by_role("button", name="Theme: as the system")
        await button.focus()
        await screen.page.keyboard.press("Enter")
        assert await screen.page.evaluate(ground) == dark
        await screen.page.reload()
        await screen.page.get_by_role("button", name="Theme: dark").wait_for()
        assert await screen.page.evaluate(ground) == dark
