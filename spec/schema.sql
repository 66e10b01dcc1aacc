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
