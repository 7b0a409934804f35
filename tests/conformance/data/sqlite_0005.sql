BEGIN TRANSACTION;
CREATE TABLE blob_marks (
    sha256 TEXT PRIMARY KEY,
    change INTEGER NOT NULL
, seal INTEGER) WITHOUT ROWID;
INSERT INTO "blob_marks" VALUES('2222222222222222222222222222222222222222222222222222222222222222',17,831997048);
CREATE TABLE blob_uses (
    run_id TEXT NOT NULL,
    sha256 TEXT NOT NULL, seal INTEGER,
    PRIMARY KEY (run_id, sha256)
) WITHOUT ROWID;
INSERT INTO "blob_uses" VALUES('run-a','1111111111111111111111111111111111111111111111111111111111111111',1194821840);
CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
, mirror INTEGER) WITHOUT ROWID;
INSERT INTO "counters" VALUES('change',17,-17);
INSERT INTO "counters" VALUES('sequence',2,-2);
CREATE TABLE engines (
    engine_id  TEXT PRIMARY KEY,
    epoch      INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    seen_ms    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE events (
    run_id      TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    event_id    TEXT NOT NULL,
    key         TEXT NOT NULL,
    arrived_ms  INTEGER NOT NULL,
    consumed_by TEXT NOT NULL,
    payload     BLOB NOT NULL, seal INTEGER, is_taken INTEGER,
    PRIMARY KEY (run_id, sequence)
);
INSERT INTO "events" VALUES('run-a',1,'e0','k',7,'t0',X'6576656E742030',3797273057,1);
INSERT INTO "events" VALUES('run-a',2,'e1','k',8,'',X'6576656E742031',3050048407,0);
CREATE TABLE inputs (
    run_id TEXT NOT NULL,
    name   TEXT NOT NULL,
    data   BLOB NOT NULL, seal INTEGER,
    PRIMARY KEY (run_id, name)
);
INSERT INTO "inputs" VALUES('run-a','x',X'696E7075742000',3867986210);
INSERT INTO "inputs" VALUES('run-a','y',X'79',1228851354);
CREATE TABLE labels (
    namespace TEXT NOT NULL,
    key       TEXT NOT NULL,
    value     TEXT NOT NULL,
    run_id    TEXT NOT NULL,
    PRIMARY KEY (namespace, key, value, run_id)
) WITHOUT ROWID;
INSERT INTO "labels" VALUES('default','team','pay','run-a');
INSERT INTO "labels" VALUES('default','x','é','run-a');
CREATE TABLE mail (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    kind   TEXT NOT NULL,
    data   BLOB NOT NULL
, seal INTEGER);
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO "migrations" VALUES(1,'sqlite_0001_start.sql');
INSERT INTO "migrations" VALUES(2,'sqlite_0002_queues_and_blob_uses.sql');
INSERT INTO "migrations" VALUES(3,'sqlite_0003_mail.sql');
INSERT INTO "migrations" VALUES(4,'sqlite_0004_ends.sql');
INSERT INTO "migrations" VALUES(5,'sqlite_0005_seals.sql');
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
, fixed_seal INTEGER, state_seal INTEGER, code_seal INTEGER, sum_seal INTEGER);
INSERT INTO "runs" VALUES('run-a','default','id-a',1,'RUNNING',0,'spec-a','r-a','d','n','default',3,'','','engine-1',1,1,5,NULL,0,1,'',0,'{"team": "pay", "x": "\u00e9"}','{"a":1}',NULL,2997183213,3821494683,0,79);
INSERT INTO "runs" VALUES('run-b','default','id-b',1,'PENDING',0,'spec-a','','','','default',0,'','','',2,2,NULL,NULL,0,7,'',0,'{}','',NULL,848180685,3890345279,0,80);
INSERT INTO "runs" VALUES('run-c','default','id-c',0,'SUCCESSFUL',0,'spec-a','','','','default',0,'modules','','',3,6,3,6,1,11,'t9',1,'{}','',NULL,737252753,3524084237,117534015,167);
INSERT INTO "runs" VALUES('run-d','default','id-c',1,'RUNNING',1,'spec-a','','','','default',0,'','','',7,7,7,NULL,0,12,'',0,'{}','',NULL,2104014302,3727357428,0,231);
CREATE TABLE specs (
    key  TEXT PRIMARY KEY,
    data BLOB NOT NULL
);
INSERT INTO "specs" VALUES('spec-a',X'67726170682061');
INSERT INTO "specs" VALUES('sub',X'737562206772617068');
CREATE TABLE "tasks" (
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
INSERT INTO "tasks" VALUES('run-a','t0',0,'SUCCESSFUL',2,1,NULL,10,12,2,8,'1111111111111111111111111111111111111111111111111111111111111111','sub',1573819312,180814107,X'6F6E6365',X'76616C75652000');
INSERT INTO "tasks" VALUES('run-a','t1',1,'BACKING_OFF',1,1,999,NULL,NULL,3,0,'','',4056917472,NULL,X'616761696E',NULL);
CREATE UNIQUE INDEX runs_current ON runs (namespace, workflow_id) WHERE is_current = 1;
CREATE UNIQUE INDEX runs_request ON runs (namespace, request_id) WHERE request_id <> '';
CREATE INDEX runs_created ON runs (namespace, create_ms, run_id) WHERE is_current = 1;
CREATE INDEX runs_updated ON runs (namespace, update_ms, run_id) WHERE is_current = 1;
CREATE INDEX runs_status ON runs (namespace, status, create_ms, run_id) WHERE is_current = 1;
CREATE INDEX runs_changed ON runs (namespace, change, run_id);
CREATE INDEX runs_unfinished ON runs (run_id) WHERE status IN ('RUNNING', 'PENDING') AND is_dormant = 0;
CREATE INDEX runs_spec ON runs (spec_key);
CREATE INDEX labels_run ON labels (run_id);
CREATE UNIQUE INDEX events_id ON events (run_id, key, event_id);
CREATE INDEX runs_pending ON runs (namespace, change, run_id) WHERE status = 'PENDING';
CREATE INDEX blob_uses_blob ON blob_uses (sha256);
CREATE INDEX mail_run ON mail (run_id);
CREATE INDEX runs_ended ON runs (end_ms, run_id) WHERE end_ms IS NOT NULL;
CREATE INDEX tasks_timers ON tasks (wake_ms, run_id, task_id)
    WHERE wake_ms IS NOT NULL AND status IN ('RUNNING', 'BACKING_OFF');
CREATE INDEX tasks_spec ON tasks (spec_key) WHERE spec_key <> '';
DELETE FROM "sqlite_sequence";
COMMIT;
