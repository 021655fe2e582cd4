"""What a gateway that stands alone leaves behind, and what the next one makes of it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from policies.admission import Admitted, Charge, Counts, Quota, WindowKind
from policies.restart import LATE_US
from policies.trading import TradingMode
from proxy.egress import Egress, EgressRules, Trading
from proxy.store import Reservation
from proxy.store.keeper import Keeper, Moment
from proxy.store.memory import MemoryStore
from proxy.store.state_file import InUseError, NotOursError, StateFile, first_usable, places

SECOND = 1_000_000
HELD = Quota("held", 600, 5 * SECOND, ("egress",), window=WindowKind.HELD)
ACCOUNT = Quota("account", 50, SECOND, ("api_key",), window=WindowKind.HELD)
OWN = Quota("own", 300, 60 * SECOND, ("ip",), counts=Counts.REQUESTS, window=WindowKind.SLOTTED)
RULES = (HELD, ACCOUNT, OWN)
CHARGES = tuple(Charge(rule, (rule.name, "who"), 1) for rule in RULES)


class Machine:
    """One machine: its clocks, its disk, and the gateways that run on it one after the other."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "state.json"
        self.moment = Moment("boot-1", 50 * SECOND, 1_700_000_000 * SECOND)
        self.setting = str(self.path)

    def pass_time(self, seconds: float) -> None:
        step = int(seconds * SECOND)
        self.moment = self.moment._replace(
            monotonic_us=self.moment.monotonic_us + step, wall_us=self.moment.wall_us + step
        )

    def boot(self, wall_us: int = 0) -> None:
        self.moment = Moment("boot-2", SECOND, self.moment.wall_us + wall_us)

    def start(self, rules: tuple[Quota, ...] = RULES, hashes: str = "a") -> Gateway:
        return Gateway(self, rules, hashes)


class Gateway:
    """Its clock began at the wall time of its start and does not hear of later steps."""

    def __init__(self, machine: Machine, rules: tuple[Quota, ...], hashes: str) -> None:
        offset_us = machine.moment.wall_us - machine.moment.monotonic_us
        self.rules, self.hashes, self.number = rules, hashes, 0
        self.store = MemoryStore(lambda: machine.moment.monotonic_us + offset_us)
        self.egress = Egress(EgressRules(ban_us=600 * SECOND, ramp_us=60 * SECOND), lambda: machine.moment.wall_us)
        self.keeper = Keeper(
            machine.setting,
            ("default", "https://api.bybit.com"),
            self.store,
            lambda: machine.moment.monotonic_us + offset_us,
            self.egress,
            moment=lambda: machine.moment,
        )
        with capture_logs() as self.events:
            self.keeper.begin(rules, hashes)

    @property
    def said(self) -> list[str]:
        return [event["event"] for event in self.events]

    def send(self, count: int, charges: tuple[Charge, ...] = CHARGES, *, answered: bool = True) -> int:
        """How many of them went at once."""

        async def main() -> int:
            gone = 0
            for _ in range(count):
                self.number += 1
                reservation = Reservation(str(self.number), charges)
                if isinstance(await self.store.reserve(reservation), Admitted):
                    gone += 1
                    if answered:
                        await self.store.complete(reservation)
            return gone

        return asyncio.run(main())

    def stop(self) -> None:
        self.keeper.end(self.rules, self.hashes)

    def sign(self) -> None:
        self.keeper._give_sign()

    def live(self, signs: int) -> None:
        """Until it has given so many more signs of life."""
        left = iter(range(signs))

        async def sleep(_: float) -> None:
            if next(left, None) is None:
                raise asyncio.CancelledError

        self.keeper._sleep = sleep
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(self.keeper.run())

    def die(self) -> None:
        """As kill -9: the descriptor goes, nothing is written."""
        if self.keeper._file is not None:
            os.close(self.keeper._file._descriptor)
            self.keeper._file._finished = True


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


ALL = (CHARGES[0],)


def test_the_first_gateway_ever_begins_with_nothing(machine: Machine) -> None:
    gateway = machine.start()

    assert gateway.said == []
    assert gateway.send(700, ALL) == 600


