-- The projections. `run` is the number in r12, `task` the index in r12/17; times are Unix milliseconds; states are the
-- words of `clove --json`; config, result, spec and certificate are JSON (try `json_extract(result, '$.rmse')`).

-- How far the journal is contained. `schema_version` repeats user_version, so that a flipped bit in one isn't believed.
CREATE TABLE projection (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    schema_version INTEGER NOT NULL,
    applied_seq INTEGER NOT NULL,
    journal TEXT NOT NULL
) STRICT;

CREATE TABLE runs (
    run INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    message TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    submitted_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    cpu_us INTEGER NOT NULL,
    peak_memory_bytes INTEGER NOT NULL,
    -- Tasks that an executor session's owner has taken in: they count, but have no row any more.
    taken_done INTEGER NOT NULL,
    taken_failed INTEGER NOT NULL,
    taken_quarantined INTEGER NOT NULL,
    taken_cancelled INTEGER NOT NULL,
    spec TEXT NOT NULL
) STRICT;

CREATE TABLE tasks (
    run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
    task INTEGER NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    agent TEXT,
    started_ms INTEGER,
    ended_ms INTEGER,
    elapsed_us INTEGER,
    payload_bytes INTEGER NOT NULL,
    payload_blob TEXT,
    exception_class TEXT,
    exception_message TEXT,
    exception_traceback TEXT,
    config TEXT NOT NULL,
    result TEXT,
    PRIMARY KEY (run, task)
) STRICT;
CREATE INDEX tasks_by_state ON tasks (run, state);

-- Attempts that ended other than well.
CREATE TABLE attempts (
    run INTEGER NOT NULL,
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    agent TEXT NOT NULL,
    cause TEXT NOT NULL,
    exit_code INTEGER,
    signal INTEGER,
    message TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    peak_memory_bytes INTEGER NOT NULL,
    certificate TEXT NOT NULL,
    PRIMARY KEY (run, task, attempt),
    FOREIGN KEY (run, task) REFERENCES tasks (run, task) ON DELETE CASCADE
) STRICT;

-- No reference to runs: an agent may outlast what is kept of its run.
CREATE TABLE agents (
    agent TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    run INTEGER,
    task INTEGER,
    attempt INTEGER NOT NULL,
    command TEXT NOT NULL,
    pid INTEGER,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    memory_limit_bytes INTEGER NOT NULL,
    ended TEXT,
    missing_walls TEXT NOT NULL,
    missing_limits TEXT NOT NULL,
    -- `default` when its start isn't known.
    profile TEXT NOT NULL DEFAULT 'default',
    certificate TEXT
) STRICT;
CREATE INDEX agents_by_name ON agents (name);
CREATE INDEX agents_by_run ON agents (run) WHERE run IS NOT NULL;

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    wall_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    agent TEXT,
    run INTEGER
) STRICT;

-- For people, and for `clove sweep ls`.
CREATE VIEW run_summary AS
SELECT run, name, kind, state, message, jobs, submitted_ms, ended_ms,
    (SELECT count(*) FROM tasks t WHERE t.run = r.run AND t.state IN ('pending', 'backoff')) AS pending,
    (SELECT count(*) FROM tasks t WHERE t.run = r.run AND t.state = 'running') AS running,
    taken_done + (SELECT count(*) FROM tasks t WHERE t.run = r.run AND t.state = 'done') AS done,
    taken_failed + (SELECT count(*) FROM tasks t WHERE t.run = r.run AND t.state = 'failed') AS failed,
    taken_quarantined + (SELECT count(*) FROM tasks t WHERE t.run = r.run AND t.state = 'quarantined') AS quarantined,
    taken_cancelled + (SELECT count(*) FROM tasks t WHERE t.run = r.run AND t.state = 'cancelled') AS cancelled,
    cpu_us / 1e6 AS cpu_seconds, peak_memory_bytes
FROM runs r;

-- For people, and for `clove sweep show`. `cause` is why a task was given up.
CREATE VIEW results AS
SELECT run, task, name, state, attempts, elapsed_us / 1e6 AS seconds, config, result,
    CASE WHEN state IN ('failed', 'quarantined') THEN coalesce(
        (SELECT cause FROM attempts a WHERE a.run = t.run AND a.task = t.task ORDER BY attempt DESC LIMIT 1),
        CASE WHEN exception_class IS NOT NULL THEN 'exception' ELSE 'unknown' END)
    END AS cause,
    exception_class, exception_message
FROM tasks t;
