"""From a request to what the policies may know of it: target, endpoint, client, account, urgency, deadline."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from multidict import MultiMapping

from policies import answer_rules, bybit, caching, target
from policies.admission import Rulebook
from policies.answer_rules import AnswerQuery, AnswerRule
from policies.caching import CandleQuery
from policies.descriptor import Descriptor
from policies.priority import Priority, priority_of
from policies.routing import OWN, STREAMS, Access, Route, RouteTable
from proxy.identity import Identifier, Identity, Rejected
from proxy.limiter import Claim

_MEMORABLE_TARGET: Final = 512
_MEMORY: Final = 8192
_NO_RULES: Final = Rulebook(())
_OWN: Final = {name: Route(name, "gateway", Access.PUBLIC, "GET", "") for name in OWN | STREAMS}


class Asked(NamedTuple):
    """A request understood. Everything but the body."""

    refusal: str | Rejected | None
    """Why it cannot be forwarded, in words for the client; Rejected when that is because of who asks."""
    descriptor: Descriptor
    route: Route
    kept: CandleQuery | AnswerQuery | None
    """How the cache understands it; None when it passes by the cache."""
    key: str
    claim: Claim
    """What it spends by being asked, whether the exchange hears of it or not."""
    behind_proxy: bool
    bearer: bool = False
    """Its Authorization header spoke to us and ends here."""


class Describer:
    """Bots ask the same again and again: what an unsigned request means is remembered by its target and client."""

    def __init__(
        self,
        routes: RouteTable,
        identifier: Identifier,
        client_rules: Rulebook,
        egress: str,
        excluded_paths: tuple[str, ...] = (),
        kept_by_rule: Mapping[str, AnswerRule] = MappingProxyType({}),
    ) -> None:
        self._routes = routes
        self._identifier = identifier
        self._client_rules = client_rules
        self._egress = egress
        self._excluded = frozenset(excluded_paths)
        self._kept_by_rule = kept_by_rule
        self._remembered = lru_cache(maxsize=_MEMORY)(self._unsigned)

    def describe(self, method: str, raw_target: str, peer: str | None, headers: MultiMapping[str]) -> Asked:
        """`peer` is the address of the connection; headers must compare names without regard to case."""
        who = self._identifier.who(peer, headers)
        if isinstance(who, Rejected):
            return self._rejected(method, raw_target, who)
        if who.signed:
            return self._describe(method, raw_target, who, bybit.deadline_us(headers))
        if len(raw_target) > _MEMORABLE_TARGET:
            return self._unsigned(method, raw_target, who)
        return self._remembered(method, raw_target, who)

    def describe_own(
        self, endpoint: str, method: str, raw_target: str, peer: str | None, headers: MultiMapping[str]
    ) -> Asked:
        """A request that is answered here, from what is public: it spends what its client may ask, and goes no
        further."""
        who = self._identifier.who(peer, headers)
        if isinstance(who, Rejected):
            asked = self._rejected(method, raw_target, who)
            return asked._replace(descriptor=asked.descriptor._replace(endpoint=endpoint))
        path, query = target.split(raw_target)
        descriptor = Descriptor(
            method=method,
            path=path,
            query=query,
            endpoint=endpoint,
            egress=self._egress,
            ip=who.ip,
            api_key=who.api_key,
            client=who.client,
            tier=who.tier,
            signed=who.signed,
            priority=Priority.LIVE,
        )
        claim = claim_of(descriptor, _NO_RULES if path in self._excluded else self._client_rules)
        return Asked(None, descriptor, _OWN[endpoint], None, "", claim, who.behind_proxy, who.bearer)

    def _unsigned(self, method: str, raw_target: str, who: Identity) -> Asked:
        return self._describe(method, raw_target, who, None)

    def _describe(self, method: str, raw_target: str, who: Identity, deadline_us: int | None) -> Asked:
        refusal = target.refusal(method, raw_target)
        path, query = target.split(raw_target)
        route = self._routes.unknown if refusal else self._routes.match(method, path)
        # A target that begins with // is forwarded so, and may be answered otherwise.
        cacheable = not who.signed and not raw_target.startswith("//")
        kept = self._kept(route, method, query) if cacheable else None
        descriptor = Descriptor(
            method=method,
            path=path,
            query=query,
            endpoint=route.endpoint,
            egress=self._egress,
            ip=who.ip,
            api_key=who.api_key,
            client=who.client,
            tier=who.tier,
            signed=who.signed,
            priority=priority_of(route, method, path, query, signed=who.signed),
            deadline_us=deadline_us,
            line=bybit.line_of_query(query) if route.by_line else "",
        )
        key = "" if kept is None else kept.key()
        claim = claim_of(descriptor, _NO_RULES if path in self._excluded else self._client_rules)
        return Asked(refusal, descriptor, route, kept, key, claim, who.behind_proxy, who.bearer)

    def keeps(self, route: Route) -> bool:
        """Whether answers of this endpoint are kept, where a request allows it."""
        return route.candles or route.endpoint in self._kept_by_rule

    def _kept(self, route: Route, method: str, query: str) -> CandleQuery | AnswerQuery | None:
        if route.candles:
            return caching.understand(route, method, query)
        return answer_rules.understand(route, method, query, self._kept_by_rule)

    def _rejected(self, method: str, raw_target: str, who: Rejected) -> Asked:
        """Enough of it for the log: nothing is spent, nothing forwarded."""
        path, query = target.split(raw_target)
        route = self._routes.match(method, path)
        descriptor = Descriptor(method, path, query, route.endpoint, self._egress, who.ip)
        return Asked(who, descriptor, route, None, "", Claim(()), behind_proxy=False)


def claim_of(descriptor: Descriptor, rules: Rulebook) -> Claim:
    """What a request asks of the limiter. Who has an account is told apart by it, everybody else by his address."""
    client = descriptor.client or descriptor.api_key or descriptor.ip
    return Claim(rules.charges(descriptor), descriptor.priority, client, descriptor.deadline_us)
