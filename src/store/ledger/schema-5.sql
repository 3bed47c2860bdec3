-- From the tables of version 4 to those of version 5.

ALTER TABLE team ADD COLUMN version INTEGER NOT NULL DEFAULT 0; -- of what is said of it; greater with each change

UPDATE team SET version = created;

ALTER TABLE api_key ADD COLUMN version INTEGER NOT NULL DEFAULT 0; -- of what is said of it; greater with each change

ALTER TABLE api_key ADD COLUMN rotated INTEGER NOT NULL DEFAULT 0; -- the version of its secrets

UPDATE api_key SET version = created, rotated = created;

CREATE TABLE deleted_team (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
