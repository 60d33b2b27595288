-- Bronze of Binance: the trade and aggTrade streams, plain or in the envelope of a combined stream
-- (https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams).
--
--   trades_binance_queue -> trades_binance_checked -> bronze_trades_binance
--                                                  -> dead_letters
--
-- One view reads each message once and says what is wrong with it. Right ones go on to Bronze,
-- wrong ones to the dead letters: nothing gets lost between two views that judge differently.
-- A topic carries trades or aggregate trades of a market, not both: their ids are not comparable.

create table if not exists {database}.bronze_trades_binance -- noqa: PRS
(
    exchange_timestamp DateTime64(3, 'UTC')
        comment 'Time of the trade (T), UTC; microseconds are cut to milliseconds',
    sequence_number UInt64 comment 'Trade id (t); of an aggregate trade its own id (a)',
    symbol String comment 'Market as Binance writes it, such as BTCUSDT',
    side LowCardinality(String) comment 'Side of the taker: buy or sell',
    price Decimal(18, 8)
        comment 'Quote currency per unit of the base currency, every digit as sent',
    quantity Decimal(18, 8) comment 'Units of the base currency, every digit as sent',
    quote_volume Decimal(18, 8)
        comment 'price * quantity in the quote currency; exact, then rounded half-even to 8 digits',
    event_time DateTime64(3, 'UTC')
        comment 'When Binance sent the message (E), UTC; microseconds are cut to milliseconds',
    kafka_offset UInt64 comment 'Offset of the message in its partition',
    kafka_partition UInt16 comment 'Partition of the message in its topic',
    ingestion_timestamp DateTime64(3, 'UTC') default now64(3)
        comment 'When the message reached ClickHouse, UTC; retention counts from here',
    arrival_rank UInt64
        materialized toUInt64(9223372036854775807 - toUnixTimestamp64Milli(ingestion_timestamp))
        comment 'The earlier the higher: of a replayed message the first arrival stays',
    index exchange_timestamp_minmax exchange_timestamp type minmax granularity 1,
    index ingestion_timestamp_minmax ingestion_timestamp type minmax granularity 1
)
engine = ReplacingMergeTree(arrival_rank)
-- The place in the log is the identity; one message may hold several trades.
order by (kafka_partition, kafka_offset, symbol, sequence_number)
-- A block of messages lands as one part, so its rows become visible together.
partition by toDate(ingestion_timestamp)
comment 'Trades of Binance as they came, keyed by their place in the log';

create table if not exists {database}.trades_binance_checked
(
    topic LowCardinality(String) comment 'Kafka topic of the message',
    kafka_partition UInt16 comment 'Partition of the message in its topic',
    kafka_offset UInt64 comment 'Offset of the message in its partition',
    raw_message String comment 'The message, byte for byte',
    trade_number UInt32 comment 'Which trade of the message, from 1; 0 is the message as a whole',
    exchange_timestamp DateTime64(3, 'UTC') comment 'Time of the trade, UTC',
    event_time DateTime64(3, 'UTC') comment 'Time of the event, UTC',
    sequence_number UInt64 comment 'Trade id of Binance',
    symbol String comment 'Market as Binance writes it',
    side LowCardinality(String) comment 'Side of the taker: buy or sell',
    price Decimal(18, 8) comment 'Quote currency per unit of the base currency',
    quantity Decimal(18, 8) comment 'Units of the base currency',
    quote_volume Decimal(18, 8) comment 'price * quantity, rounded half-even to 8 digits',
    reason String comment 'Why this is no trade; empty for a trade'
)
engine = Null
comment 'What the messages of Binance hold, each with what is wrong with it; passes through';

create materialized view if not exists {database}.bronze_trades_binance_mv
to {database}.bronze_trades_binance
as
select
    exchange_timestamp,
    sequence_number,
    symbol,
    side,
    price,
    quantity,
    quote_volume,
    event_time,
    kafka_offset,
    kafka_partition
from {database}.trades_binance_checked
where reason = ''
comment 'Right trades go to Bronze';

create materialized view if not exists {database}.bronze_trades_binance_dead_letters_mv
to {database}.dead_letters
as
select
    'binance' as exchange,
    topic,
    kafka_partition,
    kafka_offset,
    raw_message,
    reason
