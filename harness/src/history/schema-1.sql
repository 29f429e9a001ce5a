-- Version 1. What is asked for stands in columns that SQLite computes from the JSON: nothing is written twice.
CREATE TABLE runs (
    id          INTEGER PRIMARY KEY,
    -- When it was saved: RFC 3339, UTC.
    saved_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- It was ended by Ctrl-C.
    interrupted INTEGER NOT NULL,
    -- As `run --json` prints them.
    machine     TEXT NOT NULL,
    config      TEXT NOT NULL,
    revision    TEXT    AS (machine ->> 'revision'),
    version     TEXT    AS (machine ->> 'version'),
    cpu         TEXT    AS (machine ->> 'cpu'),
    vcpus       INTEGER AS (machine ->> 'vcpus'),
    kernel      TEXT    AS (machine ->> 'kernel'),
    -- Text: a seed has 64 bits and no sign.
    seed        TEXT NOT NULL
) STRICT;

CREATE TABLE results (
    id          INTEGER PRIMARY KEY,
    run         INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    -- An element of `results`, whole, with its samples.
    result      TEXT NOT NULL,
    workload    TEXT    AS (result ->> 'workload') STORED NOT NULL,
    table_name  TEXT    AS (result ->> 'table') STORED NOT NULL,
    workers     INTEGER AS (result ->> 'workers'),
    batch       INTEGER AS (result ->> 'batch'),
    connections INTEGER AS (result ->> 'connections'),
    l4          TEXT    AS (result ->> 'l4'),
    -- Medians.
    ns_per_op            REAL AS (result -> 'ns_per_op' ->> 'median'),
    ops_per_s            REAL AS (result -> 'ops_per_s' ->> 'median'),
    limit_ns             REAL AS (result ->> 'limit_ns'),
    limit_ratio          REAL AS (result ->> 'limit_ratio'),
    bytes_per_connection REAL AS (result ->> 'bytes_per_connection'),
    resolved_per_s       REAL AS (result -> 'clash' -> 'resolved_per_s' ->> 'median'),
    confirmed_per_s      REAL AS (result -> 'clash' -> 'confirmed_per_s' ->> 'median'),
    dropped_per_s        REAL AS (result -> 'clash' -> 'dropped_per_s' ->> 'median')
) STRICT;

CREATE INDEX results_by_case ON results (workload, table_name, run);
