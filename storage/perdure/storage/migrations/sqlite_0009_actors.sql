-- Actors are listed apart from all other runs and hold no slots, so indexes for that leave them out: a million actors do
-- not slow the others, and an actor takes less room. No query looks for actors by another order than that of creation.

CREATE INDEX workflows_created ON runs (namespace, create_ms, run_id) WHERE is_current = 1 AND kind <> 'actor';
CREATE INDEX workflows_updated ON runs (namespace, update_ms, run_id) WHERE is_current = 1 AND kind <> 'actor';
CREATE INDEX workflows_status ON runs (namespace, status, create_ms, run_id) WHERE is_current = 1 AND kind <> 'actor';
CREATE INDEX workflows_pending ON runs (namespace, change, run_id) WHERE status = 'PENDING' AND kind <> 'actor';
CREATE INDEX actors_created ON runs (namespace, create_ms) WHERE is_current = 1 AND kind = 'actor';
DROP INDEX runs_created;
DROP INDEX runs_updated;
DROP INDEX runs_status;
DROP INDEX runs_pending;

-- The calls that an actor has not run yet.
CREATE INDEX events_calls ON events (run_id) WHERE key = '.call' AND consumed_by = '';
