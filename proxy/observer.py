"""What is learned from every answer of the exchange: limits of accounts, bans, pressure, failures."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import structlog

from policies import bybit, lessons
from policies.admission import Charge, WindowKind
from policies.ban import Forbidden, why_forbidden
from policies.bybit import LimitHeaders
from policies.descriptor import Descriptor, Outcome
from policies.orders import is_batch
from policies.pacing import FORGET_US
from policies.published import is_for_refusals_only, refused_without_headers
from policies.retry import Failure, failure_of
from proxy.accounts import Accounts
from proxy.answered import Answered
from proxy.ask import Ask
from proxy.breaker import Breaker, Tried
from proxy.clock import Clock
from proxy.egress import Egress
from proxy.limiter import Permit
from proxy.telemetry import Telemetry

_WARN_EVERY_US: Final = 60_000_000
_LITTLE_LEFT: Final = 5
"""An account has little left when it is less than one part in so many."""
_WARNED: Final = 10_000


class Observer:
    """observe() for each answer; charges() puts into effect for the next request what has been learned."""

    def __init__(
        self,
        *,
        egress: Egress,
        breaker: Breaker,
        accounts: Accounts,
        telemetry: Telemetry,
        clock: Clock,
        learned_whose: Callable[[], None],
        paced: bool,
    ) -> None:
        """`learned_whose`: called when the exchange has said whose an API key is. `paced`: whether limits of accounts
        and endpoints are learned at all."""
        self.paced = paced
        self._egress = egress
        self._breaker = breaker
        self._accounts = accounts
        self._learned_whose = learned_whose
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._clock = clock
        self._refusing: dict[tuple[str, str | None], tuple[int, Charge]] = {}
        """Endpoints, and accounts, that were refused where no limit is known: until when that is remembered."""
        self._joined: dict[tuple[int, str], tuple[tuple[Charge, ...], tuple[Charge, ...]]] = {}
        self._warned_us: dict[tuple[str, ...], int] = {}
        self._log: Any = structlog.get_logger()

    def charges(self, descriptor: Descriptor, charges: tuple[Charge, ...]) -> tuple[Charge, ...]:
        """What a request spends, by the accounts as they are known and with endpoints that are backed off from."""
        charges = self._accounts.charges(charges)
        if not self._refusing:
            return charges
        place = (descriptor.endpoint, descriptor.api_key)
        refusing = self._refusing.get(place)
        if refusing is None:
            return charges
        until_us, charge = refusing
        if self._clock() >= until_us:
            del self._refusing[place]
            return charges
        known = self._joined.get((id(charges), descriptor.endpoint))
        if known is None or known[0] is not charges:  # one object for the same charges: the store knows them by it
            if len(self._joined) > _WARNED:
                self._joined.clear()
            known = self._joined[id(charges), descriptor.endpoint] = (charges, (*charges, charge))
        return known[1]

    async def observe(self, ask: Ask, permit: Permit, answered: Answered, tried: Tried) -> None:
        """The permit ends here. What stops others from sending comes first, and without a suspension."""
        status, code, descriptor = answered.status, answered.ret_code, ask.descriptor
        self._telemetry.observe(Outcome(status, code))
        if status == 403:
            self.forbidden(answered.text)
        batch = is_batch(descriptor.path)
        failure = failure_of(status, code, batch=batch)
        # A 403 that nobody can read may be a ban: enough of them stop what is sent.
        unreadable = status == 403 and not answered.text
        self._breaker.ended(tried, answered.reply.sent_us, failed=failure is Failure.FAILING or unreadable)
        # Paths that are long retired answer 429 for ever: no reason to slow down everybody else.
        protected = failure is Failure.PROTECTED and descriptor.path.startswith(bybit.API_PREFIX)
        if protected and self._egress.cut(answered.reply.sent_us):
            self._metrics.throttled.inc()
        if descriptor.path == bybit.QUERY_API and code == bybit.OK and descriptor.api_key is not None:
            user = bybit.user_id(answered.text)
            if user is not None and self._accounts.learn(descriptor.api_key, user):
                self._learned_whose()
        await self._teach(descriptor, permit, answered, batch=batch)

    def forbidden(self, text: bytes) -> None:
        """A 403 that says this, be it all or only a part."""
        why = why_forbidden(text)
        self._metrics.forbidden.labels(why.value).inc()
        if why is Forbidden.BAN:
            self._egress.strike()

    async def _teach(self, descriptor: Descriptor, permit: Permit, answered: Answered, *, batch: bool) -> None:
        refused = lessons.refused_of(descriptor, answered.ret_code, answered.text, batch=batch)
        learned = [charge for charge in permit.reservation.charges if charge.quota.window is WindowKind.LEARNED]
        headers = answered.reply.headers
        told = bybit.limit_headers(headers) if learned or refused else None
        if refused and self.paced and not learned:
            charge = self._backed_off(descriptor)
            permit.also(charge)
            learned = [charge]
        if not learned:
            await permit.complete()
            return
        stamp_ms = bybit.server_ms(answered.text) or bybit.header_ms(headers)
        lesson = lessons.lesson_of(
            learned[0].quota,
            told,
            stamp_ms=stamp_ms,
            sent_us=answered.reply.sent_us,
            refused=refused,
            chance=random.randrange(1_000_000),  # noqa: S311  # so that not all come back at once
        )
        known_endpoint = not is_for_refusals_only(learned[0].quota)
        if not known_endpoint:  # the limit of one path, or of one account, is not the limit of all
            lesson = lesson._replace(limit=None, remaining=None)
        await permit.complete(lesson)
        if told is not None and known_endpoint:
            self._warn(learned[0], told)

    def _backed_off(self, descriptor: Descriptor) -> Charge:
        """This account on this endpoint goes slower from now on; everybody, where it was no account's request."""
        place = (descriptor.endpoint, descriptor.api_key)
        quota = refused_without_headers(descriptor.endpoint, of_account=descriptor.api_key is not None)
        known = self._refusing.get(place)
        charge = Charge(quota, (quota.name, descriptor.api_key or descriptor.egress), 1) if known is None else known[1]
        if len(self._refusing) >= _WARNED:
            self._refusing.clear()
        self._refusing[place] = (self._clock() + FORGET_US, charge)
        self._metrics.backed_off.labels(descriptor.endpoint).inc()
        return charge

    def _warn(self, charge: Charge, told: LimitHeaders) -> None:
        """An account that has little left, once a minute for each endpoint."""
        if told.remaining is None or told.limit <= 0 or told.remaining * _LITTLE_LEFT >= told.limit:
            return
        now_us = self._clock()
        if self._warned_us.get(charge.key, 0) > now_us:
            return
        if len(self._warned_us) >= _WARNED:
            self._warned_us.clear()
        self._warned_us[charge.key] = now_us + _WARN_EVERY_US
        self._metrics.nearly_used.labels(charge.quota.name).inc()
        self._log.warning(
            "account_nearly_used",
            rule=charge.quota.name,
            account=charge.key[-1][:8],
            limit=told.limit,
            remaining=told.remaining,
            percentage_used=round(100 * (told.limit - told.remaining) / told.limit, 2),
        )
