-- Columns for labels, queues, priorities, code versions and several engines are here from the start,
-- so that those features need no rewrite of old rows.

CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counters (name, value) VALUES ('change', 0), ('sequence', 0);

CREATE TABLE engines (
    engine_id  TEXT PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    seen_ms    INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE specs (
    key  TEXT PRIMARY KEY,
    data BLOB NOT NULL
);

CREATE TABLE runs (
    run_id         TEXT PRIMARY KEY,
    namespace      TEXT NOT NULL,
    workflow_id    TEXT NOT NULL,
    is_current     INTEGER NOT NULL,
    status         TEXT NOT NULL,
    is_dormant     INTEGER NOT NULL,
    spec_key       TEXT NOT NULL,
    request_id     TEXT NOT NULL,
    request_digest TEXT NOT NULL,
    name           TEXT NOT NULL,
    queue          TEXT NOT NULL,
    priority       INTEGER NOT NULL,
    code_version   TEXT NOT NULL,
    created_by     TEXT NOT NULL,
    owner          TEXT NOT NULL,
    create_ms      INTEGER NOT NULL,
    update_ms      INTEGER NOT NULL,
    start_ms       INTEGER,
    end_ms         INTEGER,
    resume_count   INTEGER NOT NULL,
    change         INTEGER NOT NULL,
    output_task    TEXT NOT NULL,
    output_wraps   INTEGER NOT NULL,
    labels         TEXT NOT NULL,
    metadata       TEXT NOT NULL,
    failure        BLOB
);
CREATE UNIQUE INDEX runs_current ON runs (namespace, workflow_id) WHERE is_current = 1;
CREATE UNIQUE INDEX runs_request ON runs (namespace, request_id) WHERE request_id <> '';
CREATE INDEX runs_created ON runs (namespace, create_ms, run_id) WHERE is_current = 1;
CREATE INDEX runs_updated ON runs (namespace, update_ms, run_id) WHERE is_current = 1;
CREATE INDEX runs_status ON runs (namespace, status, create_ms, run_id) WHERE is_current = 1;
CREATE INDEX runs_changed ON runs (namespace, change, run_id);
CREATE INDEX runs_unfinished ON runs (run_id) WHERE status IN ('RUNNING', 'PENDING') AND is_dormant = 0;
CREATE INDEX runs_spec ON runs (spec_key);

CREATE TABLE labels (
    namespace TEXT NOT NULL,
    key       TEXT NOT NULL,
    value     TEXT NOT NULL,
    run_id    TEXT NOT NULL,
    PRIMARY KEY (namespace, key, value, run_id)
) WITHOUT ROWID;
CREATE INDEX labels_run ON labels (run_id);

CREATE TABLE inputs (
    run_id TEXT NOT NULL,
    name   TEXT NOT NULL,
    data   BLOB NOT NULL,
    PRIMARY KEY (run_id, name)
);

-- The value comes last: what does not fit beside the other columns goes to pages of its own, which
-- recovery and listing never read.
CREATE TABLE tasks (
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
    failure      BLOB,
    output       BLOB,
    PRIMARY KEY (run_id, task_id)
);
CREATE INDEX tasks_timers ON tasks (wake_ms, run_id, task_id)
    WHERE wake_ms IS NOT NULL AND status IN ('RUNNING', 'BACKING_OFF');
CREATE INDEX tasks_spec ON tasks (spec_key) WHERE spec_key <> '';

CREATE TABLE events (
    run_id      TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    event_id    TEXT NOT NULL,
    key         TEXT NOT NULL,
    arrived_ms  INTEGER NOT NULL,
    consumed_by TEXT NOT NULL,
    payload     BLOB NOT NULL,
    PRIMARY KEY (run_id, sequence)
);
CREATE UNIQUE INDEX events_id ON events (run_id, key, event_id);
