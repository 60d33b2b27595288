-- How far each table is offloaded, who is at it, and what was done.
-- The truth is the token inside Iceberg; these rows are its copy and the log of the work.

create table if not exists offload_watermarks (
    table_name    text        primary key,
    token         text,                          -- the last token seen committed, as in Iceberg
    epoch         bigint      not null default 0, -- grows with every claim; an older epoch is void
    holder        text,                          -- host and process of the claim, null when free
    claimed_at    timestamptz,
    lease_until   timestamptz,                   -- after it, a claim can be taken over
    intent        jsonb,                         -- the batch under way: range, rows, checksums, path
    updated_at    timestamptz not null default now()
);

create table if not exists offload_batches (
    table_name    text        not null,
    batch         text        not null,
    epoch         bigint      not null,
    lower_token   text,
    upper_token   text        not null,
    partitions    jsonb       not null,          -- Iceberg partitions with rows and checksum
    row_count     bigint      not null,
    file_count    integer     not null,
    byte_count    bigint      not null,
    started_at    timestamptz not null,
    committed_at  timestamptz not null,
    snapshot_id   bigint      not null,
    recorded_at   timestamptz not null default now(),
    primary key (table_name, snapshot_id)
);

create index if not exists offload_batches_by_time on offload_batches (table_name, recorded_at);

create table if not exists audits (
    table_name        text        not null,
    partition         text        not null,      -- day, month or year of the Iceberg partition
    audited_at        timestamptz not null,
    clickhouse_rows   bigint      not null,
    iceberg_rows      bigint      not null,
    equal             boolean     not null,
    primary key (table_name, partition, audited_at)
);
