-- The topic of one exchange, read by ClickHouse itself. A message that is no JSON arrives with
-- _error and _raw_message set and goes on to the dead letters like any other bad one.

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
    kafka_handle_error_mode = 'stream'
comment 'Topic of raw messages';
