-- Messages that could not become a trade, of every exchange, as they came. Nothing else is lost
-- on the way to Bronze: look here first when a trade is missing.

create table if not exists {database}.dead_letters
(
    exchange LowCardinality(String) comment 'Exchange, as named in exchanges.yaml',
    topic LowCardinality(String) comment 'Kafka topic of the message',
    kafka_partition UInt16 comment 'Partition of the message in its topic',
    kafka_offset UInt64 comment 'Offset of the message in its partition',
    raw_message String comment 'The message, byte for byte',
    reason String comment 'What is wrong with it; of several trades in one message, which one',
    ingestion_timestamp DateTime64(3, 'UTC') default now64(3)
        comment 'When the message reached ClickHouse, UTC',
    arrival_rank UInt64
        materialized toUInt64(9223372036854775807 - toUnixTimestamp64Milli(ingestion_timestamp))
        comment 'The earlier the higher: of a replayed message the first arrival stays'
)
engine = ReplacingMergeTree(arrival_rank)
order by (exchange, topic, kafka_partition, kafka_offset, reason)
partition by toYYYYMM(ingestion_timestamp)
comment 'Messages that could not become a trade, with the reason';
