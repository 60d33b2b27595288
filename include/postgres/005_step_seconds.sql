-- Seconds of each step of a batch: planned, unloaded, verified, committed. Null where the run died.

alter table offload_batches add column if not exists step_seconds jsonb;
