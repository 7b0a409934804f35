-- What repeats of requests are answered after their run was deleted.

CREATE TABLE tombstones (
    key        TEXT PRIMARY KEY,
    data       BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    seal       INTEGER
);
CREATE INDEX tombstones_expiring ON tombstones (expires_ms);
