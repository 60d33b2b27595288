-- Bronze of Binance: the trade and aggTrade streams, plain or in the envelope of a combined stream
-- (https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams).
--
--   trades_binance_queue -> trades_binance_parsed
--     a block of plain trades     -> bronze_trades_binance
--     a block with anything else  -> trades_binance_unclear -> trades_binance_checked
--                                      -> bronze_trades_binance
--                                      -> dead_letters
--
-- Every insert plans the views that it passes anew, which costs more than reading a thousand messages.
-- So what nearly every block is takes a short way, and the long one is planned only for what gets there.
-- A block takes one of them, whole: it lands as one part, and nothing gets lost between two views that
-- judge differently. On the long way right messages go on to Bronze, wrong ones to the dead letters.
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
-- Small parts come several times a second; merged by five, all rows would be written anew each time.
settings merge_selector_base = 20
comment 'Trades of Binance as they came, keyed by their place in the log';

create table if not exists {database}.trades_binance_unclear
(
    message String comment 'The message as the queue gave it',
    _topic LowCardinality(String) comment 'Kafka topic',
    _partition UInt64 comment 'Partition of the message in its topic',
    _offset UInt64 comment 'Offset of the message in its partition',
    _error String comment 'Why it could not be read; empty for a readable message',
    _raw_message String comment 'The message, where it could not be read as JSON'
)
engine = Null
comment 'Blocks of Binance in which a message has to be looked at closely; passes through';

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
    messages as (
        select
            _topic as topic,
            _partition as kafka_partition,
            _offset as kafka_offset,
            _error as engine_error,
            if(_error = '', message, _raw_message) as raw_message
        from {database}.trades_binance_unclear
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
            ) as marked_message,
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
            ) as disguised_message
        from messages
    ),
    extracted as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            engine_error,
            raw_message,
            disguised_message,
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
            disguised_message,
            fields.e as event_type,
            fields.s as symbol,
            fields.T as trade_text,
            fields.E as event_text,
            toString(fields.m) as is_buyer_maker,
            fields.p as price_text,
            fields.q as quantity_text,
            if(event_type = 'aggTrade', fields.a, fields.t) as id_text,
            toDecimal64OrZero(ifNull(price_text, ''), 8) as price,
            toDecimal64OrZero(ifNull(quantity_text, ''), 8) as quantity,
            roundBankers(toDecimal128(price, 8) * quantity, 8) as volume,
            -- Null where a field is missing, or where what is named in its place is so.
            [
                event_type,
                symbol,
                id_text,
                trade_text,
                event_text,
                if(
                    disguised_message != ''
                    and arrayExists(
                        key -> JSONType(disguised_message, key) = 'String',
                        [if(event_type = 'aggTrade', 'a', 't'), 'T', 'E']
                    ),
                    null,
                    ''
                ),
                is_buyer_maker,
                price_text,
                quantity_text,
                if(volume >= 10000000000, null, '')
            ] as texts
        from extracted
    ),
    checked as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            raw_message,
            symbol,
            id_text,
            trade_text,
            event_text,
            is_buyer_maker,
            price,
            quantity,
            volume,
            multiIf(
                engine_error != '', concat('cannot be read: ', engine_error),
                not isValidJSON(raw_message), 'is not valid JSON',
                not match(raw_message, '^[ \\t\\r\\n]*\\{'), 'is not a JSON object',
                -- Nearly every message ends here, as it plainly is a trade.
                volume > 0
                and volume < 10000000000
                and disguised_message = ''
                and match(
                    concat(
                        event_type, ' ', symbol, ' ', id_text, ' ', trade_text, ' ', event_text,
                        ' ', is_buyer_maker, ' ', price_text, ' ', quantity_text
                    ),
                    concat(
                        '^(trade|aggTrade) [0-9A-Z]{1,20} #[0-9]{1,18}',
                        '( #(1[3-9]|[23][0-9])[0-9]{11}([0-9]{3})?){2}',
                        ' (true|false)( [0-9]{1,10}(\\.[0-9]{1,8})?){2}$'
                    )
                ),
                '',
                -- The first thing that is wrong. What ends with a colon is followed by the text.
                arrayFirst(
                    problem -> problem != '',
                    arrayMap(
                        (name, text, wrong) -> multiIf(
                            wrong = '', '',
                            not endsWith(wrong, ': '), concat(name, wrong),
                            startsWith(text, '#'), concat(name, wrong, substring(text, 2)),
                            concat(name, wrong, '"', text, '"')
                        ),
                        [
                            'event type (e)',
                            'symbol (s)',
                            if(event_type = 'aggTrade', 'trade id (a)', 'trade id (t)'),
                            'trade time (T)',
                            'event time (E)',
                            'trade id or a time',
                            'buyer is maker (m)',
                            'price (p)',
                            'quantity (q)',
                            'price * quantity'
                        ],
                        arrayMap(text -> ifNull(text, ''), texts),
                        arrayMap(
                            (text, kind, absent) -> multiIf(
                                text is null,
                                absent,
                                kind = 'event' and text not in ('trade', 'aggTrade'),
                                ' is not trade or aggTrade: ',
                                kind = 'market'
                                and (
                                    not match(text, '^[^\\sa-z"#{}:,\\[\\]]+$')
                                    or length(text) > 64
                                ),
                                ' is not a market: ',
                                kind in ('integer', 'time')
                                and (
                                    not match(text, '^#[0-9]{1,19}$')
                                    or toUInt64OrZero(substring(text, 2)) > 9223372036854775807
                                ),
                                ' is not a whole number of at most 63 bits: ',
                                -- Milliseconds, or microseconds if asked for.
                                kind = 'time'
                                and (
                                    length(text) not in (14, 17)
                                    or substring(text, 2, 13) < '1230768000000'
                                    or substring(text, 2, 13) >= '4102444800000'
                                ),
                                ' is not a time between 2009 and 2100: ',
                                kind != 'number',
                                '',
                                not match(text, '^-?[0-9]+(\\.[0-9]+)?$'),
                                ' is not a decimal text: ',
                                -- They hold every number that fits; within them Decimal256 with
                                -- 38 places is exact.
                                length(text) > 32,
                                ' has more than 32 characters: ',
                                ifNull(abs(toDecimal256OrNull(text, 38)) >= 10000000000, true),
                                ' does not fit Decimal(18, 8): ',
                                toDecimal256OrNull(text, 38) <= 0,
                                ' is not positive: ',
                                toDecimal256OrNull(text, 38) != toDecimal64OrZero(text, 8),
                                ' has more than 8 fractional digits: ',
                                ''
                            ),
                            texts,
                            [
                                'event', 'market', 'integer', 'time', 'time', '', '', 'number',
                                'number', ''
                            ],
                            [
                                ' is missing', ' is missing', ' is missing', ' is missing',
                                ' is missing', ' is a text', ' is not true or false',
                                ' is missing', ' is missing', ' does not fit Decimal(18, 8)'
                            ]
                        )
                    )
                )
            ) as reason
        from typed
    )
