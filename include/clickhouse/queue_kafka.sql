-- The topic of one exchange, read by ClickHouse itself. A message that is no JSON arrives with
-- _error and _raw_message set and goes on to the dead letters like any other bad one.
-- A block ends after a quarter of a second (ClickHouse's own default is 7.5): trades stay fresh, and
-- Bronze gets at most four parts a second from each consumer.

create table if not exists {database}.{queue}
(
    message String comment 'One raw message of the exchange, JSON'
)
engine = Kafka
settings
    kafka_broker_list = {broker},
    kafka_topic_list = {topic},
    kafka_group_name = {consumer_group},
    kafka_format = 'JSONAsString',
    kafka_num_consumers = {consumers},
    kafka_handle_error_mode = 'stream',
    kafka_flush_interval_ms = 250,
    kafka_poll_timeout_ms = 100
comment 'Topic of raw messages';
