"""`python -m bench`: measure, print a table of ratios. No result fails a run; a contender that breaks does."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from bench import answers, batch, contenders, fleet, history, image, inprocess, load, record, shared, stack
from bench.contenders import Contender, ContenderFailed, Lab
from bench.report import Rates, Report, Row

_HIT_BAR: Final = 0.60
_PASS_BAR: Final = 3.0
_SERVED: Final = ("hit", "pass", "latency")
_ROWS: Final = (*_SERVED, "admission", "record", "store", "batch", "fleet", "rest", "download", "image", "stack")

Start = Callable[[Lab], AbstractContextManager[Contender]]


class Run:
    """One run: how long, on which machine, and what came of it."""

    def __init__(self, rounds: int, seconds: int, lab: Lab, *, quick: bool = False) -> None:
        self.rounds = rounds
        self.seconds = seconds
        self.lab = lab
        self.quick = quick
        self.report = Report()

    def hit(self) -> None:
        """A candle answer of 16 KB that both have: the gateway's memory beside nginx's cache."""
        with ExitStack() as stack:
            starts: list[Start] = [contenders.gateway, contenders.nginx_cache, contenders.nginx_cache_kept_open]
            rivals = self._start(stack, starts)
            for rival in rivals:
                self._same_answer(rival, answers.KLINE_TARGET)
                _, headers, _ = contenders.fetch(rival.port, answers.KLINE_TARGET)
                if "hit" not in headers.get("cache-status", "").lower():
                    raise ContenderFailed(f"{rival.name} did not answer from its cache")
            gateway, nginx, kept_open = self._saturate(rivals, answers.KLINE_TARGET)
        self.report.ratio("hit", gateway, nginx, _HIT_BAR)
        self.report.ratio("hit", gateway, kept_open)

    def pass_through(self) -> None:
        """An answer of 1 KB that nobody may keep."""
        starts: list[Start] = [contenders.gateway, contenders.nginx_pass]
        if missing := contenders.missing_for_fastapi():
            self.report.skipped.append(
                ("pass / FastAPI+httpx", f"not installed: {', '.join(missing)} (see requirements-bench.lock)")
            )
        else:
            starts.append(contenders.fastapi_httpx)
        with ExitStack() as stack:
            rivals = self._start(stack, starts)
            for rival in rivals:
                self._same_answer(rival, answers.TICKERS_TARGET)
            gateway, nginx, *others = self._saturate(rivals, answers.TICKERS_TARGET)
        for other in others:
            self.report.ratio("pass", gateway, other, _PASS_BAR)
        self.report.ratio("pass", gateway, nginx)

    def latency(self) -> None:
        """What a hop adds for a client that is alone: medians of each round less those of the direct way."""
        delays: dict[str, list[load.Delays]] = {}
        with ExitStack() as stack:
            direct = stack.enter_context(contenders.exchange(self.lab))
            rivals = [direct, *self._start(stack, [contenders.gateway, contenders.nginx_pass])]
            for number in range(self.rounds + 1):
                for rival in rivals:
                    seconds = 1 if number == 0 else max(1, self.seconds // 2)
                    measured = load.paced(rival, answers.TICKERS_TARGET, seconds, self.lab.load_cpu)
                    if number > 0:
                        delays.setdefault(rival.name, []).append(measured)
        base = delays.pop(direct.name)
        for name, rounds in delays.items():
            pairs = list(zip(rounds, base, strict=True))
            for what, values in (
                ("p50", tuple(mine.p50_us - theirs.p50_us for mine, theirs in pairs)),
                ("p99", tuple(mine.p99_us - theirs.p99_us for mine, theirs in pairs)),
            ):
                self.report.rows.append(Row("latency", f"{name}: added {what}", "us", values))
        for what, values in (("p50", tuple(d.p50_us for d in base)), ("p99", tuple(d.p99_us for d in base))):
            self.report.rows.append(Row("latency", f"no hop: {what}", "us", values))

    def admission(self) -> None:
        with contenders.on_cpu(self.lab.server_cpu):
            inprocess.measure(self.report, self.rounds, self.seconds)

    def record(self) -> None:
        """What telling of a request costs."""
        with contenders.on_cpu(self.lab.server_cpu):
            record.measure(self.report, self.rounds, self.seconds)

    def store(self) -> None:
        """Redis has the other processor, as it would on another machine."""
        with contenders.on_cpu(self.lab.server_cpu):
            shared.measure(self.report, self.rounds, self.seconds, self.lab.load_cpu)

    def batch(self) -> None:
        """Sixty symbols at once, and one after another."""
        batch.measure(self.report, self.lab, self.rounds)

    def fleet(self) -> None:
        """What the exchange sees of many bots."""
        fleet.measure(self.report, quick=self.quick)

    def rest(self) -> None:
        """What candles take in Redis."""
        fleet.measure_at_rest(self.report)

    def download(self) -> None:
        """A year of one-minute candles."""
        history.measure(self.report, self.lab, self.rounds)

    def image(self) -> None:
        """The container, by itself."""
        image.measure(self.report, self.rounds, self.seconds)

    def stack(self) -> None:
        """All that compose.scale.yaml starts."""
        stack.measure(self.report, self.rounds, self.seconds)

    def _start(self, stack: ExitStack, starts: Sequence[Start]) -> list[Contender]:
        return [stack.enter_context(start(self.lab)) for start in starts]

    def _same_answer(self, rival: Contender, target: str) -> None:
        status, _, body = contenders.fetch(rival.port, target)
        _, _, expected = contenders.fetch(self.lab.upstream_port, target)
        if status != 200 or body != expected:
            raise ContenderFailed(f"{rival.name} answered {status} with {len(body)} bytes instead of {len(expected)}")

    def _saturate(self, rivals: Sequence[Contender], target: str) -> list[Rates]:
        """Everybody once to warm up, then in turn, round by round."""
        reached = [Rates(rival.name) for rival in rivals]
        for number in range(self.rounds + 1):
            for rival, rates in zip(rivals, reached, strict=True):
                throughput = load.saturate(rival, target, self.seconds, self.lab.load_cpu)
                if number > 0:
                    rates.add(*throughput)
        return reached


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # so that servers are ended then, too
    rounds, seconds = (2, 1) if options.quick else (options.rounds, options.seconds)
    chosen = options.only or _ROWS
    server_cpu, load_cpu = contenders.two_cpus()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        lab = Lab(Path(directory), contenders.find_nginx() or "", server_cpu, load_cpu)
        run = Run(rounds, seconds, lab, quick=options.quick)
        if server_cpu is None:
            print("note: one processor for server and load alike; the ratios say less than they should")
        _measure(run, chosen)
    print(run.report.text())
    if options.json is not None:
        settings = {
            "rounds": rounds,
            "seconds": seconds,
            "connections": load.CONNECTIONS,
            "pinned": load_cpu is not None,
        }
        run.report.write_json(options.json, settings)
    return 1 if run.report.failed else 0


def _measure(run: Run, chosen: Sequence[str]) -> None:
    served = [row for row in _SERVED if row in chosen]
    without_wrk = [row for row in ("hit", "pass") if row in served and load.find_wrk() is None]
    if served and not run.lab.nginx:
        run.report.skipped += [(row, "nginx is not installed; it is the upstream of this row") for row in served]
        served = []
    elif without_wrk:
        run.report.skipped += [(row, "wrk is not installed") for row in without_wrk]
        served = [row for row in served if row not in without_wrk]
    if served:
        try:
            with contenders.exchange(run.lab) as exchange:
                run.lab = replace(run.lab, upstream_port=exchange.port)
                for row in served:
                    _one(run, row, {"hit": run.hit, "pass": run.pass_through, "latency": run.latency}[row])
        except ContenderFailed as error:
            run.report.failed.append(("upstream", str(error)))
    if "admission" in chosen:
        _one(run, "admission", run.admission)
    if "record" in chosen:
        _one(run, "record", run.record)
    for row, measure in (("store", run.store), ("rest", run.rest)):
        if row in chosen and (why := shared.missing()) is not None:
            run.report.skipped.append((row, why))
        elif row in chosen:
            _one(run, row, measure)
    if "batch" in chosen:
        _one(run, "batch", run.batch)
    if "fleet" in chosen:
        _one(run, "fleet", run.fleet)
    if "download" in chosen:
        _one(run, "download", run.download)
    if "image" in chosen and (why := image.missing()) is not None:
        run.report.skipped.append(("image", why))
    elif "image" in chosen:
        _one(run, "image", run.image)
    if "stack" in chosen and (why := stack.missing()) is not None:
        run.report.skipped.append(("stack", why))
    elif "stack" in chosen:
        _one(run, "stack", run.stack)


def _one(run: Run, row: str, measure: Callable[[], None]) -> None:
    print(f"measuring {row} ...", file=sys.stderr, flush=True)
    try:
        measure()
    except ContenderFailed as error:
        run.report.failed.append((row, str(error)))
    except Exception as error:  # noqa: BLE001  # the other rows are still worth having
        run.report.failed.append((row, f"{type(error).__name__}: {error}"))


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds for each contender (default: 5)")
    parser.add_argument("--seconds", type=int, default=4, metavar="S", help="length of a round (default: 4)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s: does it run?")
    parser.add_argument("--only", choices=_ROWS, action="append", help="measure this row; may be given repeatedly")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