def test_after_a_graceful_stop_the_windows_go_on_where_they_were(machine: Machine) -> None:
    """What was in flight when it ended counts from that instant."""
    first = machine.start()
    assert first.send(300, ALL) == 300
    machine.pass_time(2)
    assert first.send(200, ALL, answered=False) == 200
    first.stop()
    machine.pass_time(1)
    second = machine.start()

    assert second.said == ["state_restored"]
    assert second.send(700, ALL) == 100
    machine.pass_time(2)
    assert second.send(700, ALL) == 300  # the first three hundred are five seconds old
    machine.pass_time(2)
    assert second.send(700, ALL) == 200


def test_a_gateway_that_is_stopped_twice_in_a_row_remembers_still(machine: Machine) -> None:
    """One that ends before it has sent anything hands on what it was handed."""
    first = machine.start()
    first.send(600, ALL)
    for _ in range(2):
        first.stop()
        machine.pass_time(1)
        first = machine.start()

    assert first.send(1, ALL) == 0


def test_clients_keep_what_they_have_spent(machine: Machine) -> None:
    first = machine.start()
    assert first.send(299, CHARGES[2:]) == 299
    first.stop()
    machine.pass_time(20)

    assert machine.start().send(10, CHARGES[2:]) == 1


def test_after_a_crash_the_emergency_share_may_go_and_the_rest_one_window_later(machine: Machine) -> None:
    first = machine.start()
    first.send(600, ALL)
    first.sign()
    first.die()
    second = machine.start()

    assert second.events == [{"event": "cold_start", "hold_s": 5.0, "reason": "crashed", "log_level": "warning"}]
    assert second.store.cold
    assert second.send(700, ALL) == 12
    machine.pass_time(4.9)
    assert second.send(700, ALL) == 0
    machine.pass_time(0.1)
    assert not second.store.cold
    assert second.send(700, ALL) == 600


def test_a_crash_that_nobody_can_remember_holds_nothing(machine: Machine) -> None:
    first = machine.start()
    first.send(600, ALL)
    first.sign()
    first.die()
    machine.pass_time(5 + LATE_US / SECOND)
    second = machine.start()

    assert second.said == []
    assert second.send(700, ALL) == 600


def test_a_gateway_that_ends_while_it_holds_leaves_the_hold_to_the_next(machine: Machine) -> None:
    """Its windows do not tell what is held of those that nobody has used yet."""
    machine.start().die()
    second = machine.start()
    machine.pass_time(1)
    second.stop()
    third = machine.start()

    assert third.said == ["cold_start"]
    assert third.send(700, ALL) == 12


def test_one_that_held_and_then_ran_on_is_restored(machine: Machine) -> None:
    machine.start().die()
    second = machine.start()
    machine.pass_time(6)
    second.send(500, ALL)
    second.stop()
    third = machine.start()

    assert third.said == ["state_restored"]
    assert third.send(700, ALL) == 100


def test_a_reload_neither_ends_a_hold_nor_repeats_it(machine: Machine) -> None:
    machine.start().die()
    second = machine.start()
    assert second.send(5, ALL) == 5
    for _ in range(2):
        second.store.adopt([Quota("held", 600, 5 * SECOND, ("egress",), window=WindowKind.HELD, shadow=False)])
        machine.pass_time(1)
    assert second.send(700, ALL) == 7
    machine.pass_time(3)
    second.store.adopt(RULES)
    assert second.send(700, ALL) == 593


def test_a_rule_that_a_reload_brings_during_a_hold_is_held_too(machine: Machine) -> None:
    machine.start().die()
    second = machine.start()
    machine.pass_time(2)
    new = Quota("new", 100, 5 * SECOND, ("egress",), window=WindowKind.HELD)
    second.store.adopt([new])

    assert second.send(200, (Charge(new, ("new", "who"), 1),)) == 2
    machine.pass_time(3)
    assert second.send(200, (Charge(new, ("new", "who"), 1),)) == 98


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 300,
        b'{"bybit_gateway_state":1,"status":"stopped","boot":"boot-1","mono',
        b'{"bybit_gateway_state":2,"status":"stopped","boot":"boot-1","monotonic_us":1,"wall_us":1}',
        b'{"bybit_gateway_state":1,"status":"asleep","boot":"boot-1","monotonic_us":1,"wall_us":1}',
        b'{"bybit_gateway_state":1,"status":"running","boot":"b","monotonic_us":1,"wall_us":1}}',
    ],
    ids=["empty", "zeros", "half", "other version", "unknown word", "something behind it"],
)
def test_what_cannot_be_read_is_told_held_and_written_anew(machine: Machine, text: bytes) -> None:
    machine.path.write_bytes(text)
    second = machine.start()

    assert second.said == ["state_file_unreadable", "cold_start"]
    assert second.send(700, ALL) == 12
    assert orjson.loads(machine.path.read_bytes())["status"] == "running"


