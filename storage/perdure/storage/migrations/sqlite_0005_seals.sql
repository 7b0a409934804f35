-- Checksums of rows (see storage/sqlite/seals.py). NULL: the row was written before there were any, and is not checked until
-- it is written again.

ALTER TABLE runs ADD COLUMN fixed_seal INTEGER;
ALTER TABLE runs ADD COLUMN state_seal INTEGER;
ALTER TABLE runs ADD COLUMN code_seal INTEGER;
ALTER TABLE runs ADD COLUMN sum_seal INTEGER;
ALTER TABLE inputs ADD COLUMN seal INTEGER;
ALTER TABLE blob_uses ADD COLUMN seal INTEGER;
ALTER TABLE blob_marks ADD COLUMN seal INTEGER;
ALTER TABLE mail ADD COLUMN seal INTEGER;

-- `is_taken` says again whether `consumed_by` is set.
ALTER TABLE events ADD COLUMN seal INTEGER;
ALTER TABLE events ADD COLUMN is_taken INTEGER;
UPDATE events SET is_taken = consumed_by <> '';

ALTER TABLE counters ADD COLUMN mirror INTEGER;
UPDATE counters SET mirror = -value;

-- Made anew, so that what recovery reads still comes before the failure and the output.
CREATE TABLE tasks_sealed (
    run_id       TEXT NOT NULL,
    task_id      TEXT NOT NULL,
    seq          INTEGER NOT NULL,
    status       TEXT NOT NULL,
    attempt      INTEGER NOT NULL,
    failures     INTEGER NOT NULL,
    wake_ms      INTEGER,
    started_ms   INTEGER,
    ended_ms     INTEGER,
    change       INTEGER NOT NULL,
    output_bytes INTEGER NOT NULL,
    output_blob  TEXT NOT NULL,
    spec_key     TEXT NOT NULL,
    seal         INTEGER,
    output_seal  INTEGER,
    failure      BLOB,
    output       BLOB,
    PRIMARY KEY (run_id, task_id)
);
INSERT INTO tasks_sealed
    SELECT run_id, task_id, seq, status, attempt, failures, wake_ms, started_ms, ended_ms, change, output_bytes,
        output_blob, spec_key, NULL, NULL, failure, output
    FROM tasks ORDER BY rowid;
DROP TABLE tasks;
ALTER TABLE tasks_sealed RENAME TO tasks;
CREATE INDEX tasks_timers ON tasks (wake_ms, run_id, task_id)
    WHERE wake_ms IS NOT NULL AND status IN ('RUNNING', 'BACKING_OFF');
CREATE INDEX tasks_spec ON tasks (spec_key) WHERE spec_key <> '';
