-- What workers have announced. `info` is a serialized FunctionInfo.

CREATE TABLE functions (
    name        TEXT COLLATE "C" NOT NULL,
    version     TEXT COLLATE "C" NOT NULL,
    info        BYTEA NOT NULL,
    announce_ms BIGINT NOT NULL,
    PRIMARY KEY (name, version)
);
