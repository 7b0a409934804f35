-- A task may use blobs apart from its run: until it is dropped. So far, all are used by runs, and so are those that
-- engines of the previous version add, which do not know the column.

ALTER TABLE blob_uses ADD COLUMN task_id text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE blob_uses DROP CONSTRAINT blob_uses_pkey;
ALTER TABLE blob_uses ADD PRIMARY KEY (run_id, task_id, sha256);
