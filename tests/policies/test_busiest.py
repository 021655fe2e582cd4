"""Who has asked the most lately, in bounded memory."""

from __future__ import annotations

from policies.busiest import EVERYBODY_ELSE, Asker, Busiest


def asks(busiest: Busiest, name: str, times: int) -> None:
    for _ in range(times):
        busiest.find(name)[0] += 1


def test_the_busiest_come_first_and_equals_by_name() -> None:
    busiest = Busiest(slice_us=60, slices=5, names=10)
    for name, times in (("b", 2), ("a", 2), ("c", 5)):
        asks(busiest, name, times)
    busiest.find("a")[1] += 1
    busiest.find("b")[2] += 2

    assert busiest.top(10) == [Asker("c", 5, 0, 0), Asker("a", 2, 1, 0), Asker("b", 2, 0, 2)]


def test_those_without_a_place_of_their_own_are_counted_together() -> None:
    """Nobody's requests are missing in the sum."""
    busiest = Busiest(slice_us=60, slices=5, names=10)
    for name, times in (("a", 4), ("b", 3), ("c", 2), ("d", 1)):
        asks(busiest, name, times)

    assert busiest.top(2) == [Asker("a", 4, 0, 0), Asker("b", 3, 0, 0), Asker(EVERYBODY_ELSE, 3, 0, 0)]


def test_ten_thousand_names_take_no_more_room_than_ten() -> None:
    busiest = Busiest(slice_us=60, slices=5, names=10)
    for number in range(10_000):
        asks(busiest, f"client-{number}", 1)

    top = busiest.top(100)

    assert len(top) == 11
    assert sum(asker.requests for asker in top) == 10_000
    assert top[-1] == Asker(EVERYBODY_ELSE, 9_990, 0, 0)


def test_what_is_old_falls_away_slice_by_slice() -> None:
    busiest = Busiest(slice_us=60, slices=3, names=10)
    busiest.turn(1_000)
    asks(busiest, "a", 1)
    busiest.turn(1_059)
    asks(busiest, "a", 1)
    busiest.turn(1_060)
    asks(busiest, "a", 1)
    assert busiest.top(1) == [Asker("a", 3, 0, 0)]
    assert busiest.span_us == 180

    busiest.turn(1_179)
    assert busiest.top(1) == [Asker("a", 3, 0, 0)]
    busiest.turn(1_180)
    assert busiest.top(1) == [Asker("a", 1, 0, 0)]
    busiest.turn(10**9)
    assert busiest.top(1) == []
