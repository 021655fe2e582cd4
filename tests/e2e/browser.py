"""A real browser before the status page: what it shows, what it complains of, and whom it asks for anything."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.async_api import ConsoleMessage, Page, async_playwright

CHROMIUM: Final = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing; `make test` installs it")
_PATIENCE_MS: Final = 30_000

_WATCH: Final = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI}`));
window.addEventListener("unhandledrejection", (event) => console.error(`unhandled: ${event.reason}`));
"""


class Screen:
    """One page. `complaints`: of the console; `hosts`: that were asked for anything."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    async def text(self, selector: str) -> str:
        return (await self.page.locator(selector).inner_text()).strip()

    async def reads(self, selector: str, words: str) -> None:
        """Wait until it says so."""
        place = self.page.locator(selector).filter(has_text=words)
        await place.first.wait_for(state="attached", timeout=_PATIENCE_MS)

    async def number(self, selector: str) -> float:
        """The figure that stands there; 0 while there is none."""
        text = (await self.text(selector)).replace(",", "").split()
        try:
            return float(text[0])
        except (ValueError, IndexError):
            return 0.0

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Of what the page shows sooner or later: it is told once a second."""
        async with asyncio.timeout(_PATIENCE_MS / 1000):
            while not await holds():
                await asyncio.sleep(0.05)  # bounded polling of a browser, which sets no Event

    async def wide(self) -> int:
        """How wide the page is, in pixels."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth"))


@asynccontextmanager
async def browser(*, scheme: str = "light", width: int = 1280, **options: Any) -> AsyncIterator[Screen]:
    assert CHROMIUM is not None
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            viewport = {"width": width, "height": 900}
            context = await started.new_context(color_scheme=scheme, viewport=viewport, **options)
            context.set_default_timeout(_PATIENCE_MS)
            await context.add_init_script(_WATCH)
            yield Screen(await context.new_page())
        finally:
            await started.close()
