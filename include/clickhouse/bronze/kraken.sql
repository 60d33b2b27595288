-- Bronze of Kraken: the trade channel of the WebSocket API v2, one or several trades a message
-- (https://docs.kraken.com/api/docs/websocket-v2/trade).
--
--   trades_kraken_queue -> trades_kraken_parsed
--     a block of plain trades     -> bronze_trades_kraken
--     a block with anything else  -> trades_kraken_unclear -> trades_kraken_checked
--                                      -> bronze_trades_kraken
--                                      -> dead_letters
--
-- Every insert plans the views that it passes anew, which costs more than reading a thousand messages.
-- So what nearly every block is takes a short way, and the long one is planned only for what gets there.
-- A block takes one of them, whole: it lands as one part, and nothing gets lost between two views that
-- judge differently. On the long way right messages go on to Bronze, wrong ones to the dead letters.
-- Trades of a message are judged one by one: a bad one does not take its neighbours with it.

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
-- Small parts come several times a second; merged by five, all rows would be written anew each time.
settings merge_selector_base = 20
comment 'Trades of Kraken as they came, keyed by their place in the log';

create table if not exists {database}.trades_kraken_unclear
(
    message String comment 'The message as the queue gave it',
    _topic LowCardinality(String) comment 'Kafka topic',
    _partition UInt64 comment 'Partition of the message in its topic',
    _offset UInt64 comment 'Offset of the message in its partition',
    _error String comment 'Why it could not be read; empty for a readable message',
    _raw_message String comment 'The message, where it could not be read as JSON'
)
engine = Null
comment 'Blocks of Kraken in which a message has to be looked at closely; passes through';

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

create materialized view if not exists {database}.trades_kraken_checked_mv
to {database}.trades_kraken_checked
as
with
    (text) -> if(startsWith(text, '#'), substring(text, 2), concat('"', text, '"')) as as_sent,
    messages as (
        select
            _topic as topic,
            _partition as kafka_partition,
            _offset as kafka_offset,
            _error as engine_error,
            if(_error = '', message, _raw_message) as raw_message
        from {database}.trades_kraken_unclear
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
            disguised_message,
            position,
            trade.symbol as symbol,
            trade.side as side,
            trade.trade_id as id_text,
            trade.timestamp as time_text,
            trade.price as price_text,
            trade.qty as quantity_text,
            toDecimal64OrZero(substring(ifNull(price_text, ''), 2), 8) as price,
            toDecimal64OrZero(substring(ifNull(quantity_text, ''), 2), 8) as quantity,
            roundBankers(toDecimal128(price, 8) * quantity, 8) as volume,
            parseDateTime64BestEffortOrNull(time_text, 3, 'UTC') as trade_time,
            -- Null where a field is missing, or where what is named in its place is so.
            [
                symbol,
                side,
                id_text,
                time_text,
                price_text,
                quantity_text,
                if(
                    disguised_message != ''
                    and arrayExists(
                        key -> JSONType(disguised_message, 'data', position, key) = 'String',
                        ['trade_id', 'price', 'qty']
                    ),
                    null,
                    ''
                ),
                if(volume >= 10000000000, null, '')
            ] as texts
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
                -- Nearly every trade ends here, as it plainly is right.
                volume > 0
                and volume < 10000000000
                and trade_time is not null
                and disguised_message = ''
                and match(
                    concat(
                        symbol, ' ', side, ' ', id_text, ' ', time_text, ' ', price_text, ' ',
                        quantity_text
                    ),
                    concat(
                        '^[0-9A-Z]{1,20}/[0-9A-Z]{1,20} (buy|sell) #[0-9]{1,18}',
                        ' 20[0-9]{2}-[01][0-9]-[0-3][0-9]',
                        'T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z',
                        '( #[0-9]{1,10}(\\.[0-9]{1,8})?){2}$'
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
                            concat(name, wrong, as_sent(text))
                        ),
                        [
                            'symbol',
                            'side',
                            'trade_id',
                            'timestamp',
                            'price',
                            'qty',
                            'trade_id, price or qty',
                            'price * qty'
                        ],
                        arrayMap(text -> ifNull(text, ''), texts),
                        arrayMap(
                            (text, kind, absent) -> multiIf(
                                text is null,
                                absent,
                                kind = 'market'
                                and (
                                    not match(text, '^[^\\s"#{}:,/]+/[^\\s"#{}:,/]+$')
                                    or length(text) > 64
                                ),
                                ' is not a market: ',
                                kind = 'side' and text not in ('buy', 'sell'),
                                ' is not buy or sell: ',
                                kind = 'integer'
                                and (
                                    not match(text, '^#[0-9]{1,19}$')
                                    or toUInt64OrZero(substring(text, 2)) > 9223372036854775807
                                ),
                                ' is not a whole number of at most 63 bits: ',
                                kind = 'time'
                                and (
                                    not match(
                                        text,
                                        concat(
                                            '^20[0-9]{2}-[01][0-9]-[0-3][0-9]',
                                            'T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]',
                                            '(\\.[0-9]{1,9})?Z$'
                                        )
                                    )
                                    or parseDateTime64BestEffortOrNull(text, 3, 'UTC') is null
                                ),
                                ' is not a time in UTC: ',
                                kind != 'number',
                                '',
                                not match(text, '^#-?[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?$'),
                                ' is not a JSON number: ',
                                -- They hold every number that fits; within them Decimal256 with
                                -- 38 places is exact.
                                length(text) > 33,
                                ' has more than 32 characters: ',
                                ifNull(
                                    abs(toDecimal256OrNull(substring(text, 2), 38)) >= 10000000000,
                                    true
                                ),
                                ' does not fit Decimal(18, 8): ',
                                toDecimal256OrNull(substring(text, 2), 38) <= 0,
                                ' is not positive: ',
                                toDecimal256OrNull(substring(text, 2), 38)
                                != toDecimal64OrZero(substring(text, 2), 8),
                                ' has more than 8 fractional digits: ',
                                ''
                            ),
                            texts,
                            ['market', 'side', 'integer', 'time', 'number', 'number', '', ''],
                            [
                                ' is missing', ' is missing', ' is missing', ' is missing',
                                ' is missing', ' is missing', ' is a text',
                                ' does not fit Decimal(18, 8)'
                            ]
                        )
                    )
                )
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
    price,
    quantity,
    toDecimal64(if(problem = '', volume, 0), 8) as quote_volume,
    if(
        problem = '' or message_reason != '' or trades_in_message = 1,
        problem,
        concat('trade ', toString(position), ' of ', toString(trades_in_message), ': ', problem)
    ) as reason
from checked
comment 'Reads the messages of Kraken and says what is wrong with them';

create table if not exists {database}.trades_kraken_parsed
(
    message String comment 'The message as the queue gave it',
    _topic LowCardinality(String) comment 'Kafka topic',
    _partition UInt64 comment 'Partition of the message in its topic',
    _offset UInt64 comment 'Offset of the message in its partition',
    _error String comment 'Why it could not be read; empty for a readable message',
    _raw_message String comment 'The message, where it could not be read as JSON',
    trade_number UInt64 comment 'Which trade of the message, from 1; 0 is a message without trades',
    exchange_timestamp DateTime64(3, 'UTC') comment 'Time of the trade, UTC',
    event_time DateTime64(3, 'UTC') comment 'Time of the event, UTC',
    sequence_number UInt64 comment 'Trade id of Kraken',
    symbol String comment 'Market as Kraken writes it',
    side LowCardinality(String) comment 'Side of the taker: buy or sell',
    price Decimal(18, 8) comment 'Quote currency per unit of the base currency',
    quantity Decimal(18, 8) comment 'Units of the base currency',
    quote_volume Decimal(18, 8) comment 'price * quantity, rounded half-even to 8 digits',
    block_is_plain UInt8 comment '1 where every message of the block plainly is one of trades or a heartbeat'
)
engine = Null
comment 'Messages of Kraken, read as plain trades; passes through';

create materialized view if not exists {database}.bronze_trades_kraken_plain_mv
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
    _offset as kafka_offset,
    _partition as kafka_partition
from {database}.trades_kraken_parsed
where block_is_plain and trade_number > 0
comment 'Blocks of plain trades go to Bronze';

create materialized view if not exists {database}.trades_kraken_unclear_mv
to {database}.trades_kraken_unclear
as
select
    message,
    _topic,
    _partition,
    _offset,
    _error,
    _raw_message
from {database}.trades_kraken_parsed
where not block_is_plain and trade_number <= 1
comment 'Blocks in which a message is not plain are checked, whole';

create materialized view if not exists {database}.trades_kraken_parsed_mv
to {database}.trades_kraken_parsed
as
with
    messages as (
        select
            message,
            _topic,
            _partition,
            _offset,
            _error,
            _raw_message,
            JSONExtract(
                message,
                'data',
                'Array(Tuple(
                    symbol String, side String, price String, qty String, trade_id UInt64,
                    timestamp String
                ))'
            ) as data,
            match(
                message,
                concat(
                    '^\\{"channel":"trade","type":"(update|snapshot)","data":\\[',
                    '(\\{"symbol":"[0-9A-Z]{1,20}/[0-9A-Z]{1,20}","side":"(buy|sell)",',
                    '"price":([0-9]{1,7}(\\.[0-9]{1,8})?|[0-9]{8,10}(\\.[0-9]{1,5})?),',
                    '"qty":([0-9]{1,7}(\\.[0-9]{1,8})?|[0-9]{8,10}(\\.[0-9]{1,5})?),',
                    '"ord_type":"[a-z]{1,20}","trade_id":[0-9]{1,18},',
                    '"timestamp":"20[0-9]{2}-[01][0-9]-[0-3][0-9]',
                    'T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z"\\}[],])+\\}$'
                )
            ) as looks_plain
        from {database}.trades_kraken_queue
    ),
    parsed as (
        select
            message,
            _topic,
            _partition,
            _offset,
            _error,
            _raw_message,
            trade_number,
            trade,
            parseDateTime64BestEffortOrZero(trade.timestamp, 3, 'UTC') as trade_time,
            -- Numbers pass a double on their way; the 15 digits of the pattern all survive that.
            toDecimal64OrZero(trade.price, 8) as price,
            toDecimal64OrZero(trade.qty, 8) as quantity,
            roundBankers(toDecimal128(price, 8) * quantity, 8) as volume,
            -- What is no valid JSON has no volume.
            message = '{"channel":"heartbeat"}'
            or (
                looks_plain
                and volume > 0
                and volume < 10000000000
                and trade_time > toDateTime64(0, 3, 'UTC')
            ) as is_plain
        from messages
        left array join
            data as trade,
            arrayEnumerate(data) as trade_number
    )
select
    message,
    _topic,
    _partition,
    _offset,
    _error,
    _raw_message,
    trade_number,
    trade_time as exchange_timestamp,
    trade_time as event_time,
    trade.trade_id as sequence_number,
    trade.symbol as symbol,
    trade.side as side,
    price,
    quantity,
    toDecimal64(if(is_plain, volume, 0), 8) as quote_volume,
    min(is_plain) over () as block_is_plain
from parsed
comment 'Reads the messages of Kraken as plain trades, and says whether all of a block are';
