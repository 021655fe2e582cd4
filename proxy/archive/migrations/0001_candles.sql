-- Every closed candle that the gateway has fetched, once.
--
-- Prices and volumes are text: the exchange writes 25.00, and the bytes of an answer must come back as they were. The
-- view bybit_kline has them as numbers. open_time is what the exchange calls a candle: milliseconds since 1970.
--
-- `kind` is the endpoint. Mark, index and premium index prices have candles of the same category, symbol, interval and
-- time as the trades have, so it belongs to what is unique; by itself a row is one of trades.
CREATE TABLE bybit_kline_audit (
    category    text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL DEFAULT 'kline',
    symbol      text COLLATE "C" NOT NULL,
    interval    text COLLATE "C" NOT NULL,
    open_time   bigint NOT NULL,
    open        text NOT NULL,
    high        text NOT NULL,
    low         text NOT NULL,
    close       text NOT NULL,
    volume      text,
    turnover    text,
    inserted_at timestamptz NOT NULL DEFAULT now(),
    revised_at  timestamptz,
    CONSTRAINT bybit_kline_audit_once PRIMARY KEY (category, kind, symbol, interval, open_time),
    CONSTRAINT bybit_kline_audit_both CHECK ((volume IS NULL) = (turnover IS NULL)),
    -- What stands here becomes part of an answer.
    CONSTRAINT bybit_kline_audit_plain CHECK (
        (open || high || low || close || coalesce(volume || turnover, '')) !~ '["\\[:cntrl:]]'
    )
);

-- Which stretches of time are known of a series: half-open ranges of open times. Inside them a candle that is not in
-- bybit_kline_audit does not exist at the exchange; outside nobody has asked. Whoever deletes candles by hand deletes
-- the ranges here first.
CREATE TABLE bybit_kline_coverage (
    category    text COLLATE "C" NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    symbol      text COLLATE "C" NOT NULL,
    interval    text COLLATE "C" NOT NULL,
    covered     int8multirange NOT NULL,
    PRIMARY KEY (category, kind, symbol, interval)
);

CREATE FUNCTION bybit_number(written text) RETURNS numeric LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN written ~ '^-?[0-9]+(\.[0-9]+)?$' THEN written::numeric END
$$;

-- For people.
CREATE VIEW bybit_kline AS
SELECT
    category, kind, symbol, interval,
    to_timestamp(open_time / 1000.0) AS opened_at,
    bybit_number(open) AS open, bybit_number(high) AS high, bybit_number(low) AS low, bybit_number(close) AS close,
    bybit_number(volume) AS volume, bybit_number(turnover) AS turnover,
    open_time, inserted_at, revised_at
FROM bybit_kline_audit;

-- Takes what has been copied into the session's table bybit_kline_staging (offer, candle), and what `offers` tells of
-- it: [{n, category, kind, symbol, interval, low, high, revised}]. Rows and the coverage that rests on them are one
-- transaction, and since this is one call, a gateway that stops dead in the middle holds up no other.
CREATE FUNCTION bybit_archive_store(
    offers jsonb, not_before bigint,
    OUT stored bigint, OUT revised bigint, OUT duplicate bigint, OUT expired bigint, OUT failed bigint
) LANGUAGE plpgsql AS $$
DECLARE
    shape CONSTANT text := '^\["(?:0|[1-9][0-9]{0,15})"(?:,"[^"]*"){4}(?:,"[^"]*","[^"]*")?\]$';
    spoilt  int[];
    told    record;
    given   bigint;
    gone    bigint := 0;
    added   bigint;
    changed bigint;
    late    bigint;
