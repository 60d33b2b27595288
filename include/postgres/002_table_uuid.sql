-- Which Iceberg table a watermark belongs to: one that was dropped and made anew has another UUID.

alter table offload_watermarks add column if not exists table_uuid text;
