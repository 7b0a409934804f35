-- The queue of a namespace, and who uses which blob. The index takes room for runs that wait only.

CREATE INDEX runs_pending ON runs (namespace, change, run_id) WHERE status = 'PENDING';

CREATE TABLE blob_uses (
    run_id TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (run_id, sha256)
) WITHOUT ROWID;
CREATE INDEX blob_uses_blob ON blob_uses (sha256);
INSERT INTO blob_uses (run_id, sha256) SELECT DISTINCT run_id, output_blob FROM tasks WHERE output_blob <> '';

CREATE TABLE blob_marks (
    sha256 TEXT PRIMARY KEY,
    change INTEGER NOT NULL
) WITHOUT ROWID;
