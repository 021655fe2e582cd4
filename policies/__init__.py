"""What the gateway decides, and nothing else: no sockets, no clock, no awaiting.

A request is asked about in this order:

    target.py      may this request target be forwarded at all?
    routing.py     which endpoint is it?                        (tables: bybit.yaml)
    descriptor.py  all that the policies below may know of it
    bybit.py       the dialect: signed or not, until when, at what cost
    admission.py   which quotas does it spend, and is there room in all of them?
      window.py      the sliding windows behind each quota
    queueing.py    if there is no room: whose turn is it when there is?
    caching.py     may it be answered from the cache, under which key, for how long?
      candles.py     what the exchange's intervals mean on the calendar

schema.py turns the YAML of an operator into the frozen types that the rooms above work with; reach.py refuses rules
that no request can meet.
Every number of time is an integer of microseconds unless its name says otherwise (`_ms`).
"""
