-- What engines leave for the owners of runs. An embedded database has one engine, which seldom writes to itself.

CREATE TABLE mail (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    kind   TEXT NOT NULL,
    data   BLOB NOT NULL
);
CREATE INDEX mail_run ON mail (run_id);