BEGIN
    WITH odd AS (DELETE FROM pg_temp.bybit_kline_staging WHERE candle !~ shape RETURNING offer)
    SELECT count(*), coalesce(array_agg(DISTINCT offer), '{}') INTO failed, spoilt FROM odd;

    -- One writer at a time: coverage is read, joined and written, and no deletion may come between.
    PERFORM pg_advisory_xact_lock(1652122228, 1);

    WITH parsed AS MATERIALIZED (
        SELECT o.*, f, f[1]::bigint AS open_time
        FROM jsonb_to_recordset(offers) AS o (
            n int, category text, kind text, symbol text, interval text, revised boolean
        )
        JOIN pg_temp.bybit_kline_staging AS s ON s.offer = o.n
        CROSS JOIN LATERAL string_to_array(substr(s.candle, 3, length(s.candle) - 4), '","') AS f
        WHERE NOT o.revised
    ), fresh AS (
        SELECT DISTINCT ON (category, kind, symbol, interval, open_time) *
        FROM parsed WHERE open_time >= not_before
        ORDER BY category, kind, symbol, interval, open_time, n
    ), put AS (
        INSERT INTO bybit_kline_audit
            (category, kind, symbol, interval, open_time, open, high, low, close, volume, turnover)
        SELECT category, kind, symbol, interval, open_time, f[2], f[3], f[4], f[5], f[6], f[7] FROM fresh
        ON CONFLICT ON CONSTRAINT bybit_kline_audit_once DO NOTHING
        RETURNING 1
    )
    SELECT
        (SELECT count(*) FROM put), (SELECT count(*) FROM parsed),
        (SELECT count(*) FROM parsed WHERE open_time < not_before)
    INTO stored, given, expired;
    revised := 0;
    duplicate := given - expired - stored;

    -- A revision tells what [low, high) is now: rows that it lacks are gone. The gateway puts at most one into a batch,
    -- as the last of it.
    SELECT o.* INTO told FROM jsonb_to_recordset(offers) AS o (
        n int, category text, kind text, symbol text, interval text, low bigint, high bigint, revised boolean
    ) WHERE o.revised;
    IF FOUND THEN
        IF told.n <> ALL (spoilt) THEN
            DELETE FROM bybit_kline_audit AS known
            WHERE (known.category, known.kind, known.symbol, known.interval)
                    = (told.category, told.kind, told.symbol, told.interval)
                AND known.open_time >= told.low AND known.open_time < told.high
                AND NOT EXISTS (
                    SELECT FROM pg_temp.bybit_kline_staging AS s
                    WHERE s.offer = told.n AND split_part(s.candle, '"', 2)::bigint = known.open_time
                );
            GET DIAGNOSTICS gone = ROW_COUNT;
        END IF;
        WITH parsed AS MATERIALIZED (
            SELECT f, f[1]::bigint AS open_time
            FROM pg_temp.bybit_kline_staging AS s
            CROSS JOIN LATERAL string_to_array(substr(s.candle, 3, length(s.candle) - 4), '","') AS f
            WHERE s.offer = told.n
        ), put AS (
            INSERT INTO bybit_kline_audit AS known
                (category, kind, symbol, interval, open_time, open, high, low, close, volume, turnover)
            SELECT DISTINCT ON (open_time)
                told.category, told.kind, told.symbol, told.interval,
                open_time, f[2], f[3], f[4], f[5], f[6], f[7]
            FROM parsed WHERE open_time >= not_before ORDER BY open_time
            ON CONFLICT ON CONSTRAINT bybit_kline_audit_once DO UPDATE
            SET (open, high, low, close, volume, turnover, revised_at) = (
                EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume, EXCLUDED.turnover, now()
            )
            WHERE (known.open, known.high, known.low, known.close, known.volume, known.turnover) IS DISTINCT FROM
                (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume, EXCLUDED.turnover)
            RETURNING known.revised_at IS NULL AS new
        )
        SELECT
            (SELECT count(*) FROM put WHERE new), (SELECT count(*) FROM put WHERE NOT new),
            (SELECT count(*) FROM parsed WHERE open_time >= not_before),
            (SELECT count(*) FROM parsed WHERE open_time < not_before)
        INTO added, changed, given, late;
        stored := stored + added;
        revised := changed + gone;
        duplicate := duplicate + given - added - changed;
        expired := expired + late;
    END IF;

    INSERT INTO bybit_kline_coverage AS known (category, kind, symbol, interval, covered)
    SELECT o.category, o.kind, o.symbol, o.interval, range_agg(int8range(greatest(o.low, not_before), o.high))
    FROM jsonb_to_recordset(offers) AS o (
        n int, category text, kind text, symbol text, interval text, low bigint, high bigint
    )
    WHERE o.low < o.high AND not_before < o.high AND o.n <> ALL (spoilt)
    GROUP BY o.category, o.kind, o.symbol, o.interval
    ON CONFLICT (category, kind, symbol, interval) DO UPDATE SET covered = known.covered + EXCLUDED.covered
    WHERE NOT known.covered @> EXCLUDED.covered;

    TRUNCATE pg_temp.bybit_kline_staging;
END
$$;

-- Deletes at most so many candles of a series that open before an instant, the oldest first. The coverage goes with
-- the first of them: it never tells of what is not there any more.
CREATE FUNCTION bybit_archive_forget(
    of_category text, of_kind text, of_symbol text, of_interval text, before bigint, at_most int
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    deleted bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1652122228, 1);
    UPDATE bybit_kline_coverage SET covered = covered - int8multirange(int8range(NULL, before))
    WHERE (category, kind, symbol, interval) = (of_category, of_kind, of_symbol, of_interval)
        AND lower(covered) < before;
    DELETE FROM bybit_kline_coverage
    WHERE (category, kind, symbol, interval) = (of_category, of_kind, of_symbol, of_interval) AND isempty(covered);
    WITH oldest AS (
        SELECT open_time FROM bybit_kline_audit
        WHERE (category, kind, symbol, interval) = (of_category, of_kind, of_symbol, of_interval)
            AND open_time < before
        ORDER BY open_time LIMIT at_most
    )
    DELETE FROM bybit_kline_audit AS known USING oldest
    WHERE (known.category, known.kind, known.symbol, known.interval) = (of_category, of_kind, of_symbol, of_interval)
        AND known.open_time = oldest.open_time;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;
