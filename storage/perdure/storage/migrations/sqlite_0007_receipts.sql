-- What repeats of requests are answered after their run was deleted.

CREATE TABLE receipts (
    key        TEXT PRIMARY KEY,
    data       BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    seal       INTEGER
);
CREATE INDEX receipts_expiring ON receipts (expires_ms);
