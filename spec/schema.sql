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
    project    TEXT NOT NULL,
    value      BLOB NOT NULL,
    size       INTEGER NOT NULL,            -- bytes that it counts for: key and value
    expires_ms INTEGER,                     -- NULL: never
    updated_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX kv_expires ON kv (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE TABLE kv_usage (
    key   TEXT PRIMARY KEY NOT NULL,        -- PROJECT
    keys  INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;

-- Queues
-- Rows of messages come and go by the thousand: their first column is a number, so they are no events.
CREATE TABLE queue (
    key           TEXT PRIMARY KEY NOT NULL, -- PROJECT/NAME
    project       TEXT NOT NULL,
    name          TEXT NOT NULL,
    number        INTEGER NOT NULL UNIQUE,   -- index of the command that made it: never used twice
    fifo          INTEGER NOT NULL,
    visibility_ms INTEGER NOT NULL,
    retention_ms  INTEGER NOT NULL,
    delay_ms      INTEGER NOT NULL,
    dedup_ms      INTEGER NOT NULL,
    depth_max     INTEGER NOT NULL,
    bytes_max     INTEGER NOT NULL,
    receives_max  INTEGER NOT NULL,          -- 0: any number
    dead_letter   INTEGER REFERENCES queue (number),
    depth         INTEGER NOT NULL DEFAULT 0, -- its messages, and the bytes they count for
    bytes         INTEGER NOT NULL DEFAULT 0,
    sent          INTEGER NOT NULL DEFAULT 0, -- ever
    acked         INTEGER NOT NULL DEFAULT 0,
    expired       INTEGER NOT NULL DEFAULT 0,
    died          INTEGER NOT NULL DEFAULT 0,
    created_ms    INTEGER NOT NULL,
    revision      INTEGER NOT NULL           -- of the settings
) STRICT;
CREATE INDEX queue_dead_letter ON queue (dead_letter) WHERE dead_letter IS NOT NULL;
CREATE TABLE queue_message (
    id           INTEGER PRIMARY KEY,        -- index of the command * 1024 + place in it
    queue        INTEGER NOT NULL,           -- number
    priority     INTEGER NOT NULL,
    visible_ms   INTEGER NOT NULL,           -- 0: at once
    claimed      INTEGER NOT NULL,           -- index of the claim that hid it; 0: nobody's
    blocked      INTEGER NOT NULL,           -- 1: behind another of its group
    receives     INTEGER NOT NULL,
    sent_ms      INTEGER NOT NULL,
    entered_ms   INTEGER NOT NULL,           -- into this queue: retention counts from here
    size         INTEGER NOT NULL,           -- bytes that it counts for
    source       INTEGER,                    -- of a dead letter: number of its queue
    message_group TEXT,                      -- of FIFO queues
    dedup        TEXT,
    content_type TEXT,
    attributes   TEXT,                       -- JSON object of strings
    body         BLOB NOT NULL
) STRICT;
CREATE INDEX queue_message_next ON queue_message (queue, priority, visible_ms, id) WHERE blocked = 0;
CREATE INDEX queue_message_entered ON queue_message (queue, entered_ms);
CREATE INDEX queue_message_claimed ON queue_message (queue) WHERE claimed > 0;
CREATE INDEX queue_message_source ON queue_message (source, id) WHERE source IS NOT NULL;
CREATE INDEX queue_message_group ON queue_message (queue, message_group, id) WHERE message_group IS NOT NULL;
CREATE TABLE queue_dedup (
    queue      INTEGER NOT NULL,
    dedup      TEXT NOT NULL,
    message    INTEGER NOT NULL,             -- id
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (queue, dedup)
) STRICT, WITHOUT ROWID;
CREATE INDEX queue_dedup_expires ON queue_dedup (expires_ms);
CREATE TABLE queue_trash (
    number INTEGER PRIMARY KEY               -- of a deleted queue whose messages are still there
) STRICT;

-- Streams
CREATE TABLE stream (
    key             TEXT PRIMARY KEY NOT NULL, -- PROJECT/NAME
    project         TEXT NOT NULL,
    name            TEXT NOT NULL,
    number          INTEGER NOT NULL UNIQUE, -- index of the command that made it
    partitions      INTEGER NOT NULL,
    retention_ms    INTEGER NOT NULL,
    retention_bytes INTEGER NOT NULL,        -- of all partitions
    created_ms      INTEGER NOT NULL,
    revision        INTEGER NOT NULL
) STRICT;
CREATE TABLE stream_partition (
    key            TEXT PRIMARY KEY NOT NULL, -- PROJECT/NAME/PARTITION
    stream         INTEGER NOT NULL,
    partition      INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL DEFAULT 1, -- the oldest that is kept
    next_sequence  INTEGER NOT NULL DEFAULT 1,
    bytes          INTEGER NOT NULL DEFAULT 0,
    last_ms        INTEGER NOT NULL DEFAULT 0, -- time of the last record
    UNIQUE (stream, partition)
) STRICT;
CREATE TABLE stream_record (
    stream       INTEGER NOT NULL,
    partition    INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    command      INTEGER NOT NULL,           -- index of the one that appended it
    time_ms      INTEGER NOT NULL,
    size         INTEGER NOT NULL,
    record_key   TEXT,
    content_type TEXT,
    attributes   TEXT,
    body         BLOB NOT NULL,
    PRIMARY KEY (stream, partition, sequence)
) STRICT;
CREATE TABLE stream_checkpoint (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/NAME/GROUP/PARTITION
    stream     INTEGER NOT NULL,
    name       TEXT NOT NULL,                -- of the group
    partition  INTEGER NOT NULL,
    sequence   INTEGER NOT NULL,             -- the last one it is done with
    updated_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    UNIQUE (stream, name, partition)
) STRICT;
CREATE TABLE stream_trash (
    number     INTEGER PRIMARY KEY,          -- of a deleted stream whose records are still there
    partitions INTEGER NOT NULL
) STRICT;

-- Invocations
CREATE TABLE invocation (
    key         TEXT PRIMARY KEY NOT NULL,  -- id: 32 hex digits
    project     TEXT NOT NULL,
    function    TEXT NOT NULL,              -- NAME, NAME:ALIAS or NAME:VERSION, as it was asked for
    name        TEXT NOT NULL,              -- NAME
    state       TEXT NOT NULL CHECK (state IN ('pending', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    idempotency TEXT,                       -- the client's key
    digest      TEXT,                       -- of what it was a key of
    request     TEXT NOT NULL,              -- JSON: method, path, query, fields
    body        BLOB,                       -- NULL once it has succeeded
    policy      TEXT NOT NULL,              -- JSON: retries, back-off, age, destinations
    attempts    INTEGER NOT NULL,
    due_ms      INTEGER NOT NULL,           -- of the next attempt
    deadline_ms INTEGER NOT NULL,           -- no attempt begins, and none goes on, after it
    owner       INTEGER NOT NULL,           -- id of the node that runs it; 0: none
    epoch       INTEGER NOT NULL,           -- index of the command that gave it to that node
    size        INTEGER NOT NULL,           -- bytes that it counts for while it is live
    status      INTEGER,
    fields      TEXT,                       -- JSON array of "Name: value"
    answer      BLOB,
    error       TEXT,
    error_code  TEXT,
    history     TEXT NOT NULL,              -- JSON array: the last attempts
    expires_ms  INTEGER,                    -- when it is forgotten; NULL: it is live
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL,
    revision    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX invocation_idempotency ON invocation (project, name, idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX invocation_due ON invocation (due_ms) WHERE state = 'pending';
CREATE INDEX invocation_owner ON invocation (owner) WHERE state = 'running';
CREATE INDEX invocation_expires ON invocation (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE INDEX invocation_created ON invocation (project, created_ms);
CREATE TABLE invocation_notice (             -- ends of which a queue or a stream is to be told
    key         TEXT PRIMARY KEY NOT NULL,   -- id of the event
    project     TEXT NOT NULL,
    destination TEXT NOT NULL,               -- queue:NAME, stream:NAME
    event       TEXT NOT NULL,               -- a CloudEvent, structured
    created_ms  INTEGER NOT NULL
) STRICT;
CREATE TABLE invocation_load (               -- what is live: pending or running
    project TEXT PRIMARY KEY NOT NULL,
    live    INTEGER NOT NULL,
    bytes   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Triggers
CREATE TABLE trigger_row (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/NAME
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL,                -- cron, queue, stream, http, ...
    function   TEXT NOT NULL,                -- NAME or NAME:ALIAS
    paused     INTEGER NOT NULL,
    config     TEXT NOT NULL,                -- JSON: settings, filter, transform, batch, retry, destinations
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE TABLE trigger_count (                 -- how it goes; added to by the node that runs it
    trigger    TEXT PRIMARY KEY NOT NULL REFERENCES trigger_row (key) ON DELETE CASCADE,
    seen       INTEGER NOT NULL DEFAULT 0,
    matched    INTEGER NOT NULL DEFAULT 0,
    delivered  INTEGER NOT NULL DEFAULT 0,
    failed     INTEGER NOT NULL DEFAULT 0,   -- attempts
    dead       INTEGER NOT NULL DEFAULT 0,   -- given up
    skipped    INTEGER NOT NULL DEFAULT 0,   -- slots of a schedule that were not to run
    last_ms    INTEGER,                      -- the last delivery
    last_error TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE cron_next (
    trigger  TEXT PRIMARY KEY NOT NULL REFERENCES trigger_row (key) ON DELETE CASCADE,
    slot_ms  INTEGER,                        -- the next one; NULL: there is none any more
    since_ms INTEGER NOT NULL                -- @every counts from here
) STRICT, WITHOUT ROWID;
CREATE TABLE cron_run (                      -- slots that were taken and have not ended
    key     TEXT PRIMARY KEY NOT NULL,       -- PROJECT/NAME/SLOT_MS
    trigger TEXT NOT NULL REFERENCES trigger_row (key) ON DELETE CASCADE,
    slot_ms INTEGER NOT NULL,
    node    INTEGER NOT NULL,                -- who runs it; 0: nobody
    epoch   INTEGER NOT NULL                 -- index of the command that gave it to that node
) STRICT;
CREATE INDEX cron_run_trigger ON cron_run (trigger);

-- Routes
CREATE TABLE route (
    key        TEXT PRIMARY KEY NOT NULL,   -- PROJECT/NAME
    project    TEXT NOT NULL REFERENCES project (key),
    name       TEXT NOT NULL,
    function   TEXT NOT NULL,               -- NAME, NAME:ALIAS or NAME:VERSION
    settings   TEXT NOT NULL,               -- JSON: a RouteSet
    is_paused  INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;

-- Aliases
ALTER TABLE alias ADD COLUMN sticky TEXT;    -- "header:NAME" or "cookie:NAME": who gets which version
CREATE TABLE alias_split (                   -- touched together with the row of its alias
    alias    TEXT NOT NULL,                  -- key
    function TEXT NOT NULL,                  -- key
    version  INTEGER NOT NULL,
    weight   INTEGER NOT NULL,               -- 0: not called, kept ready for going back
    PRIMARY KEY (alias, version)
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_split_function ON alias_split (function, version);
CREATE TABLE alias_history (
    alias  TEXT NOT NULL,                    -- key
    number INTEGER NOT NULL,
    target TEXT NOT NULL,                    -- JSON: version to weight
    sticky TEXT,
    set_ms INTEGER NOT NULL,                 -- 0: before this was noted
    PRIMARY KEY (alias, number)
) STRICT, WITHOUT ROWID;

-- version 5: secrets, sealed with a key that is in no database: see service/secret
CREATE TABLE secret (
    key        TEXT PRIMARY KEY NOT NULL,   -- PROJECT/NAME
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    size       INTEGER NOT NULL,            -- bytes of the value
    version    INTEGER NOT NULL,            -- 1, 2, ...: how often it was set
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE TABLE secret_key (
    key        TEXT PRIMARY KEY NOT NULL CHECK (key = 'secrets'), -- one row, once there is one
    proof      BLOB NOT NULL,               -- a known text, sealed: who opens it has the key
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE TABLE secret_holder (
    key      TEXT PRIMARY KEY NOT NULL,     -- id of a node that has the key on its disk, decimal
    node     INTEGER NOT NULL,
    revision INTEGER NOT NULL
) STRICT;

-- version 6: Linux machines, and the images they start from
CREATE TABLE machine_image (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/NAME
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    config     TEXT NOT NULL,                -- JSON: an ImageCreate; its blobs are where they were uploaded
    node       TEXT NOT NULL,                -- name of the one that had them first
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE TABLE machine (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/NAME
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    id         TEXT NOT NULL UNIQUE,         -- 16 hex digits: its folder, and its addresses
    node       TEXT NOT NULL,                -- name of the one that runs it, and alone writes its state
    config     TEXT NOT NULL,                -- JSON: a MachineCreate, and what it became of
    desired    TEXT NOT NULL CHECK (desired IN ('running', 'paused', 'stopped', 'deleted')),
    state      TEXT NOT NULL,
    reason     TEXT,                         -- of the state, for people
    restarts   INTEGER NOT NULL,             -- by itself, and reboots
    started_ms INTEGER,
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX machine_node ON machine (node);

-- version 7: snapshots of machines, their health, and networks
CREATE TABLE machine_snapshot (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/MACHINE/NAME
    project    TEXT NOT NULL,
    machine    TEXT NOT NULL,                -- name
    machine_id TEXT NOT NULL,                -- its id, and a part of where the files are
    name       TEXT NOT NULL,
    id         TEXT NOT NULL UNIQUE,         -- 16 hex digits: the other part
    node       TEXT NOT NULL,                -- name of the one that has the files
    state      TEXT NOT NULL CHECK (state IN ('creating', 'ready')),
    has_memory INTEGER NOT NULL,             -- 1: it goes on where it was; 0: its disk alone
    size_bytes INTEGER NOT NULL,             -- on disk
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX machine_snapshot_machine ON machine_snapshot (machine_id);
ALTER TABLE machine ADD COLUMN health TEXT;        -- starting, healthy, unhealthy; NULL: not checked, or it does not run
ALTER TABLE machine ADD COLUMN health_reason TEXT; -- of the last bad check

-- Volumes
CREATE TABLE volume (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/NAME
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    id         TEXT NOT NULL UNIQUE,         -- 16 hex digits: the serial that a guest sees
    node       TEXT NOT NULL,                -- name of the one that has it, and alone writes its state
    config     TEXT NOT NULL,                -- JSON: a VolumeCreate, and what it became of
    secret     TEXT,                         -- name of the one that is its key
    size_bytes INTEGER NOT NULL,
    next_size  INTEGER,                      -- while it grows
    layer      TEXT NOT NULL,                -- the newest: it is written
    next_layer TEXT,                         -- while one is laid over it
    origin     TEXT,                         -- the layer that it is a clone of
    state      TEXT NOT NULL,                -- creating, ready, growing, laying, restoring or failed
    reason     TEXT,                         -- of the state, for people
    machine    TEXT,                         -- name of the one that has it
    slot       INTEGER,                      -- of that machine's bus
    path       TEXT,                         -- where it is mounted in it
    read_only  INTEGER,
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX volume_node ON volume (node);
CREATE INDEX volume_machine ON volume (project, machine);
CREATE TABLE volume_snapshot (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/VOLUME/NAME
    project    TEXT NOT NULL,
    volume     TEXT NOT NULL,                -- key
    name       TEXT NOT NULL,
    layer      TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    state      TEXT NOT NULL,                -- creating or ready
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX volume_snapshot_volume ON volume_snapshot (volume);
CREATE INDEX volume_snapshot_layer ON volume_snapshot (layer);
CREATE TABLE volume_layer (                  -- a file; without a volume, a snapshot or a layer that
    key        TEXT PRIMARY KEY NOT NULL,    -- names it, it is removed
    node       TEXT NOT NULL,
    format     TEXT NOT NULL,                -- raw or qcow2
    below      TEXT,                         -- the layer that it lies over
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX volume_layer_below ON volume_layer (below);
-- Networks of machines
CREATE TABLE network (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/NAME
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    vni        INTEGER NOT NULL UNIQUE,      -- 24 bits: of its tunnels, and in the names of its links
    address    INTEGER NOT NULL,             -- of its subnet, as a number
    last       INTEGER NOT NULL,             -- of its subnet: broadcast
    prefix     INTEGER NOT NULL,
    gateway    INTEGER NOT NULL,
    mode       TEXT NOT NULL,                -- nat, routed or closed
    mtu        INTEGER NOT NULL,
    is_peering INTEGER NOT NULL,             -- is reached by other such networks of the project
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE TABLE network_lease (                 -- an address of a machine, for as long as it is there
    network TEXT NOT NULL REFERENCES network (key),
    address INTEGER NOT NULL,
    machine TEXT NOT NULL REFERENCES machine (id) ON DELETE CASCADE,
    nic     INTEGER NOT NULL,                -- 0, 1, ...: which of its interfaces
    mac     TEXT NOT NULL,
    groups  TEXT NOT NULL,                   -- security groups: ' web db ', or ' '
    PRIMARY KEY (network, address),
    UNIQUE (network, mac),
    UNIQUE (machine, nic)
) STRICT;
CREATE TABLE security_group (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/NAME
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE TABLE security_group_rule (
    grp       TEXT NOT NULL REFERENCES security_group (key) ON DELETE CASCADE,
    direction TEXT NOT NULL CHECK (direction IN ('in', 'out')),
    allow     TEXT NOT NULL,                 -- any, icmp, tcp, udp, tcp/80, tcp/80-90
    peer      TEXT NOT NULL,                 -- 10.0.0.0/8, group:NAME, or '': anybody
    PRIMARY KEY (grp, direction, allow, peer)
) STRICT;

-- version 8: what nodes are, whether they take work, and machines that are to move
ALTER TABLE node ADD COLUMN pool TEXT NOT NULL DEFAULT 'default';
ALTER TABLE node ADD COLUMN duty TEXT NOT NULL DEFAULT 'active'; -- active, cordoned, draining, drained
ALTER TABLE node ADD COLUMN taints TEXT NOT NULL DEFAULT '[]';   -- JSON: [{"key", "value", "effect"}]
ALTER TABLE node ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}'; -- JSON: what it has; it alone writes it
ALTER TABLE node ADD COLUMN drain TEXT;                          -- JSON: how it is drained; NULL: it is not
ALTER TABLE machine ADD COLUMN home TEXT;                        -- node that it left in a drain, and goes back to
CREATE TABLE machine_move (                  -- a machine that is to be elsewhere; its node brings it about
    key        TEXT PRIMARY KEY NOT NULL,    -- id of the machine
    node       TEXT NOT NULL,                -- that has it, when this was decided
    target     TEXT NOT NULL,                -- node that is to have it; '': one that suits
    reason     TEXT NOT NULL CHECK (reason IN ('drain', 'restore', 'rebalance', 'taint')),
    way        TEXT NOT NULL CHECK (way IN ('live', 'cold')),
    runs_after INTEGER NOT NULL,             -- 1: it is started where it then is
    priority   INTEGER NOT NULL,             -- the highest goes first
    state      TEXT NOT NULL CHECK (state IN ('waiting', 'moving', 'failed', 'cancelled')),
    problem    TEXT,                         -- why it failed
    attempts   INTEGER NOT NULL,
    operation  TEXT,                         -- of the migration under way
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX machine_move_node ON machine_move (node);
-- Manifests: who has asked for which fields of what; see service/manifest
CREATE TABLE manifest (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/KIND/NAME/OWNER
    project    TEXT NOT NULL,
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    owner      TEXT NOT NULL,
    labels     TEXT NOT NULL,                -- JSON object of strings
    fields     TEXT NOT NULL,                -- JSON: path to {"value", "settled", "is_settled"}
    applied_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX manifest_object ON manifest (project, kind, name);
CREATE INDEX manifest_of_owner ON manifest (owner, project);
CREATE TABLE manifest_owner (                -- who applies: one thing at a time
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/OWNER
    applied_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
-- Settings of networks
ALTER TABLE network ADD COLUMN description TEXT NOT NULL DEFAULT '';
ALTER TABLE network ADD COLUMN dns TEXT NOT NULL DEFAULT '';  -- resolvers that are asked instead of the nodes': '9.9.9.9 2620:fe::fe'
-- What became of machines: the last ones
CREATE TABLE machine_event (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/MACHINE/SEQUENCE
    sequence   INTEGER NOT NULL UNIQUE,
    id         TEXT NOT NULL UNIQUE,         -- random: one that is written twice is there once
    project    TEXT NOT NULL,
    machine    TEXT NOT NULL,                -- as it was called
    machine_id TEXT NOT NULL,
    node       TEXT NOT NULL,
    type       TEXT NOT NULL,                -- vm.started
    state      TEXT NOT NULL,                -- of the machine then; '' when it is no more
    reason     TEXT NOT NULL,
    at_ms      INTEGER NOT NULL
) STRICT;
CREATE INDEX machine_event_project ON machine_event (project, sequence);
-- Placement
ALTER TABLE machine ADD COLUMN pending_ms INTEGER;     -- since when it waits for room; NULL: it does not
ALTER TABLE machine ADD COLUMN pending_reason TEXT;    -- why it fits nowhere
ALTER TABLE machine ADD COLUMN cpu_millis INTEGER NOT NULL DEFAULT 0; -- what its settings say it takes
ALTER TABLE machine ADD COLUMN cores INTEGER NOT NULL DEFAULT 0;      -- of its own, besides
ALTER TABLE machine ADD COLUMN memory_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE machine ADD COLUMN disk_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE machine SET cpu_millis = coalesce(config ->> '$.cpus', 1) * 1000,
    memory_bytes = coalesce(config ->> '$.memory_bytes', 0), disk_bytes = coalesce(config ->> '$.disk_bytes', 0);
CREATE TABLE placement_room (                -- what the machines of a node may have together; it alone writes it
    key          TEXT PRIMARY KEY NOT NULL,  -- name of the node
    cpu_millis   INTEGER NOT NULL,
    cpu_percent  INTEGER NOT NULL,           -- of what it has that is: what a core of a machine's own takes
    memory_bytes INTEGER NOT NULL,
    disk_bytes   INTEGER NOT NULL,
    revision     INTEGER NOT NULL
) STRICT;
CREATE INDEX machine_pending ON machine (pending_ms) WHERE pending_ms IS NOT NULL;
CREATE TABLE placement_group (
    key        TEXT PRIMARY KEY NOT NULL,    -- PROJECT/NAME
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    policy     TEXT NOT NULL CHECK (policy IN ('spread', 'compact')),
    rigor      TEXT NOT NULL CHECK (rigor IN ('strict', 'permissive')),
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE TABLE placement_reservation (         -- room that is kept on a node for machines that name it
    key          TEXT PRIMARY KEY NOT NULL,  -- PROJECT/NAME
    project      TEXT NOT NULL,
    name         TEXT NOT NULL,
    node         TEXT NOT NULL,
    cpu_millis   INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    disk_bytes   INTEGER NOT NULL,
    expires_ms   INTEGER NOT NULL,
    created_ms   INTEGER NOT NULL,
    revision     INTEGER NOT NULL
) STRICT;
CREATE INDEX placement_reservation_node ON placement_reservation (node);
CREATE TABLE placement_strategy (
    key      TEXT PRIMARY KEY NOT NULL,      -- a project, or '' for those that say nothing
    strategy TEXT NOT NULL,
    weights  TEXT NOT NULL,                  -- JSON: parts of the score to percent
    revision INTEGER NOT NULL
) STRICT;
CREATE TABLE placement_decision (            -- the last ones
    key        TEXT PRIMARY KEY NOT NULL,    -- random
    project    TEXT NOT NULL,
    machine    TEXT NOT NULL,                -- name
    machine_id TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('placed', 'pending', 'displaced', 'moved')),
    node       TEXT NOT NULL,                -- '' of one that is pending
    text       TEXT NOT NULL,                -- why, for people
    at_ms      INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
CREATE INDEX placement_decision_at ON placement_decision (at_ms);
CREATE TABLE node_peak (                     -- what a node foresees that it will use at most; it alone writes it
    key          TEXT PRIMARY KEY NOT NULL,  -- its name
    cpu_millis   INTEGER NOT NULL,
    revision     INTEGER NOT NULL
) STRICT;

-- Quotas: what a project may have at most; NULL: any number
CREATE TABLE quota (
    key                 TEXT PRIMARY KEY NOT NULL, -- PROJECT
    cpus                INTEGER,
    memory_bytes        INTEGER,
    disk_bytes          INTEGER,
    machines            INTEGER,
    functions           INTEGER,
    requests_per_second INTEGER,
    instances           INTEGER,
    created_ms          INTEGER NOT NULL,
    revision            INTEGER NOT NULL
) STRICT;
CREATE TABLE quota_guard (id INTEGER PRIMARY KEY); -- one row, which a command touches if it may
INSERT INTO quota_guard (id) VALUES (1);

-- version 9: windows in which nodes are maintained
CREATE TABLE node_window (
    key         TEXT PRIMARY KEY NOT NULL,   -- NODE/NAME
    node        TEXT NOT NULL REFERENCES node (key) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    schedule    TEXT NOT NULL,               -- when it opens: as of triggers (service/cron), or "@at TIME"
    zone        TEXT NOT NULL,               -- IANA; '': UTC
    duration_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,            -- the drain begins so long before
    force       INTEGER NOT NULL,            -- 1: what cannot leave is stopped
    since_ms    INTEGER NOT NULL,            -- when it was made: @every counts from then, and none before opens
    begun_ms    INTEGER NOT NULL,            -- the opening for which the node was drained last; 0: none was
    problem     TEXT NOT NULL,               -- why it is not drained; '': it is, or need not be
    revision    INTEGER NOT NULL
) STRICT;
CREATE INDEX node_window_node ON node_window (node);
-- Since when taints drive machines away
CREATE TABLE machine_leaving (               -- a machine that a taint of its node drives away
    key      TEXT PRIMARY KEY NOT NULL,      -- id of the machine
    node     TEXT NOT NULL,
    since_ms INTEGER NOT NULL,               -- when its node saw that first
    revision INTEGER NOT NULL
) STRICT;
-- Machines that are programs of Nix
ALTER TABLE machine ADD COLUMN booted_runner TEXT;      -- what its VMM began with, while it runs

-- Nix: whose signatures the nodes, and clients of their stores, believe
CREATE TABLE nix_key (
    key        TEXT PRIMARY KEY NOT NULL,    -- 'cluster'
    public     TEXT NOT NULL,                -- NAME:BASE64
    secret     TEXT NOT NULL,                -- name of the secret of project _cluster that is its private half
    created_ms INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;
-- CPUs of their own
CREATE TABLE machine_cpus (                  -- of a machine at a node; it alone writes it
    key      TEXT PRIMARY KEY NOT NULL,      -- id of the machine
    node     TEXT NOT NULL,
    cpus     TEXT NOT NULL,                  -- numbers of the node's: "2,3"
    revision INTEGER NOT NULL
) STRICT;

-- version 10: nodes that are held for machines that wait
CREATE TABLE placement_hold (                -- the owner of the queue writes them
    key      TEXT PRIMARY KEY NOT NULL,      -- id of the machine
    node     TEXT NOT NULL,                  -- name; '': none for now
    lacking  INTEGER NOT NULL,               -- what has to leave there, in millionths of what it has
    turns    INTEGER NOT NULL,               -- in which nothing left
    moved_ms INTEGER NOT NULL,               -- something left, or the node was chosen
    revision INTEGER NOT NULL
) STRICT;
-- Learnt data accesses
CREATE TABLE machine_traffic (               -- whom a machine exchanges data with; its node writes it
    key      TEXT PRIMARY KEY NOT NULL REFERENCES machine (id) ON DELETE CASCADE,
    node     TEXT NOT NULL,                  -- that has learnt it
    peers    TEXT NOT NULL,                  -- JSON: [{"machine": ID | "node": NAME, "rate": bytes a second}]
    at_ms    INTEGER NOT NULL,
    revision INTEGER NOT NULL
) STRICT;
CREATE TABLE function_traffic (              -- the same of a function, as one node has seen it
    key      TEXT PRIMARY KEY NOT NULL,      -- PROJECT/NAME NODE
    function TEXT NOT NULL REFERENCES function (key) ON DELETE CASCADE,
    node     TEXT NOT NULL,
    peers    TEXT NOT NULL,
    at_ms    INTEGER NOT NULL,
    revision INTEGER NOT NULL
) STRICT;
CREATE INDEX function_traffic_function ON function_traffic (function);

-- version 11: which nodes have what machines start from
CREATE TABLE blob_replica (                  -- a node writes its own
    key      TEXT PRIMARY KEY NOT NULL,      -- BLOB NODE
    blob     TEXT NOT NULL,
    node     TEXT NOT NULL,                  -- name
    problem  TEXT NOT NULL,                  -- why it could not take a copy; '': it has the blob
    at_ms    INTEGER NOT NULL,
    revision INTEGER NOT NULL
) STRICT;
CREATE INDEX blob_replica_blob ON blob_replica (blob);

-- version 12: memory of huge pages
ALTER TABLE machine ADD COLUMN page_bytes INTEGER NOT NULL DEFAULT 0; -- of which its memory is; 0: of none
ALTER TABLE placement_room ADD COLUMN huge_2m_bytes INTEGER; -- in pages of that size; NULL: the node has not said it
ALTER TABLE placement_room ADD COLUMN huge_1g_bytes INTEGER;
-- PCI devices that machines have
CREATE TABLE machine_device (
    key      TEXT PRIMARY KEY NOT NULL,      -- NODE/ADDRESS: it is one machine's
    machine  TEXT NOT NULL REFERENCES machine (id) ON DELETE CASCADE,
    node     TEXT NOT NULL,                  -- name
    address  TEXT NOT NULL,                  -- '0000:01:00.0'
    revision INTEGER NOT NULL
) STRICT;
CREATE INDEX machine_device_machine ON machine_device (machine);

-- version 13: devices in quotas
ALTER TABLE machine ADD COLUMN devices INTEGER NOT NULL DEFAULT 0; -- how many it asks for
UPDATE machine SET devices = (SELECT count(*) FROM machine_device d WHERE d.machine = machine.id);
ALTER TABLE quota ADD COLUMN devices INTEGER;
-- reservations of huge pages
ALTER TABLE placement_reservation ADD COLUMN page_bytes INTEGER NOT NULL DEFAULT 0; -- as of machine

-- version 14: invocations of each project that are due
CREATE INDEX invocation_project_due ON invocation (project, due_ms) WHERE state = 'pending';

-- version 15: what kept a destination from being told
ALTER TABLE invocation ADD COLUMN destination_error TEXT; -- NULL: nothing
