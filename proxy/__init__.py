"""What the gateway does. The rooms, and the corridor between them:

    __main__     command line
    explain      what would be done with a request          (explanation: as text and JSON)
    download/    candles into files, through a gateway      (its own __init__ has the map)
    app          builds everything once; listens; drains; applies another configuration
    workers      keeps several such processes alive        (ports: what they listen on, held for them)
    reload       notices a changed file, judges it, has it applied
    config       YAML + environment -> frozen Config       (yamlfile: YAML without surprises; config_problems: in words;
                 config_store: the `store` section; config_environment: variables, and files of secrets)
    advice, config_schema    what `check` warns of; what editors are told
    server       aiohttp's low-level server, unreadable requests explained
                 (listener: a port, closed without losing a request)
    gateway      the life of a request, top to bottom: describe, admit, cache, send, answer
    identity       who is asking
    door           what a client spends by asking
    limiter        admission, waiting, one dispatcher          (store/: where the windows are)
    cache          answers that may be given again             (answers: what is kept of a reply)
      l2             the level in Redis that all share       (lease: one gateway fetches for all)
    attempts       acquire, send, judge, send again
      observer       what is learned of an answer            (accounts: whose key; answered: its head and body)
      breaker        leaves an upstream alone that fails
    egress         the ban, the throttle, the trade switch     (probation: sees a ban through)
    upstream       the one connection set to the exchange
    archive/       closed candles in PostgreSQL, for good
    stream         candles that come by themselves             (stream_link: one connection while it stands)
    headers, body, coding, wire    the bytes of a message
    errors         what the gateway answers itself
    admin          metrics, limits, the trade switch           (drift: the report)
    health         alive, ready, and how all that it depends on fares   (exchange_health: one question; pulse: noted)
    marketdata/  the convenience API: candles beyond a page, several symbols, prices     (inner: asks for public data)
    telemetry    one event per request                     (metrics, log)
      tracing        spans of requests that are traced       (steps, spans, span_export: noted, made, delivered)
    siblings     workers read each other's metrics         (combined: several processes on one page)
    exposition   metrics as text, in two formats
    awake        a time-out by the time in which the process was awake
    alive        the health check of a container: a program of its own, which imports none of these

Imports point downwards only; `make check` enforces it. Decisions are made in policies/.
"""
