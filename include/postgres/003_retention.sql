-- What retention dropped from ClickHouse, written down before it is dropped, and what it kept.

create table if not exists retention_drops (
    table_name    text        not null,
    ingested_on   date        not null,          -- the partition in ClickHouse
    checked_at    timestamptz not null,          -- ClickHouse's clock, when both sides were equal
    partitions    jsonb       not null,          -- Iceberg partitions with rows and checksum
    positions     jsonb       not null,          -- highest position of each log partition
    newest_block  bigint      not null,          -- of the parts that were checked; later ones are above
    state         text        not null default 'dropping'
        check (state in ('dropping', 'returning', 'dropped')),
    changed_at    timestamptz not null default now(),
    primary key (table_name, ingested_on, checked_at)
);

create table if not exists retention_kept (
    table_name    text        not null,
    ingested_on   date        not null,
    reason        text        not null,
    detail        text        not null,
    checked_on    date        not null,
    primary key (table_name, ingested_on)
);
