-- The ledger of Weir. Times are microseconds since 1970 (UTC) or durations in microseconds; money is nano-dollars;
-- token classes do not overlap. Read it with `sqlite3 -readonly weir.db`, while Weir runs or not.

-- What is true of the file as a whole: `ledger_id`; and by `adopted-run-…` which run was made of another ledger's journal.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID, STRICT;

-- Which ledger this is, wherever the file lies. A copy of the file is the same ledger.
INSERT INTO meta VALUES ('ledger_id', lower(hex(randomblob(16))));

-- The processes that have written here, for as long as rows of theirs are kept.
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    began INTEGER NOT NULL,
    ended INTEGER             -- NULL: still at it, or dead and not yet noticed
) STRICT;

-- One row per request.
CREATE TABLE request (
    id INTEGER PRIMARY KEY,   -- when its head had arrived; a few microseconds later where that was taken
    request_id TEXT NOT NULL, -- the header x-request-id
    run INTEGER NOT NULL,
    serial INTEGER,           -- its number in the run
    key TEXT NOT NULL,        -- the name of the gateway key
    team TEXT,
    endpoint TEXT NOT NULL,
    model TEXT,               -- asked for
    served_model TEXT,        -- asked of the upstream
    upstream TEXT,            -- that answered last; of an open or interrupted row the only one that it could go to
    stream INTEGER NOT NULL,
    status TEXT NOT NULL,     -- open, complete, failed, client_gone, interrupted, refused
    http_status INTEGER,      -- that was sent; NULL: none was, or the process died
    error TEXT,               -- a cause: client_*, policy_*, upstream_*, gateway_*
    input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_input_tokens INTEGER NOT NULL DEFAULT 0,
    cache_write_tokens INTEGER NOT NULL DEFAULT 0,
    input_audio_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0,
    output_audio_tokens INTEGER NOT NULL DEFAULT 0,
    provenance TEXT,          -- upstream, counted, estimated, drained; NULL: nothing to count
    tokens INTEGER NOT NULL DEFAULT 0, -- of all attempts and classes, as budgets count them
    cost INTEGER,             -- of all attempts, 0 where nothing was billed; NULL: the price is not known
    served_from TEXT,         -- upstream, cache, joined; NULL: the gateway itself
    cache TEXT,               -- bypass, hit, miss, joined, stale
    degraded INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    received_bytes INTEGER NOT NULL DEFAULT 0,
    sent_bytes INTEGER NOT NULL DEFAULT 0,
    queue_time INTEGER,
    upstream_time INTEGER,
    first_token_time INTEGER,
    total_time INTEGER
) STRICT;

-- What one key has used is found without a look at everybody's rows.
CREATE INDEX request_key ON request (key);

-- What a dead process left open is found by this alone.
CREATE INDEX request_open ON request (run) WHERE status = 'open';

-- One row per try at an upstream.
CREATE TABLE attempt (
    request INTEGER NOT NULL, -- request.id
    number INTEGER NOT NULL,  -- from 1, in the order in which they began
    upstream TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT,               -- asked of the upstream
    began INTEGER NOT NULL,   -- counted from the request's head
    time INTEGER,             -- until it began to answer, or failed
    result TEXT NOT NULL,     -- answered, abandoned, interrupted, or the cause of its failure
    http_status INTEGER,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_input_tokens INTEGER NOT NULL DEFAULT 0,
    cache_write_tokens INTEGER NOT NULL DEFAULT 0,
    input_audio_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0,
    output_audio_tokens INTEGER NOT NULL DEFAULT 0,
    provenance TEXT,          -- NULL: not billed
    cost INTEGER,             -- NULL: not billed, or the price is not known
    PRIMARY KEY (request, number)
) WITHOUT ROWID, STRICT;

-- What rows that have been deleted for their age had used, for budgets that look back further.
CREATE TABLE forgotten (
    key TEXT NOT NULL,
    team TEXT NOT NULL,       -- empty: none
    since INTEGER NOT NULL,   -- the beginning of the six hours in which they arrived; 0: longer ago than any period
    requests INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    PRIMARY KEY (key, team, since)
) WITHOUT ROWID, STRICT;

-- Teams made at run time; those of the configuration are not here.
CREATE TABLE team (
    name TEXT PRIMARY KEY,
    models TEXT NOT NULL,     -- JSON: patterns
    budgets TEXT NOT NULL,    -- JSON
    limits TEXT NOT NULL DEFAULT '[]', -- JSON
    created INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 0, -- of what is said of it; greater with each change
    cache TEXT                -- off, deterministic, always, on-request; NULL: as where a call goes
) WITHOUT ROWID, STRICT;

-- Teams that were deleted, so that a gateway that does not know it yet does not bring them back.
CREATE TABLE deleted_team (
    name TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

-- Keys made at run time; those of the configuration are not here.
CREATE TABLE api_key (
    id TEXT PRIMARY KEY,      -- what may be shown: the key's beginning
    name TEXT NOT NULL UNIQUE,
    team TEXT,
    digest BLOB NOT NULL UNIQUE, -- SHA-256 of the key
    models TEXT NOT NULL,     -- JSON: patterns
    paths TEXT NOT NULL,      -- JSON: patterns
    budgets TEXT NOT NULL,    -- JSON
    limits TEXT NOT NULL DEFAULT '[]', -- JSON
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER,
    old_id TEXT,              -- before it was rotated
    old_digest BLOB,
    old_expires INTEGER,      -- until when the one before is valid
    version INTEGER NOT NULL DEFAULT 0, -- of what is said of it; greater with each change
    rotated INTEGER NOT NULL DEFAULT 0, -- the version of its secrets
    cache TEXT                -- as of a team; NULL: as its team
) WITHOUT ROWID, STRICT;

-- Who changed what, by the admin API or by `weir keys --ledger`. Kept for `audit_retention`.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL      -- JSON
) STRICT;
