"""Which order requests must wait for which."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.orders import Entry, Kind, Operation, OrderLanes, concerns, cost_of, must_wait, operations


def op(kind: str, symbol: str | None = "BTCUSDT", *, link: str | None = None, oid: str | None = None) -> Operation:
    return Operation(Kind(kind), "linear", symbol, oid, link)


@pytest.mark.parametrize(
    ("earlier", "later", "waits"),
    [
        (op("create", link="a"), op("cancel", link="a"), True),
        (op("create", link="a"), op("amend", link="a"), True),
        (op("create", link="a"), op("cancel", link="b"), False),
        (op("create", link="a"), op("create", link="b"), False),
        (op("create", link="a"), op("create", link="a"), True),
        (op("create"), op("create"), False),
        (op("create"), op("cancel", oid="1"), False),  # its id is known, so its create is answered
        (op("create"), op("cancel"), True),  # names nothing: may be anything
        (op("create", "ETHUSDT", link="a"), op("cancel", "BTCUSDT", link="a"), False),
        (op("amend", oid="1"), op("cancel", oid="1"), True),
        (op("amend", oid="1"), op("cancel", oid="2"), False),
        (op("amend", link="a"), op("cancel", oid="1"), True),  # may be one order by two names
        (op("cancel", link="a"), op("create", link="a"), True),  # an id used again
        (op("cancel", link="a"), op("create", link="b"), False),
        (op("create", link="a"), op("cancel-all"), True),
        (op("cancel-all"), op("create", link="a"), True),
        (op("cancel-all"), op("cancel-all"), True),
        (op("create", "ETHUSDT"), op("cancel-all", "BTCUSDT"), False),
        (op("create", "ETHUSDT"), op("cancel-all", None), True),
        (op("cancel-all", None), op("create", "ETHUSDT"), True),
        (op("create")._replace(category="spot"), op("cancel-all", None), False),
    ],
)
def test_who_waits_for_whom(earlier: Operation, later: Operation, *, waits: bool) -> None:
    assert must_wait(later, earlier) is waits


def test_bodies_are_read_for_what_they_do() -> None:
    single = {"category": "linear", "symbol": "BTCUSDT", "orderLinkId": "a", "qty": "1"}
    batch = {"category": "spot", "request": [{"symbol": "A", "orderLinkId": "1"}, {"symbol": "B", "orderId": "2"}]}

    assert operations("/v5/order/create", single) == (Operation(Kind.CREATE, "linear", "BTCUSDT", None, "a"),)
    assert operations("/v5/order/cancel-batch", batch) == (
        Operation(Kind.CANCEL, "spot", "A", None, "1"),
        Operation(Kind.CANCEL, "spot", "B", "2", None),
    )
    assert operations("/v5/order/cancel-all", {"category": "linear", "settleCoin": "USDT"}) == (
        Operation(Kind.CANCEL_ALL, "linear", None, None, None),
    )
    assert operations("/v5/account/info", single) == ()
    assert concerns("/v5/order/amend-batch")
    assert not concerns("/v5/order/realtime")


@pytest.mark.parametrize(
    "body", [{}, {"request": 5}, {"request": [1, None, "x"]}, {"symbol": 5, "category": []}, {"request": {}}]
)
@pytest.mark.parametrize("path", ["/v5/order/create", "/v5/order/create-batch", "/v5/order/cancel-all"])
def test_bodies_that_make_no_sense_are_the_exchanges_to_refuse(path: str, body: dict[str, object]) -> None:
    operations(path, body)
    assert cost_of(path, body) >= 1


@pytest.mark.parametrize(
    ("path", "category", "items", "cost"),
    [
        ("/v5/order/create-batch", "linear", 10, 10),
        ("/v5/order/cancel-batch", "spot", 3, 3),
        ("/v5/order/create-batch", "option", 10, 1),
        ("/v5/order/create-batch", "linear", 0, 1),
        ("/v5/order/create", "linear", 10, 1),
    ],
)
def test_a_batch_costs_as_much_as_it_has_orders(path: str, category: str, items: int, cost: int) -> None:
    assert cost_of(path, {"category": category, "request": [{}] * items}) == cost


def test_a_barrier_lets_nobody_past_on_either_side() -> None:
    lanes = OrderLanes()
    first, second = (lanes.enter("me", [op("create", link=link)]) for link in "ab")
    barrier = lanes.enter("me", [op("cancel-all")])
    third = lanes.enter("me", [op("create", link="c")])
    other = lanes.enter("me", [op("create", "ETHUSDT", link="d")])
    stranger = lanes.enter("you", [op("create", link="e")])

    assert barrier.waits_for == {first, second}
    assert third.waits_for == {barrier}
    assert not other.waits_for
    assert not stranger.waits_for
    assert lanes.leave(first) == []
    assert lanes.leave(second) == [barrier]
    assert lanes.leave(barrier) == [third]
    assert lanes.leave(barrier) == []


def test_who_gives_up_frees_those_behind_him() -> None:
    lanes = OrderLanes()
    create = lanes.enter("me", [op("create", link="a")])
    amend = lanes.enter("me", [op("amend", link="a")])
    cancel = lanes.enter("me", [op("cancel", link="a")])

    assert cancel.waits_for == {create, amend}
    assert lanes.leave(amend) == []
    assert lanes.leave(create) == [cancel]
    lanes.leave(cancel)
    assert len(lanes) == 0


OPERATIONS = st.builds(
    op,
    st.sampled_from(["create", "amend", "cancel", "cancel-all"]),
    st.sampled_from(["BTCUSDT", "ETHUSDT", None]),
    link=st.sampled_from(["a", "b", None]),
    oid=st.sampled_from(["1", "2", None]),
)


@given(batches=st.lists(st.lists(OPERATIONS, min_size=1, max_size=3), max_size=25), seed=st.integers(0, 2**32))
def test_whatever_the_network_does_dependencies_arrive_in_order(batches: list[list[Operation]], seed: int) -> None:
    """Requests in flight are answered in any order; every one goes at last, and none before one it must wait for."""
    dice, lanes = random.Random(seed), OrderLanes()
    entries = [lanes.enter("me", batch) for batch in batches]
    flying = [entry for entry in entries if not entry.waits_for]
    arrived: list[Entry] = []
    while flying:
        entry = flying.pop(dice.randrange(len(flying)))
        arrived.append(entry)
        flying += lanes.leave(entry)

    assert sorted(map(id, arrived)) == sorted(map(id, entries))
    place = {id(entry): number for number, entry in enumerate(arrived)}
    for position, later in enumerate(entries):
        for earlier in entries[:position]:
            if any(must_wait(a, b) for a in later.operations for b in earlier.operations):
                assert place[id(earlier)] < place[id(later)]
    assert len(lanes) == 0
