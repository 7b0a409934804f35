-- Names are compared by their bytes (COLLATE "C"), as everywhere in Perdure. What is large lies apart from
-- what is read and rewritten often: graphs, inputs, outputs.

CREATE TABLE numbering (
    system_id text NOT NULL,
    shift     bigint NOT NULL
);
COMMENT ON TABLE numbering IS
    'One row. A commit has the number of its transaction plus the shift; the shift changes when the data move to another server, whose transactions have lower numbers.';
INSERT INTO numbering (system_id, shift)
    SELECT system_identifier::text, -(pg_current_xact_id()::text::bigint) FROM pg_control_system();

CREATE TABLE engines (
    engine_id  text COLLATE "C" PRIMARY KEY,
    name       text NOT NULL,
    address    text NOT NULL,
    version    text NOT NULL,
    knows      integer NOT NULL,
    started_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    is_dead    boolean NOT NULL,
    session    bigint NOT NULL DEFAULT 0,
    call       bigint NOT NULL DEFAULT 0,
    taken      text[] NOT NULL DEFAULT '{}'
);
COMMENT ON COLUMN engines.knows IS 'The last migration that the engine can work with.';

CREATE TABLE specs (
    key  text COLLATE "C" PRIMARY KEY,
    data bytea NOT NULL
);

CREATE TABLE runs (
    run_id         text COLLATE "C" PRIMARY KEY,
    namespace      text COLLATE "C" NOT NULL,
    workflow_id    text COLLATE "C" NOT NULL,
    is_current     boolean NOT NULL,
    status         text COLLATE "C" NOT NULL,
    is_dormant     boolean NOT NULL,
    spec_key       text COLLATE "C" NOT NULL,
    request_id     text COLLATE "C" NOT NULL,
    request_digest text COLLATE "C" NOT NULL,
    name           text COLLATE "C" NOT NULL,
    queue          text COLLATE "C" NOT NULL,
    priority       bigint NOT NULL,
    code_version   text COLLATE "C" NOT NULL,
    created_by     text COLLATE "C" NOT NULL,
    owner          text COLLATE "C" NOT NULL,
    create_ms      bigint NOT NULL,
    update_ms      bigint NOT NULL,
    start_ms       bigint,
    end_ms         bigint,
    resume_count   bigint NOT NULL,
    change         bigint NOT NULL,
    output_task    text COLLATE "C" NOT NULL,
    output_wraps   bigint NOT NULL,
    labels         text COLLATE "C" NOT NULL,
    metadata       text COLLATE "C" NOT NULL,
    failure        bytea
);
-- Of one expression, so that no other index seems as good for it while the table is small. Ids have no line feeds.
CREATE UNIQUE INDEX runs_current ON runs ((namespace || E'\n' || workflow_id)) WHERE is_current;
CREATE UNIQUE INDEX runs_request ON runs ((namespace || E'\n' || request_id)) WHERE request_id <> '';
CREATE INDEX runs_created ON runs (namespace, create_ms, run_id) WHERE is_current;
CREATE INDEX runs_updated ON runs (namespace, update_ms, run_id) WHERE is_current;
CREATE INDEX runs_named ON runs (namespace, workflow_id, run_id) WHERE is_current;
CREATE INDEX runs_status ON runs (namespace, status, create_ms, run_id) WHERE is_current;
CREATE INDEX runs_changed ON runs (namespace, change, run_id);
CREATE INDEX runs_all_changed ON runs (change, run_id);
CREATE INDEX runs_owned ON runs (owner, run_id) WHERE status IN ('RUNNING', 'PENDING');
CREATE INDEX runs_unfinished ON runs (owner, run_id) WHERE status = 'RUNNING' AND NOT is_dormant;
CREATE INDEX runs_running ON runs (namespace, run_id) WHERE status = 'RUNNING';
CREATE INDEX runs_pending ON runs (namespace, change, run_id) WHERE status = 'PENDING';
CREATE INDEX runs_spec ON runs (spec_key);

CREATE TABLE labels (
    namespace text COLLATE "C" NOT NULL,
    key       text COLLATE "C" NOT NULL,
    value     text COLLATE "C" NOT NULL,
    run_id    text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, key, value, run_id)
);
CREATE INDEX labels_run ON labels (run_id, key);

CREATE TABLE inputs (
    run_id text COLLATE "C" NOT NULL,
    name   text COLLATE "C" NOT NULL,
    data   bytea NOT NULL,
    PRIMARY KEY (run_id, name)
);

CREATE TABLE tasks (
    run_id       text COLLATE "C" NOT NULL,
    task_id      text COLLATE "C" NOT NULL,
    seq          bigint NOT NULL,
    status       text COLLATE "C" NOT NULL,
    attempt      bigint NOT NULL,
    failures     bigint NOT NULL,
    wake_ms      bigint,
    started_ms   bigint,
    ended_ms     bigint,
    change       bigint NOT NULL,
    output_bytes bigint NOT NULL,
    output_blob  text COLLATE "C" NOT NULL,
    spec_key     text COLLATE "C" NOT NULL,
    failure      bytea,
    PRIMARY KEY (run_id, task_id)
);
CREATE INDEX tasks_timers ON tasks (wake_ms, run_id, task_id)
    WHERE wake_ms IS NOT NULL AND status IN ('RUNNING', 'BACKING_OFF');
CREATE INDEX tasks_spec ON tasks (spec_key) WHERE spec_key <> '';

CREATE TABLE outputs (
    run_id  text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    data    bytea NOT NULL,
    PRIMARY KEY (run_id, task_id)
);

CREATE SEQUENCE event_sequence;
CREATE TABLE events (
    run_id      text COLLATE "C" NOT NULL,
    sequence    bigint NOT NULL,
    event_id    text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    arrived_ms  bigint NOT NULL,
    consumed_by text COLLATE "C" NOT NULL,
    payload     bytea NOT NULL,
    PRIMARY KEY (run_id, sequence)
);
CREATE UNIQUE INDEX events_id ON events (run_id, key, event_id);

CREATE TABLE mail (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text COLLATE "C" NOT NULL,
    kind   text COLLATE "C" NOT NULL,
    data   bytea NOT NULL
);
CREATE INDEX mail_run ON mail (run_id);

CREATE TABLE blob_uses (
    run_id text COLLATE "C" NOT NULL,
    sha256 text COLLATE "C" NOT NULL,
    PRIMARY KEY (run_id, sha256)
);
CREATE INDEX blob_uses_blob ON blob_uses (sha256);

CREATE TABLE blob_marks (
    sha256 text COLLATE "C" PRIMARY KEY,
    change bigint NOT NULL
);
