-- What repeats of requests are answered after their run was deleted.

CREATE TABLE tombstones (
    key        TEXT COLLATE "C" PRIMARY KEY,
    data       BYTEA NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX tombstones_expiring ON tombstones (expires_ms);
