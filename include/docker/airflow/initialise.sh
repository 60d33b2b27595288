#!/bin/sh
# Before Airflow starts: its database is up to date, the offload pool and the login are there.
set -eu

airflow db migrate
airflow pools set offload "$K2_OFFLOADS_AT_ONCE" "Spark drivers at the same time"

umask 077
python -c '
import json, os
print(json.dumps({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]}))
' > "$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"
