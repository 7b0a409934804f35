-- What workers have announced. `info` is a serialized FunctionInfo.

CREATE TABLE functions (
    name        TEXT NOT NULL,
    version     TEXT NOT NULL,
    info        BLOB NOT NULL,
    announce_ms INTEGER NOT NULL,
    seal        INTEGER,
    PRIMARY KEY (name, version)
);