def test_a_file_of_somebody_else_is_left_alone(machine: Machine) -> None:
    """A path that was mistyped must not cost its owner what is in it."""
    machine.path.write_text("limits: []\n")
    second = machine.start()
    second.stop()

    assert second.said == ["state_file_unreadable", "cold_start"]
    assert machine.path.read_text() == "limits: []\n"


def test_a_gateway_that_begins_while_the_other_drains_keeps_the_file_from_then_on(machine: Machine) -> None:
    """The port is free before the other has ended. What it leaves says nothing of what is sent after it."""
    first = machine.start()
    second = machine.start()
    machine.pass_time(6)
    first.stop()
    second.live(2)
    assert second.send(700, ALL) == 600
    second.stop()
    third = machine.start()

    assert third.said == ["state_restored"]
    assert third.send(700, ALL) == 0


def test_of_two_gateways_on_one_file_the_second_is_warned_and_holds(machine: Machine) -> None:
    first = machine.start()
    second = machine.start()

    assert second.said == ["state_file_in_use", "cold_start"]
    assert "redis://" in second.events[0]["remedy"]
    assert "egress.id" in second.events[0]["remedy"]
    assert second.send(700, ALL) == 12
    second.stop()
    assert orjson.loads(machine.path.read_bytes())["status"] == "running"
    first.stop()
    assert orjson.loads(machine.path.read_bytes())["status"] == "stopped"


def test_steps_of_the_wall_clock_change_nothing_within_one_boot(machine: Machine) -> None:
    first = machine.start()
    first.send(600, ALL)
    first.stop()
    machine.moment = machine.moment._replace(wall_us=machine.moment.wall_us + 3_600 * SECOND)
    machine.pass_time(1)
    second = machine.start()
    assert second.send(1, ALL) == 0
    second.stop()
    machine.moment = machine.moment._replace(wall_us=machine.moment.wall_us - 7_200 * SECOND)
    machine.pass_time(3.9)
    third = machine.start()
    assert third.send(1, ALL) == 0
    machine.pass_time(0.1)
    assert third.send(1, ALL) == 1


def test_after_a_boot_the_wall_clock_tells_unless_it_went_back(machine: Machine) -> None:
    first = machine.start()
    first.send(600, ALL)
    first.stop()
    machine.boot(wall_us=4 * SECOND)
    second = machine.start()
    assert second.said == ["state_restored"]
    assert second.send(1, ALL) == 0
    second.stop()
    machine.boot(wall_us=-60 * SECOND)
    machine.moment = machine.moment._replace(boot="boot-3")
    assert machine.start().said == ["cold_start"]


def test_a_rule_that_was_not_there_before_is_held(machine: Machine) -> None:
    """What the exchange counts by it was counted by nobody here. Held from when the last gateway stopped."""
    first = machine.start((HELD,))
    first.send(100, ALL)
    first.stop()
    machine.pass_time(0.4)
    second = machine.start()

    assert second.said == ["state_restored", "cold_start"]
    assert second.events[1]["hold_s"] == 0.6
    assert second.send(700, ALL) == 500
    assert second.send(10, CHARGES[1:2]) == 1
    machine.pass_time(0.6)
    assert second.send(60, CHARGES[1:2]) == 49


