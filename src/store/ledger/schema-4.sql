-- From the tables of version 3 to those of version 4.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID, STRICT;

INSERT INTO meta VALUES ('ledger_id', lower(hex(randomblob(16))));
