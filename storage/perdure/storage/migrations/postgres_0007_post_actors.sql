-- Indexes of queries that do not tell actors from other runs.

DROP INDEX runs_created;
DROP INDEX runs_updated;
DROP INDEX runs_named;
DROP INDEX runs_status;
DROP INDEX runs_running;
DROP INDEX runs_pending;
