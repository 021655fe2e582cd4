"""Three opinions on one limit: what the operator's rules say, what the exchange publishes, what it really allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from policies import published
from policies.admission import Quota
from policies.descriptor import Descriptor
from policies.pacing import Learned
from policies.quantities import Rate, duration_text
from policies.routing import Route, RouteTable


class Opinions(NamedTuple):
    """On the limit of an account on an endpoint and business line. None where nothing is said."""

    endpoint: str
    line: str
    stated: Rate | None
    """The tightest of the operator's own rules that an account meets there."""
    published: Rate | None
    learned: Rate

    @property
    def ratio(self) -> float | None:
        """Of the learned limit to the published one."""
        return None if self.published is None else float(_per_us(self.learned) / _per_us(self.published))

    @property
    def drifts(self) -> bool:
        """The exchange allows something else than is published, or less than the operator's rule."""
        if self.published is not None and _per_us(self.published) != _per_us(self.learned):
            return True
        return self.stated is not None and _per_us(self.stated) > _per_us(self.learned)


def opinions(learned: Iterable[tuple[Quota, Learned]], rules: Sequence[Quota], routes: RouteTable) -> list[Opinions]:
    """Of each learned rule that the exchange has told of; of several accounts, the one that is allowed the least."""
    least: dict[str, tuple[Quota, int]] = {}
    for quota, known in learned:
        if known.told and (quota.name not in least or known.limit < least[quota.name][1]):
            least[quota.name] = quota, known.limit
    by_name = {route.endpoint: route for route in routes.routes}
    found = []
    for name, (quota, limit) in sorted(least.items()):
        endpoint, line = published.place_of(name)
        route = by_name.get(endpoint)
        if route is not None:
            figure = dict(route.limits).get(line)
            found.append(Opinions(endpoint, line, _stated(rules, route), figure, Rate(limit, quota.window_us)))
    return found


def as_yaml(found: Iterable[Opinions]) -> str:
    """What an operator can paste so that the gateway begins with what it has learned. No ceiling: a limit may rise."""
    rows = [
        f"    - {{endpoint: {each.endpoint}, {f'category: {each.line}, ' if each.line else ''}"
        f"start: {each.learned.limit}}}"
        f"  # in {duration_text(each.learned.window_us)}"
        for each in found
        if each.drifts
    ]
    return "\n".join(["pacing:", "  accounts:", *rows, ""]) if rows else ""


def _stated(rules: Sequence[Quota], route: Route) -> Rate | None:
    request = Descriptor(route.method, route.path, "", route.endpoint, "", "", api_key="any", signed=True)
    met = [rule for rule in rules if "api_key" in rule.partition and not rule.shadow and rule.match.accepts(request)]
    if not met:
        return None
    tightest = min(met, key=lambda rule: Fraction(rule.limit, rule.window_us))
    return Rate(tightest.limit, tightest.window_us)


def _per_us(rate: Rate) -> Fraction:
    return Fraction(rate.limit, rate.window_us)
