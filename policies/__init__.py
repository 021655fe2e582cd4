"""What the gateway decides, and nothing else: no sockets, no clock, no awaiting.

A request is asked about in this order:

    forwarded.py   whose address is it, behind our own proxies?
    target.py      may this request target be forwarded at all?
    routing.py     which endpoint is it?                        (tables: bybit.yaml)
    descriptor.py  all that the policies below may know of it
    bybit.py       the dialect: signed or not, until when
    priority.py    how urgent is it?
    orders.py      which order requests must it not overtake, and what does a batch cost?
    skew.py        is its signature still good when it gets there, by the exchange's clock?
    admission.py   which quotas does it spend, and is there room in all of them?     (tiers.py: those of a tier)
      window.py      the exact windows behind a quota
      slotted.py     long windows,  bucket.py  a rate with a burst
      pacing.py      what an account may really send (published.py: to begin with; lessons.py: learned from an answer)
      restart.py     what they hold when the gateway begins
      sharing.py     what each of several gateways may send when their common store is lost
    queueing.py    if there is no room: whose turn is it when there is?              (lines.py: who stands where)
      spacing.py     how far apart the less urgent are sent, so that the urgent find room
    trading.py     is it one that the trade switch stops?
    circuit.py     does the upstream work?     retry.py   may it be sent again?
    ban.py         may anything be sent?       throttle.py   how much, while the exchange protects itself?
    health.py      how do the exchange, Redis and the archive fare, and is the gateway ready?
    drift.py       what differs between rules, published table and reality
    caching.py     may it be answered from the cache, under which key, for how long?
      candles.py     what the exchange's intervals mean on the calendar
      answer_rules.py  the same of answers that are not candles
      conditions.py  does the client take a kept answer, and has it got it already?
      frame.py       is what stands in Redis one of our own values, whole and in its place?
      respite.py     for how long is a Redis left alone that has failed?

Candles that the exchange streams:

    stream_demand.py     which series are subscribed to         (stream_reconnect.py: when is it connected to again?)
    stream_rows.py       what does a message say, and does it join on to the one before?
      stream_words.py      the topics, requests and answers of a stream

Candles that go into files:

    blocks.py            a range in pieces that are asked for one by one
      block_rows.py        is this the answer, and which lines does it make?
      collected.py         what is there by now, and what is missing

Questions to the convenience API:

    market_questions.py  what is asked, and what is wrong with it
    walk.py              which pages of a range come next, and where candles are when pages are empty
    candle_formats.py    rows as JSON, NDJSON, CSV

schema.py, cache_schema.py, archive_schema.py, resilience_schema.py, identity_schema.py and store_url.py turn the YAML
of an operator into the frozen types that the rooms above work with; reach.py refuses rules that no request can meet.
Every number of time is an integer of microseconds unless its name says otherwise (`_ms`).
"""
