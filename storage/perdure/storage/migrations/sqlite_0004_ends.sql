-- For those who remove what ended long ago.

CREATE INDEX runs_ended ON runs (end_ms, run_id) WHERE end_ms IS NOT NULL;