select
    topic,
    kafka_partition,
    kafka_offset,
    raw_message,
    toUInt32(reason = '') as trade_number,
    fromUnixTimestamp64Milli(toInt64OrZero(substring(ifNull(trade_text, ''), 2, 13)), 'UTC')
        as exchange_timestamp,
    fromUnixTimestamp64Milli(toInt64OrZero(substring(ifNull(event_text, ''), 2, 13)), 'UTC')
        as event_time,
    toUInt64OrZero(substring(ifNull(id_text, ''), 2)) as sequence_number,
    ifNull(symbol, '') as symbol,
    if(is_buyer_maker = 'true', 'sell', 'buy') as side,
    price,
    quantity,
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

create table if not exists {database}.trades_binance_parsed
(
    message String comment 'The message as the queue gave it',
    _topic LowCardinality(String) comment 'Kafka topic',
    _partition UInt64 comment 'Partition of the message in its topic',
    _offset UInt64 comment 'Offset of the message in its partition',
    _error String comment 'Why it could not be read; empty for a readable message',
    _raw_message String comment 'The message, where it could not be read as JSON',
    exchange_timestamp DateTime64(3, 'UTC') comment 'Time of the trade, UTC',
    event_time DateTime64(3, 'UTC') comment 'Time of the event, UTC',
    sequence_number UInt64 comment 'Trade id of Binance',
    symbol String comment 'Market as Binance writes it',
    side LowCardinality(String) comment 'Side of the taker: buy or sell',
    price Decimal(18, 8) comment 'Quote currency per unit of the base currency',
    quantity Decimal(18, 8) comment 'Units of the base currency',
    quote_volume Decimal(18, 8) comment 'price * quantity, rounded half-even to 8 digits',
    block_is_plain UInt8 comment '1 where every message of the block plainly is a trade'
)
engine = Null
comment 'Messages of Binance, read as plain trades; passes through';

