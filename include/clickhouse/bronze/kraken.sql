-- Bronze of Kraken: the trade channel of the WebSocket API v2, one or several trades a message
-- (https://docs.kraken.com/api/docs/websocket-v2/trade).
--
--   trades_kraken_queue -> trades_kraken_checked -> bronze_trades_kraken
--                                                -> dead_letters
--
-- One view reads each message once and says what is wrong with it, trade by trade. Right trades go
-- on to Bronze, wrong ones to the dead letters: nothing gets lost between two views that judge
-- differently, and a bad trade does not take its neighbours with it.

create table if not exists {database}.bronze_trades_kraken -- noqa: PRS
(
    exchange_timestamp DateTime64(3, 'UTC')
        comment 'Time of the trade (timestamp), UTC; microseconds are cut to milliseconds',
    sequence_number UInt64 comment 'Trade id (trade_id)',
    symbol String comment 'Market as Kraken writes it, such as BTC/USD',
    side LowCardinality(String) comment 'Side of the taker: buy or sell',
    price Decimal(18, 8)
        comment 'Quote currency per unit of the base currency, every digit as sent',
    quantity Decimal(18, 8) comment 'Units of the base currency, every digit as sent',
    quote_volume Decimal(18, 8)
        comment 'price * quantity in the quote currency; exact, then rounded half-even to 8 digits',
    event_time DateTime64(3, 'UTC')
        comment 'Time of the trade once more: Kraken does not say when it sent the message',
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
comment 'Trades of Kraken as they came, keyed by their place in the log';

create table if not exists {database}.trades_kraken_checked
(
    topic LowCardinality(String) comment 'Kafka topic of the message',
    kafka_partition UInt16 comment 'Partition of the message in its topic',
    kafka_offset UInt64 comment 'Offset of the message in its partition',
    raw_message String comment 'The message, byte for byte',
    trade_number UInt32 comment 'Which trade of the message, from 1; 0 is the message as a whole',
    exchange_timestamp DateTime64(3, 'UTC') comment 'Time of the trade, UTC',
    event_time DateTime64(3, 'UTC') comment 'Time of the event, UTC',
    sequence_number UInt64 comment 'Trade id of Kraken',
    symbol String comment 'Market as Kraken writes it',
    side LowCardinality(String) comment 'Side of the taker: buy or sell',
    price Decimal(18, 8) comment 'Quote currency per unit of the base currency',
    quantity Decimal(18, 8) comment 'Units of the base currency',
    quote_volume Decimal(18, 8) comment 'price * quantity, rounded half-even to 8 digits',
    reason String comment 'Why this is no trade; empty for a trade'
)
engine = Null
comment 'What the messages of Kraken hold, each with what is wrong with it; passes through';

create materialized view if not exists {database}.bronze_trades_kraken_mv
to {database}.bronze_trades_kraken
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
from {database}.trades_kraken_checked
where reason = ''
comment 'Right trades go to Bronze';

create materialized view if not exists {database}.bronze_trades_kraken_dead_letters_mv
to {database}.dead_letters
as
select
    'kraken' as exchange,
    topic,
    kafka_partition,
    kafka_offset,
    raw_message,
    reason
from {database}.trades_kraken_checked
where reason != ''
comment 'Wrong messages go to the dead letters';

-- Kraken sends prices as JSON numbers, which a JSON parser would round to doubles. They are marked
-- while they are still text ("price":5e-05 becomes "price":"#5e-05") and keep every digit.
-- What the protocol itself says is no trade and is skipped: the heartbeat and status channels,
-- answers to requests that succeeded, a snapshot of a market without trades. Anything else, such
-- as another channel or a refused subscription, is a mistake someone wants to see: a dead letter.
create materialized view if not exists {database}.trades_kraken_checked_mv
to {database}.trades_kraken_checked
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
        not match(assumeNotNull(number), '^-?[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?$'),
        concat(name, ' is not a JSON number: ', assumeNotNull(number)),
        length(assumeNotNull(number)) > 32,
        concat(name, ' has more than 32 characters: ', assumeNotNull(number)),
        toDecimal256OrNull(number, 38) is null or abs(exact(number)) >= 10000000000,
        concat(name, ' does not fit Decimal(18, 8): ', assumeNotNull(number)),
        exact(number) <= 0,
        concat(name, ' is not positive: ', assumeNotNull(number)),
        exact(number) != toDecimal64OrZero(assumeNotNull(number), 8),
        concat(name, ' has more than 8 fractional digits: ', assumeNotNull(number)),
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
    messages as (
        select
            _topic as topic,
            _partition as kafka_partition,
            _offset as kafka_offset,
            _error as engine_error,
            if(_error = '', message, _raw_message) as raw_message
        from {database}.trades_kraken_queue
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
                '([a-z]")[ \\t\\r\\n]*:[ \\t\\r\\n]*(-?[0-9][0-9.eE+-]*)',
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
            JSONExtract(
                marked_message,
                'Tuple(
                    channel Nullable(String), type Nullable(String), method Nullable(String),
                    success Nullable(Bool), error Nullable(String),
                    data Array(Tuple(
                        symbol Nullable(String), side Nullable(String), price Nullable(String),
                        qty Nullable(String), trade_id Nullable(String), timestamp Nullable(String)
                    ))
                )'
            ) as fields
        from marked
    ),
    -- Without nulls, so that every condition on a message's fate is true or false.
    headed as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            engine_error,
            raw_message,
            ifNull(fields.channel, '') as channel,
            ifNull(fields.type, '') as type,
            ifNull(fields.method, '') as method,
            ifNull(fields.success, false) as success,
            ifNull(fields.error, 'no reason given') as error,
            fields.data as data,
            -- A text that begins with # looks like a marked number: only such messages are parsed
            -- once more, for the kinds as sent.
            if(
                position(raw_message, '"#') > 0 or position(raw_message, '"\\u0023') > 0,
                raw_message,
                ''
            ) as disguised_message,
            isValidJSON(raw_message) as is_json
        from extracted
    ),
    judged as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            raw_message,
            data,
            disguised_message,
            multiIf(
                engine_error != '', concat('cannot be read: ', engine_error),
                not is_json, 'is not valid JSON',
                not match(raw_message, '^[ \\t\\r\\n]*\\{'), 'is not a JSON object',
                channel = '' and method != '',
                concat('request refused (', method, '): ', error),
                channel = '', 'channel is missing',
                channel != 'trade', concat('channel is not trade: ', as_sent(channel)),
                type not in ('update', 'snapshot'),
                concat('type is not update or snapshot: ', as_sent(type)),
                empty(data), 'data is not a list of trades',
                ''
            ) as message_reason,
            engine_error = ''
            and is_json
            and (
                channel in ('heartbeat', 'status')
                or (channel = '' and (method = 'pong' or (method != '' and success)))
                or (
                    channel = 'trade'
                    and empty(data)
                    and JSONExtractRaw(raw_message, 'data') = '[]'
                )
            ) as is_protocol
        from headed
    ),
    trades as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            raw_message,
            message_reason,
            length(data) as trades_in_message,
            'String' in (
                JSONType(disguised_message, 'data', position, 'trade_id'),
                JSONType(disguised_message, 'data', position, 'price'),
                JSONType(disguised_message, 'data', position, 'qty')
            ) as is_disguised,
            position,
            trade.symbol as symbol,
            trade.side as side,
            trade.trade_id as id_text,
            trade.timestamp as time_text,
            as_sent(trade.price) as price_text,
            as_sent(trade.qty) as quantity_text,
            integer_problem('trade_id', id_text) as id_problem,
            number_problem('price', price_text) as price_problem,
            number_problem('qty', quantity_text) as quantity_problem,
            toDecimal64OrNull(price_text, 8) as price,
            toDecimal64OrNull(quantity_text, 8) as quantity,
            roundBankers(toDecimal128(ifNull(price, 0), 8) * ifNull(quantity, 0), 8) as volume,
            parseDateTime64BestEffortOrNull(time_text, 3, 'UTC') as trade_time
        from judged
        -- A message that is wrong as a whole is one row, of no trade.
        array join
            arrayResize(data, if(message_reason = '', length(data), 1)) as trade,
            arrayEnumerate(arrayResize(data, if(message_reason = '', length(data), 1)))
                as position
        where not is_protocol
    ),
    checked as (
        select
            topic,
            kafka_partition,
            kafka_offset,
            raw_message,
            message_reason,
            trades_in_message,
            is_disguised,
            position,
            symbol,
            side,
            id_text,
            price,
            quantity,
            volume,
            trade_time,
            multiIf(
                message_reason != '', message_reason,
                symbol is null, 'symbol is missing',
                not match(assumeNotNull(symbol), '^[^\\s"#{}:,/]+/[^\\s"#{}:,/]+$')
                or length(assumeNotNull(symbol)) > 64,
                concat('symbol is not a market: ', as_sent(assumeNotNull(symbol))),
                side is null, 'side is missing',
                side not in ('buy', 'sell'),
                concat('side is not buy or sell: ', as_sent(assumeNotNull(side))),
                id_problem != '', id_problem,
                time_text is null, 'timestamp is missing',
                not match(
                    assumeNotNull(time_text),
                    concat(
                        '^20[0-9]{2}-[01][0-9]-[0-3][0-9]',
                        'T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z$'
                    )
                )
                or trade_time is null,
                concat('timestamp is not a time in UTC: ', as_sent(assumeNotNull(time_text))),
                price_problem != '', price_problem,
                quantity_problem != '', quantity_problem,
                is_disguised, 'trade_id, price or qty is a text',
                volume >= 10000000000, 'price * qty does not fit Decimal(18, 8)',
                ''
            ) as problem
        from trades
    )
select
    topic,
    kafka_partition,
    kafka_offset,
    raw_message,
    if(message_reason = '', position, 0) as trade_number,
    ifNull(trade_time, toDateTime64(0, 3, 'UTC')) as exchange_timestamp,
    ifNull(trade_time, toDateTime64(0, 3, 'UTC')) as event_time,
    toUInt64OrZero(substring(ifNull(id_text, ''), 2)) as sequence_number,
    ifNull(symbol, '') as symbol,
    ifNull(side, '') as side,
    ifNull(price, 0) as price,
    ifNull(quantity, 0) as quantity,
    toDecimal64(if(problem = '', volume, 0), 8) as quote_volume,
    if(
        problem = '' or message_reason != '' or trades_in_message = 1,
        problem,
        concat('trade ', toString(position), ' of ', toString(trades_in_message), ': ', problem)
    ) as reason
from checked
comment 'Reads the messages of Kraken and says what is wrong with them';
