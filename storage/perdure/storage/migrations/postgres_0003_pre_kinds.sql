-- The kind of a run: which machine of the engine decides what it does next. All runs so far are of graphs, and so are
-- those that engines of the previous version add, which do not know the column.

ALTER TABLE runs ADD COLUMN kind text COLLATE "C" NOT NULL DEFAULT 'graph';