from {database}.trades_binance_checked
where reason != ''
comment 'Wrong messages go to the dead letters';

-- Numbers are marked while they are still text ("t":5 becomes "t":"#5"): a JSON parser would turn
-- large ones into doubles, and would take a number for a text and a text for a number.
-- Answers to a subscription ({"result":null,"id":1}) belong to the protocol and are skipped.
create materialized view if not exists {database}.trades_binance_checked_mv
to {database}.trades_binance_checked
as
with
    (text) -> if(startsWith(text, '#'), substring(text, 2), concat('"', text, '"')) as as_sent,
    -- 32 characters hold every number that fits; within them Decimal256 with 38 places is exact.
    (number) -> assumeNotNull(toDecimal256OrNull(number, 38)) as exact,
    (name, number) -> multiIf(
        -- Nearly every number ends here, as it plainly fits; the others are looked at closely.
        match(ifNull(number, ''), '^[0-9]{1,10}(\\.[0-9]{1,8})?$')
        and toDecimal64OrZero(ifNull(number, ''), 8) > 0,
        '',
        number is null,
        concat(name, ' is missing'),
        not match(assumeNotNull(number), '^-?[0-9]+(\\.[0-9]+)?$'),
        concat(name, ' is not a decimal text: ', as_sent(assumeNotNull(number))),
        length(assumeNotNull(number)) > 32,
        concat(name, ' has more than 32 characters: ', as_sent(assumeNotNull(number))),
        toDecimal256OrNull(number, 38) is null or abs(exact(number)) >= 10000000000,
        concat(name, ' does not fit Decimal(18, 8): ', as_sent(assumeNotNull(number))),
        exact(number) <= 0,
        concat(name, ' is not positive: ', as_sent(assumeNotNull(number))),
        exact(number) != toDecimal64OrZero(assumeNotNull(number), 8),
        concat(name, ' has more than 8 fractional digits: ', as_sent(assumeNotNull(number))),
        ''
    ) as number_problem,
    (name, number) -> multiIf(
        number is null,
        concat(name, ' is missing'),
        not match(assumeNotNull(number), '^#[0-9]{1,19}$')
        or toUInt64OrZero(substring(assumeNotNull(number), 2)) > 9223372036854775807,
        concat(name, ' is not a whole number of at most 63 bits: ', as_sent(assumeNotNull(number))),
        ''
    ) as integer_problem,
    -- Binance sends milliseconds, or microseconds if asked to: told apart by size until 5138.
    (number) -> toInt64OrZero(substring(assumeNotNull(number), 2)) as whole,
    (number) -> if(whole(number) >= 100000000000000, intDiv(whole(number), 1000), whole(number))
        as milliseconds,
    (name, number) -> multiIf(
        integer_problem(name, number) != '',
        integer_problem(name, number),
        milliseconds(number) < 1230768000000 or milliseconds(number) >= 4102444800000,
        concat(name, ' is not a time between 2009 and 2100: ', as_sent(assumeNotNull(number))),
        ''
    ) as time_problem,
    messages as (
        select
            _topic as topic,
            _partition as kafka_partition,
            _offset as kafka_offset,
            _error as engine_error,
            if(_error = '', message, _raw_message) as raw_message
        from {database}.trades_binance_queue
    ),
    marked as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            engine_error,
            raw_message,
            -- A quote that follows a letter and precedes a colon ends a key: never inside a text.
            replaceRegexpAll(
                raw_message,
                '([a-zA-Z]")[ \\t\\r\\n]*:[ \\t\\r\\n]*(-?[0-9][0-9.eE+-]*)',
                '\\1:"#\\2"'
            ) as marked_message
        from messages
    ),
    extracted as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            engine_error,
            raw_message,
            -- A text that begins with # looks like a marked number: only such messages are parsed
            -- once more, for the kinds as sent.
            if(
                position(raw_message, '"#') > 0 or position(raw_message, '"\\u0023') > 0,
                if(
                    JSONType(raw_message, 'data') = 'Object',
                    JSONExtractRaw(raw_message, 'data'),
                    raw_message
                ),
                ''
            ) as disguised_message,
            JSONExtract(
                if(
                    position(marked_message, '"data"') > 0
                    and JSONType(marked_message, 'data') = 'Object',
                    JSONExtractRaw(marked_message, 'data'),
                    marked_message
                ),
                'Tuple(
                    e Nullable(String), E Nullable(String), s Nullable(String),
                    t Nullable(String), a Nullable(String), p Nullable(String),
                    q Nullable(String), T Nullable(String), m Nullable(Bool)
                )'
            ) as fields
        from marked
    ),
    typed as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            engine_error,
            raw_message,
            fields.e as event_type,
            fields.s as symbol,
            fields.E as event_text,
            fields.T as trade_text,
            fields.m as is_buyer_maker,
            if(fields.e = 'aggTrade', fields.a, fields.t) as id_text,
            if(fields.e = 'aggTrade', 'a', 't') as id_key,
            concat('trade id (', id_key, ')') as id_name,
            integer_problem(id_name, id_text) as id_problem,
            'String' in (
                JSONType(disguised_message, id_key),
                JSONType(disguised_message, 'T'),
                JSONType(disguised_message, 'E')
            ) as is_disguised,
            time_problem('trade time (T)', fields.T) as trade_problem,
            time_problem('event time (E)', fields.E) as event_problem,
            number_problem('price (p)', fields.p) as price_problem,
            number_problem('quantity (q)', fields.q) as quantity_problem,
            toDecimal64OrNull(fields.p, 8) as price,
            toDecimal64OrNull(fields.q, 8) as quantity,
            roundBankers(toDecimal128(ifNull(price, 0), 8) * ifNull(quantity, 0), 8) as volume
        from extracted
    ),
    checked as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            raw_message,
            event_type,
            symbol,
            event_text,
            trade_text,
            is_buyer_maker,
            is_disguised,
            id_text,
            price,
            quantity,
            volume,
            multiIf(
                engine_error != '', concat('cannot be read: ', engine_error),
                not isValidJSON(raw_message), 'is not valid JSON',
                not match(raw_message, '^[ \\t\\r\\n]*\\{'), 'is not a JSON object',
                event_type is null, 'event type (e) is missing',
                event_type not in ('trade', 'aggTrade'),
                concat(
                    'event type (e) is not trade or aggTrade: ',
                    as_sent(assumeNotNull(event_type))
                ),
                symbol is null, 'symbol (s) is missing',
                not match(assumeNotNull(symbol), '^[^\\sa-z"#{}:,\\[\\]]+$')
                or length(assumeNotNull(symbol)) > 64,
                concat('symbol (s) is not a market: ', as_sent(assumeNotNull(symbol))),
                id_problem != '', id_problem,
                trade_problem != '', trade_problem,
                event_problem != '', event_problem,
                is_disguised, 'trade id or a time is a text',
                is_buyer_maker is null, 'buyer is maker (m) is not true or false',
                price_problem != '', price_problem,
                quantity_problem != '', quantity_problem,
                volume >= 10000000000, 'price * quantity does not fit Decimal(18, 8)',
                ''
            ) as reason
        from typed
    )
select
    topic,
    kafka_partition,
    kafka_offset,
    raw_message,
    toUInt32(reason = '') as trade_number,
    fromUnixTimestamp64Milli(if(reason = '', milliseconds(trade_text), 0), 'UTC')
        as exchange_timestamp,
    fromUnixTimestamp64Milli(if(reason = '', milliseconds(event_text), 0), 'UTC') as event_time,
    toUInt64OrZero(substring(ifNull(id_text, ''), 2)) as sequence_number,
    ifNull(symbol, '') as symbol,
    if(is_buyer_maker, 'sell', 'buy') as side,
    ifNull(price, 0) as price,
    ifNull(quantity, 0) as quantity,
    toDecimal64(if(reason = '', volume, 0), 8) as quote_volume,
    reason
from checked
where
    not (
        reason = 'event type (e) is missing'
        and JSONHas(raw_message, 'result')
        and JSONHas(raw_message, 'id')
    )
comment 'Reads the messages of Binance and says what is wrong with them';
