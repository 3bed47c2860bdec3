-- From the tables of version 2 to those of version 3.

CREATE TABLE forgotten_3 (
    key TEXT NOT NULL,
    team TEXT NOT NULL,
    since INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    PRIMARY KEY (key, team, since)
) WITHOUT ROWID, STRICT;

INSERT INTO forgotten_3 SELECT key, team, 0, requests, tokens, cost FROM forgotten;

DROP TABLE forgotten;

ALTER TABLE forgotten_3 RENAME TO forgotten;
