-- Every run has an entry in each of these. 16 digits of a hash find as well as 64, and runs of one commit are few enough to
-- be sorted when they are read.

DROP INDEX runs_spec;
CREATE INDEX runs_spec ON runs (substr(spec_key, 1, 16));
DROP INDEX runs_changed;
CREATE INDEX runs_changed ON runs (namespace, change);
