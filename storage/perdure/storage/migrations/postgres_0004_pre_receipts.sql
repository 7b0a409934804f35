-- What repeats of requests are answered after their run was deleted.

CREATE TABLE receipts (
    key        TEXT COLLATE "C" PRIMARY KEY,
    data       BYTEA NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX receipts_expiring ON receipts (expires_ms);