create materialized view if not exists {database}.bronze_trades_binance_plain_mv
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
    _offset as kafka_offset,
    _partition as kafka_partition
from {database}.trades_binance_parsed
where block_is_plain
comment 'Blocks of plain trades go to Bronze';

create materialized view if not exists {database}.trades_binance_unclear_mv
to {database}.trades_binance_unclear
as
select
    message,
    _topic,
    _partition,
    _offset,
    _error,
    _raw_message
from {database}.trades_binance_parsed
where not block_is_plain
comment 'Blocks in which a message is not plain are checked, whole';

create materialized view if not exists {database}.trades_binance_parsed_mv
to {database}.trades_binance_parsed
as
with parsed as (
    select
        message,
        _topic,
        _partition,
        _offset,
        _error,
        _raw_message,
        JSONExtract(
            if(startsWith(message, '{"stream"'), JSONExtractRaw(message, 'data'), message),
            'Tuple(
                e String, E String, s String, t UInt64, a UInt64, p String, q String, T String,
                m Bool
            )'
        ) as fields,
        if(fields.e = 'trade', fields.t, fields.a) as sequence_number,
        toDecimal64OrZero(fields.p, 8) as price,
        toDecimal64OrZero(fields.q, 8) as quantity,
        roundBankers(toDecimal128(price, 8) * quantity, 8) as volume,
        -- What is no valid JSON has no volume.
        volume > 0
        and volume < 10000000000
        and sequence_number > 0
        and match(
            message,
            concat(
                '^(\\{"stream":"[0-9a-zA-Z@_]{1,64}","data":)?',
                '\\{"e":"(trade|aggTrade)","E":(1[3-9]|[23][0-9])[0-9]{11}([0-9]{3})?,',
                '"s":"[0-9A-Z]{1,20}","[at]":[0-9]{1,18},',
                '"p":"[0-9]{1,10}(\\.[0-9]{1,8})?","q":"[0-9]{1,10}(\\.[0-9]{1,8})?",',
                '("[abfl]":[0-9]{1,18},)*"T":(1[3-9]|[23][0-9])[0-9]{11}([0-9]{3})?,',
                '"m":(true|false)(,"M":(true|false))?\\}{1,2}$'
            )
        ) as is_plain
    from {database}.trades_binance_queue
)
select
    message,
    _topic,
    _partition,
    _offset,
    _error,
    _raw_message,
    -- Milliseconds, or microseconds if asked for.
    fromUnixTimestamp64Milli(toInt64OrZero(substring(fields.T, 1, 13)), 'UTC')
        as exchange_timestamp,
    fromUnixTimestamp64Milli(toInt64OrZero(substring(fields.E, 1, 13)), 'UTC') as event_time,
    sequence_number,
    fields.s as symbol,
    if(fields.m, 'sell', 'buy') as side,
    price,
    quantity,
    toDecimal64(if(is_plain, volume, 0), 8) as quote_volume,
    min(is_plain) over () as block_is_plain
from parsed
comment 'Reads the messages of Binance as plain trades, and says whether all of a block are';
