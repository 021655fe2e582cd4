"""When things happened to a request that is traced, noted on its way; proxy/spans.py makes spans of it at the end."""

from __future__ import annotations


class Wait:
    """`why`: queue (for its turn), order-lane (for an earlier order), pause (before it was sent again). `ended_us` is 0
    as long as it goes on, and `began_us` where there was nothing to wait for."""

    __slots__ = ("began_us", "ended_us", "why")

    def __init__(self, why: str, began_us: int, ended_us: int) -> None:
        self.why = why
        self.began_us = began_us
        self.ended_us = ended_us


class Try:
    """It was sent to the exchange. `ended_us` is 0 until its answer is here, or what went wrong."""

    __slots__ = ("ended_us", "error", "ret_code", "sent_us", "status")

    def __init__(self, sent_us: int) -> None:
        self.sent_us = sent_us
        self.ended_us = 0
        self.status = 0
        self.ret_code: int | None = None
        self.error = ""
        """In a word of proxy/errors.py, or the class of what nobody foresaw."""

    def answered(self, status: int, ret_code: int | None) -> None:
        self.status, self.ret_code = status, ret_code


class Steps:
    """`span_id`: of the span of the request itself. `state`: what its client's tracestate said. `version`: of HTTP."""

    __slots__ = ("admitted_us", "leader", "missed", "span_id", "state", "trace_id", "tries", "version", "waits")

    def __init__(self, trace_id: int, span_id: int, state: str, version: str) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.state = state
        self.version = version
        self.admitted_us = 0
        """When it was let in; 0: it was not."""
        self.missed = False
        """It was looked up, and there was nothing at once."""
        self.leader: Steps | None = None
        """Of who fetches what this one waits for."""
        self.waits: list[Wait] = []
        self.tries: list[Try] = []

    def sent(self, now_us: int) -> Try:
        attempt = Try(now_us)
        self.tries.append(attempt)
        return attempt

    def wait(self, why: str, began_us: int, ended_us: int = 0) -> Wait:
        wait = Wait(why, began_us, ended_us)
        self.waits.append(wait)
        return wait
