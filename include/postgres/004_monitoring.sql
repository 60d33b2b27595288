-- What monitoring reads at every scrape, so that it need not look through the history: what the runs
-- of each table moved in all, how they ended, and which partitions differ now.

do $$
begin
    if to_regclass('offload_totals') is null then
        create table offload_totals (
            table_name    text             primary key,
            batches       bigint           not null default 0,
            row_count     bigint           not null default 0,
            byte_count    bigint           not null default 0,
            seconds       double precision not null default 0, -- from plan to commit
            successes     bigint           not null default 0, -- runs that ended well, also without new rows
            failures      bigint           not null default 0, -- runs that stopped with an error
            succeeded_at  timestamptz,
            failed_at     timestamptz
        );
        insert into offload_totals (table_name, batches, row_count, byte_count, seconds)
        select
            table_name,
            count(*),
            sum(row_count),
            sum(byte_count),
            sum(greatest(extract(epoch from committed_at - started_at), 0))
        from offload_batches
        group by table_name;
    end if;

    if to_regclass('audit_differences') is null then
        create table audit_differences (
            table_name       text        not null,
            partition        text        not null,
            audited_at       timestamptz not null,   -- the last audit that found it different
            clickhouse_rows  bigint      not null,
            iceberg_rows     bigint      not null,
            primary key (table_name, partition)
        );
        insert into audit_differences
        select table_name, partition, audited_at, clickhouse_rows, iceberg_rows
        from (
            select distinct on (table_name, partition) *
            from audits
            order by table_name, partition, audited_at desc
        ) as newest
        where not equal;
    end if;
end
$$;

create index if not exists audits_by_time on audits (table_name, audited_at);