def test_accounts_under_hashes_of_another_key_cannot_be_recognised_and_are_held(machine: Machine) -> None:
    first = machine.start()
    first.send(10, CHARGES[1:2])
    first.stop()
    second = machine.start(hashes="b")
    anew = (Charge(ACCOUNT, ("account", "another"), 1),)

    assert second.said == ["state_restored", "cold_start"]
    assert second.send(10, anew) == 1
    assert second.send(700, ALL) == 600


def test_a_rule_that_is_gone_or_partitioned_otherwise_does_not_take_over(machine: Machine) -> None:
    first = machine.start()
    first.send(100)
    first.stop()
    other = Quota("own", 300, 60 * SECOND, ("client",), counts=Counts.REQUESTS, window=WindowKind.SLOTTED)
    second = machine.start((HELD, other))

    assert second.events[0]["windows"] == 1


def test_more_than_a_million_numbers_are_not_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients' own windows are left out; where the exchange's do not fit the next gateway holds."""
    monkeypatch.setattr("proxy.store.keeper._MOST_NUMBERS", 612)
    first = machine.start()
    first.send(590, ALL)
    first.send(20, CHARGES[2:])
    first.send(10, CHARGES[1:2])
    first.stop()
    left = orjson.loads(machine.path.read_bytes())
    assert left["status"] == "stopped"
    assert {window["key"][0] for window in left["windows"]} == {"held", "account"}

    second = machine.start()
    second.send(700, ALL)
    second.send(50, CHARGES[1:2])
    second.stop()
    assert orjson.loads(machine.path.read_bytes())["status"] == "running"
    assert machine.start().said == ["cold_start"]


def test_a_name_that_is_no_unicode_costs_the_snapshot_and_nothing_else(machine: Machine) -> None:
    first = machine.start()
    first.send(1, (Charge(OWN, ("own", "\ud800"), 1),))
    first.stop()

    assert machine.start().said == ["cold_start"]


def test_a_full_disk_is_told_once_and_stops_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = machine.start()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with capture_logs() as events:
        first.sign()
        first.sign()
        first.stop()

    assert [event["event"] for event in events] == ["state_not_saved"] * 2
    first.sign()
    assert len(events) == 2


async def test_signs_of_life_are_given_until_it_ends(machine: Machine) -> None:
    slept: list[float] = []
    store = MemoryStore(lambda: 0)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        machine.pass_time(seconds)
        if len(slept) == 4:
            raise asyncio.CancelledError

    egress = Egress(EgressRules(600 * SECOND, 60 * SECOND), lambda: 0)
    budget = ("a", "b")
    keeper = Keeper(machine.setting, budget, store, lambda: 0, egress, moment=lambda: machine.moment, sleep=sleep)
    keeper.begin(RULES, "a")
    before = orjson.loads(machine.path.read_bytes())["monotonic_us"]
    with pytest.raises(asyncio.CancelledError):
        await keeper.run()

    assert slept == [1.0] * 4
    assert orjson.loads(machine.path.read_bytes())["monotonic_us"] == before + 3 * SECOND
    keeper.end(RULES, "a")
    left = machine.path.read_bytes()
    keeper._give_sign()
    assert machine.path.read_bytes() == left


def test_the_file_is_for_its_owner_only_and_not_a_link(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    opened = StateFile.open(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert opened.text is None
    with pytest.raises(InUseError):
        StateFile.open(path)
    opened.finish(b'{"bybit_gateway_state":1}')
    again = StateFile.open(path)
    assert again.text == b'{"bybit_gateway_state":1}'
    again.finish(b"")
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OSError):
        StateFile.open(link)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotOursError):
        StateFile.open(tmp_path / "pipe")


def test_a_file_of_any_length_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.store.state_file._MOST_BYTES", 24)
    path = tmp_path / "state.json"
    path.write_bytes(b'{"bybit_gateway_state":1}')
    opened = StateFile.open(path)
    assert opened.text == b""
    opened.finish(b"")
    path.write_bytes(b"something else, and long")
    with pytest.raises(NotOursError):
        StateFile.open(path)


BUDGET = ("default", "https://api.bybit.com")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


def test_the_places_that_are_tried(temporary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    last = temporary / f"bybit-gateway-{os.geteuid()}"
    homes = [
        ({"XDG_STATE_HOME": "/var/state"}, Path("/var/state/bybit-gateway")),
        ({"XDG_STATE_HOME": "not/absolute"}, tmp_path / ".local/state/bybit-gateway"),
        ({}, tmp_path / ".local/state/bybit-gateway"),
    ]
    for environment, first in homes:
        assert [path.parent for path in places("auto", BUDGET, environment)] == [first, last]
    monkeypatch.setenv("HOME", "/nonexistent")
    assert [path.parent for path in places("auto", BUDGET, {})] == [last]
    assert list(places("/x/y.json", BUDGET, {})) == [Path("/x/y.json")]


def test_a_budget_has_a_file_of_its_own() -> None:
    def name(*budget: str) -> str:
        return next(places("auto", (budget[0], budget[1]), {"XDG_STATE_HOME": "/x"})).name

    names = {name(*BUDGET), name("other", BUDGET[1]), name(BUDGET[0], "http://127.0.0.1:9443")}
    assert len(names) == 3
    assert name(*BUDGET) == name(*BUDGET)


@pytest.mark.parametrize("trouble", ["link", "open to others", "a file"])
def test_a_directory_that_is_not_ours_alone_is_passed_over(temporary: Path, tmp_path: Path, trouble: str) -> None:
    prepared = tmp_path / "state" / "bybit-gateway"
    prepared.parent.mkdir()
    if trouble == "link":
        (tmp_path / "elsewhere").mkdir()
        prepared.symlink_to(tmp_path / "elsewhere")
    elif trouble == "open to others":
        prepared.mkdir()
        prepared.chmod(0o777)
    else:
        prepared.write_text("")
    opened = first_usable("auto", BUDGET, {"XDG_STATE_HOME": str(tmp_path / "state")})

    assert isinstance(opened, StateFile)
    assert opened.path.parent.parent == temporary
    assert opened.path.parent.stat().st_mode & 0o777 == 0o700
    opened.finish(b"")


def test_where_nothing_can_be_written_it_holds_at_each_start_and_says_so(
    machine: Machine, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot know whether another ran here a moment ago."""
    temporary.rmdir()
    temporary.write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    machine.setting = "auto"
    gateway = machine.start()
    gateway.stop()

    assert [(event["event"], event["log_level"]) for event in gateway.events] == [
        ("state_file_nowhere", "info"),
        ("cold_start", "warning"),
    ]
    assert gateway.events[1]["reason"] == "no-place"


