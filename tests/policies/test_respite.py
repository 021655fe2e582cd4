"""What fails is left alone, longer each time, and not for ever."""

from __future__ import annotations

from policies.respite import Respite


def test_the_pause_doubles_up_to_its_bound_and_begins_anew_after_an_answer() -> None:
    respite = Respite(1_000, 30_000)
    now_us, pauses = 7, []
    assert respite.left_us(now_us) == 0
    for _ in range(7):
        respite.failed(now_us)
        pauses.append(respite.left_us(now_us))
        now_us += pauses[-1]
        assert respite.left_us(now_us - 1) == 1
        assert respite.left_us(now_us) == 0
    assert pauses == [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]

    respite.failed(now_us)
    respite.answered()
    assert respite.left_us(now_us) == 0
    respite.failed(now_us)
    assert respite.left_us(now_us) == 1_000
