-- The embedded twin of a Kafka queue: what is inserted flows through the views and is not kept.
-- Its columns carry the names of the Kafka engine's virtual ones, so the same views read either.

create table if not exists {database}.{queue}
(
    message String comment 'One raw message of the exchange, JSON',
    _topic LowCardinality(String) comment 'Kafka topic',
    _partition UInt64 comment 'Partition of the message in its topic',
    _offset UInt64 comment 'Offset of the message in its partition',
    _timestamp_ms Nullable(DateTime64(3)) comment 'When the message was produced, UTC',
    _raw_message String comment 'The message, where it could not be read as JSON',
    _error String comment 'Why it could not be read; empty for a readable message'
)
engine = Null
comment 'Embedded twin of a topic of raw messages';
