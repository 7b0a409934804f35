-- A task may use blobs apart from its run: until it is dropped. So far, all are used by runs.

CREATE TABLE blob_uses_of_tasks (
    run_id  TEXT NOT NULL,
    task_id TEXT NOT NULL,
    sha256  TEXT NOT NULL,
    seal    INTEGER,
    PRIMARY KEY (run_id, task_id, sha256)
) WITHOUT ROWID;
INSERT INTO blob_uses_of_tasks (run_id, task_id, sha256, seal) SELECT run_id, '', sha256, seal FROM blob_uses;
DROP TABLE blob_uses;
ALTER TABLE blob_uses_of_tasks RENAME TO blob_uses;
CREATE INDEX blob_uses_blob ON blob_uses (sha256);
