-- Run once by the image of PostgreSQL, on an empty volume. The database k2 (watermarks) is the
-- image's own; these two hold the Iceberg catalog and Airflow's metadata.
create database lake;
create database airflow;
