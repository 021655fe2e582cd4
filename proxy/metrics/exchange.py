"""What the exchange says, and how its upstream fares."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from proxy.tally import TallyCounter


class Exchange:
    """What the exchange says, and how its upstream fares."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.exchange_codes = Counter(
            "gateway_exchange_errors",
            "Answers of the exchange with an error code, by code.",
            ["code"],
            registry=registry,
        )
        self.exchange_limited = Counter(
            "bybit_rate_limit_hits",
            "Answers of the exchange that say a limit was exceeded. Must stay 0 while nobody else uses the budget.",
            registry=registry,
        )
        self.retries = Counter(
            "gateway_retries",
            "Attempts that were repeated, by what had gone wrong.",
            ["endpoint", "reason"],
            registry=registry,
        )
        self.forbidden = Counter(
            "gateway_forbidden",
            "Answers of the exchange with HTTP 403: ban, blocked country, page of the CDN, other.",
            ["reason"],
            registry=registry,
        )
        self.banned = Gauge(
            "gateway_banned", "1 while nothing is sent because the exchange has banned the address.", registry=registry
        )
        self.ban_left = Gauge("gateway_ban_left_seconds", "How long nothing will be sent, at least.", registry=registry)
        self.bans = Counter("gateway_bans", "Bans of the address that this gateway has heard of.", registry=registry)
        self.budget_part = Gauge(
            "gateway_budget_part_ratio",
            "The part of the address's budget that may be used: less than 1 after a ban and while throttled.",
            registry=registry,
        )
        self.throttled = Counter(
            "gateway_throttled", "Times the budget was halved because the exchange protects itself.", registry=registry
        )
        self.breaker_state = Gauge(
            "circuit_breaker_state", "0 closed, 1 half-open, 2 open.", ["service"], registry=registry
        )
        self.trading_mode = Gauge(
            "gateway_trading_mode", "1 for the position of the trade switch.", ["mode"], registry=registry
        )
        self.in_flight = Gauge(
            "gateway_upstream_in_flight", "Requests on their way to the exchange.", registry=registry
        )
        self.websocket_connections = Gauge(
            "websocket_connections_active",
            "WebSocket connections that stand: public-... the gateway's own for candles, stream-... those of clients.",
            ["endpoint"],
            registry=registry,
        )
        self.websocket_opened = Counter(
            "gateway_websocket_connections",
            "WebSocket connections that clients asked for: opened, refused (by the exchange), or failed.",
            ["endpoint", "result"],
            registry=registry,
        )
        self.websocket_closed = Counter(
            "gateway_websocket_ends",
            "Their ends, by who ended them: client, exchange, or without a word client-gone, stream-lost; drained.",
            ["endpoint", "by"],
            registry=registry,
        )
        self.websocket_messages = TallyCounter(
            "gateway_websocket_messages",
            "Their messages, pings and pongs included: in from clients, out to them.",
            ["endpoint", "direction"],
            registry,
        )
        self.stream_reconnects = Counter(
            "gateway_stream_reconnects",
            "Connections to the exchange's streams that were lost or could not be had, by reason.",
            ["endpoint", "reason"],
            registry=registry,
        )
        self.stream_messages = TallyCounter(
            "gateway_stream_messages",
            "Messages of the exchange's streams, by what they were: open and closed candles, jump (behind a hole), "
            "late, repeated, contradicted, answers, odd ones.",
            ["endpoint", "result"],
            registry,
        )
