-- The databases, and who may do what in them. For psql, as the owner of the server and connected to
-- the database k2; every run brings the same result, with the passwords that are in the environment
-- by then. See docs/security.md.
\set ON_ERROR_STOP on
\getenv airflow_password POSTGRES_AIRFLOW_PASSWORD
\getenv offload_password POSTGRES_OFFLOAD_PASSWORD
\getenv reader_password POSTGRES_READER_PASSWORD

-- No statement of this session reaches the server's log: some hold a password.
set log_statement = 'none';
set log_min_error_statement = 'panic';
set log_min_duration_statement = -1;

select format('create role %I login', name)
from unnest(array['k2_airflow', 'k2_offload', 'k2_reader']) as name
where name not in (select rolname from pg_roles)
\gexec

alter role k2_airflow password :'airflow_password';
alter role k2_offload password :'offload_password';
alter role k2_reader password :'reader_password';
alter role k2_reader set default_transaction_read_only = on;
alter role k2_reader set statement_timeout = '60s';

select format('create database %I', name)
from unnest(array['lake', 'airflow']) as name
where name not in (select datname from pg_database)
\gexec

revoke all on database k2, lake, airflow, postgres from public;
grant connect on database k2, lake to k2_offload, k2_reader;
-- Airflow makes and migrates its own tables.
alter database airflow owner to k2_airflow;

-- Watermarks, batch history, audits: `k2 init` makes the tables, as the owner.
grant select, insert, update, delete on all tables in schema public to k2_offload;
grant select on all tables in schema public to k2_reader;
alter default privileges in schema public
    grant select, insert, update, delete on tables to k2_offload;
alter default privileges in schema public grant select on tables to k2_reader;

-- The Iceberg catalog.
\connect lake
grant select, insert, update, delete on all tables in schema public to k2_offload;
grant select on all tables in schema public to k2_reader;
alter default privileges in schema public
    grant select, insert, update, delete on tables to k2_offload;
alter default privileges in schema public grant select on tables to k2_reader;
