-- The replicated state.  Every server holds this database in memory and builds it from the log.
-- What stands before the first "-- version" line is version 1; each such line begins what makes the
-- next of it.  Nothing here changes once it was released: add a version.
-- A table that is watched has a text column `key`, which change events carry.

CREATE TABLE project (
    key        TEXT PRIMARY KEY NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE function (
    key        TEXT PRIMARY KEY NOT NULL,   -- PROJECT/NAME
    project    TEXT NOT NULL REFERENCES project (key),
    name       TEXT NOT NULL,
    last_version INTEGER NOT NULL,          -- numbers are never used twice
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    UNIQUE (project, name)
) STRICT;

CREATE TABLE version (
    key          TEXT PRIMARY KEY NOT NULL, -- PROJECT/NAME/NUMBER
    function     TEXT NOT NULL REFERENCES function (key) ON DELETE CASCADE,
    number       INTEGER NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('building', 'ready', 'failed')),
    error        TEXT,
    language     TEXT,
    abi          TEXT,
    module       TEXT NOT NULL,             -- blob id of the wasm
    module_bytes INTEGER NOT NULL,
    config       TEXT NOT NULL,             -- JSON: limits and environment
    build_ms     INTEGER,
    created_ms   INTEGER NOT NULL,
    revision     INTEGER NOT NULL,
    UNIQUE (function, number)
) STRICT;

CREATE TABLE alias (
    key      TEXT PRIMARY KEY NOT NULL,     -- PROJECT/NAME/ALIAS
    function TEXT NOT NULL REFERENCES function (key) ON DELETE CASCADE,
    name     TEXT NOT NULL,
    version  INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    UNIQUE (function, name)
) STRICT;

CREATE TABLE operation (
    key         TEXT PRIMARY KEY NOT NULL,  -- id
    kind        TEXT NOT NULL,
    project     TEXT NOT NULL,
    resource    TEXT NOT NULL,
    state       TEXT NOT NULL,
    progress    INTEGER NOT NULL,
    text        TEXT,
    error       TEXT,
    error_code  TEXT,
    result      TEXT,
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL
) STRICT;

-- version 2: operations remember the request that began them, so that its repetition begins none
ALTER TABLE operation ADD COLUMN request TEXT;          -- the client's idempotency key
ALTER TABLE operation ADD COLUMN request_digest TEXT;   -- what it was a key of
CREATE UNIQUE INDEX operation_request ON operation (project, request);

-- version 3: many nodes.  A node's id is the one of its log: never used twice.
CREATE TABLE cluster (
    key            TEXT PRIMARY KEY NOT NULL CHECK (key = 'cluster'), -- one row, once there is one
    id             TEXT NOT NULL,           -- 32 hex digits: the trust domain of its certificates
    name           TEXT NOT NULL,
    servers        INTEGER NOT NULL,        -- how many are wanted: 1, 3 or 5
    reign          INTEGER NOT NULL DEFAULT 0, -- term of the last leader: see service/cluster/liveness.h
    ca_certificate TEXT NOT NULL,           -- PEM
    ca_key         BLOB NOT NULL,           -- sealed with the servers' key, which is in no database
    created_ms     INTEGER NOT NULL,
    revision       INTEGER NOT NULL
) STRICT;
CREATE TABLE node (
    key            TEXT PRIMARY KEY NOT NULL, -- name
    id             INTEGER NOT NULL UNIQUE,
    address        TEXT NOT NULL,           -- HOST:PORT for nodes and remote clients
    gateway        TEXT NOT NULL,           -- HOST:PORT for callers of functions, for people
    role           TEXT NOT NULL CHECK (role IN ('server', 'worker')), -- what it is to be
    eligible       INTEGER NOT NULL,        -- may be made a server without being asked
    failure_domain TEXT NOT NULL,
    labels         TEXT NOT NULL,           -- JSON object of strings
    version        TEXT NOT NULL,           -- of its Blixard
    schema         INTEGER NOT NULL,        -- the newest that it knows
    fingerprint    TEXT NOT NULL,           -- of its certificate
    expires_ms     INTEGER NOT NULL,
    joined_ms      INTEGER NOT NULL,
    revision       INTEGER NOT NULL
) STRICT;
CREATE TABLE removed_node (
    key        TEXT PRIMARY KEY NOT NULL,   -- id, decimal
    name       TEXT NOT NULL,
    removed_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE join_token (
    key        TEXT PRIMARY KEY NOT NULL,   -- id, the public part
    role       TEXT NOT NULL CHECK (role IN ('server', 'worker')),
    digest     TEXT NOT NULL,               -- SHA-256 of the secret
    uses       INTEGER NOT NULL,            -- left
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE TABLE client (
    key         TEXT PRIMARY KEY NOT NULL,  -- name
    kind        TEXT NOT NULL CHECK (kind IN ('certificate', 'token')),
    digest      TEXT,                       -- of its secret: the token, or what login is to show
    fingerprint TEXT,                       -- of its certificate, once it has logged in
    created_ms  INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL,
    revision    INTEGER NOT NULL
) STRICT;
CREATE TABLE holder (
    key      TEXT PRIMARY KEY NOT NULL,     -- PROJECT/NAME/NUMBER/NODE
    version  TEXT NOT NULL REFERENCES version (key) ON DELETE CASCADE,
    node     INTEGER NOT NULL,              -- id: it can run the version
    tier     TEXT NOT NULL,
    revision INTEGER NOT NULL
) STRICT;
CREATE INDEX holder_version ON holder (version);
ALTER TABLE operation ADD COLUMN node INTEGER;  -- id of the one that carries it out

-- version 4: what functions keep, and what calls them

-- Keys and values
CREATE TABLE kv (
    key        TEXT PRIMARY KEY NOT NULL,   -- PROJECT/KEY
    value      BLOB NOT NULL,
    expires_ms INTEGER,                     -- NULL: never
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX kv_expires ON kv (expires_ms) WHERE expires_ms IS NOT NULL;

-- Secrets

-- Queues

-- Streams

-- Invocations

-- Triggers

-- Routes

-- Aliases