def test_a_container_without_any_place_for_temporary_files_is_no_obstacle(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python finds no temporary directory on a root file system that cannot be written to."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/dev/null"])
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    machine.setting = "auto"
    gateway = machine.start()

    assert [event["event"] for event in gateway.events] == ["state_file_nowhere", "cold_start"]


def test_a_path_that_was_asked_for_and_cannot_be_had_is_a_warning(machine: Machine) -> None:
    machine.setting = "/nowhere/at/all.json"
    gateway = machine.start()

    assert gateway.events[0]["log_level"] == "warning"
    assert gateway.events[0]["tried"] == ["/nowhere/at/all.json: No such file or directory"]


@pytest.mark.parametrize("ending", ["stopped", "killed"])
def test_a_ban_and_the_trade_switch_outlive_the_gateway(machine: Machine, ending: str) -> None:
    """Whoever restarts a gateway because it is banned does not send on."""
    first = machine.start()
    first.egress.strike()
    first.egress.hear_trading(Trading(TradingMode.HALT_NEW, machine.moment.wall_us))
    until_us = first.egress.ban.until_us
    first.sign()
    if ending == "stopped":
        first.stop()
    else:
        first.die()
    machine.pass_time(60)
    second = machine.start()

    assert second.egress.banned
    assert second.egress.ban.until_us == until_us
    assert second.egress.ban_left_us == 540 * SECOND
    assert second.egress.halted


def test_a_ban_that_was_lifted_is_remembered_for_the_next_one(machine: Machine) -> None:
    first = machine.start()
    first.egress.strike()
    first.egress.lift()
    first.stop()
    machine.pass_time(60)
    second = machine.start()
    assert not second.egress.banned

    second.egress.strike()
    assert second.egress.ban_left_us == 1_200 * SECOND
