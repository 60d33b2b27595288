"""The whole medallion in one run of Airflow, against one of the same shape without K2."""
