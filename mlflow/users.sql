-- For a new PostgreSQL in docker/compose.yaml: the second database, of accounts and permissions.
CREATE DATABASE mlflow_auth OWNER mlflow;
