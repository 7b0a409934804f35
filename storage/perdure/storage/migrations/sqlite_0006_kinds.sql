-- The kind of a run: which machine of the engine decides what it does next. All runs so far are of graphs.

ALTER TABLE runs ADD COLUMN kind TEXT NOT NULL DEFAULT 'graph';
