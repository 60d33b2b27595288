# One image for everything that is Python: Airflow's services, the Spark drivers that its tasks
# start, and `k2`. It installs exactly requirements.txt, the set of versions that the tests run
# with; the official Airflow image would bring a second set of its own.
FROM python:3.11.14-slim-bookworm

# ClickHouse's image runs its server as 101:101. The same ids here: both write below the lake, and
# either may remove what the other wrote.
RUN groupadd --gid 101 k2 \
    && useradd --uid 101 --gid 101 --create-home k2 \
    && apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/k2

COPY requirements.txt ./
RUN pip install --no-cache-dir --requirement requirements.txt

ARG K2_LAKE_WAREHOUSE=""
COPY pyproject.toml README.md ./
COPY include include
RUN pip install --no-cache-dir --no-deps --editable . \
    && python -m k2.embedded.jars /opt/k2/jars --lake "$K2_LAKE_WAREHOUSE" \
    && python -m k2.embedded.spark /opt/k2/spark /opt/k2/jars

COPY dags dags
COPY dbt_project dbt_project
COPY plugins plugins
RUN install --directory --owner k2 --group k2 \
    /var/lib/k2 /var/lib/k2/airflow /var/lib/k2/airflow/logs /var/lib/k2/login

ENV TZ=UTC \
    PYTHONUNBUFFERED=1 \
    K2_STATE=/var/lib/k2 \
    DBT_TARGET_PATH=/var/lib/k2/dbt/target \
    DBT_LOG_PATH=/var/lib/k2/dbt/logs \
    SPARK_CONF_DIR=/opt/k2/spark \
    PYSPARK_PYTHON=/usr/local/bin/python \
    AIRFLOW_HOME=/var/lib/k2/airflow

USER k2
