-- Messages that could not become a trade, of every exchange, as they came. Nothing else is lost
-- on the way to Bronze: look here first when a trade is missing.

create table if not exists {database}.dead_letters -- noqa: PRS
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
        comment 'The earlier the higher: of a replayed message the first arrival stays',
    index ingestion_timestamp_minmax ingestion_timestamp type minmax granularity 1
)
engine = ReplacingMergeTree(arrival_rank)
order by (exchange, topic, kafka_partition, kafka_offset, reason)
partition by toYYYYMM(ingestion_timestamp)
comment 'Messages that could not become a trade, with the reason';

-- Dead letters that were read again after a fix. A dead letter with a row that says done is settled;
-- its trades, if it had any, are in Bronze at the place that is named here. Their own place lies
-- behind what was offloaded, so they were given one that an offload still comes to.
create table if not exists {database}.dead_letter_replays
(
    exchange LowCardinality(String) comment 'Exchange of the dead letter',
    topic LowCardinality(String) comment 'Kafka topic of the dead letter',
    kafka_partition UInt16 comment 'Partition of the dead letter in its topic',
    kafka_offset UInt64 comment 'Offset of the dead letter in its partition',
    reason String comment 'Reason of the dead letter',
    replayed_partition UInt16 comment 'kafka_partition of its trades in Bronze',
    replayed_offset UInt64 comment 'kafka_offset of its trades in Bronze',
    state Enum8('planned' = 0, 'abandoned' = 1, 'done' = 2)
        comment 'planned: before its trades go to Bronze; done: they are there',
    recorded_at DateTime64(3, 'UTC') default now64(3) comment 'When this row was written, UTC',
    version UInt64 materialized replayed_offset * 4 + toUInt64(toInt8(state))
        comment 'A later plan wins over an earlier one, its end over its beginning'
)
engine = ReplacingMergeTree(version)
order by (exchange, topic, kafka_partition, kafka_offset, reason)
comment 'Dead letters that were read again, and the place of their trades in Bronze';
