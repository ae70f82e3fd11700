-- The schema that the migrations make, drawn by `make schema` (pg_dump of PostgreSQL 18).
-- Read it, don't run it.

CREATE TYPE last_visit_status AS ENUM (
    'successful',
    'failed',
    'not_found'
);

COMMENT ON TYPE last_visit_status IS 'How the last visit of an origin ended';

CREATE TYPE task_policy AS ENUM (
    'recurring',
    'oneshot'
);

COMMENT ON TYPE task_policy IS 'Whether a task comes back after its run';

CREATE TYPE task_priority AS ENUM (
    'high',
    'normal',
    'low'
);

COMMENT ON TYPE task_priority IS 'The order in which tasks with a priority are taken; declared from first to last';

CREATE TYPE task_run_status AS ENUM (
    'scheduled',
    'started',
    'eventful',
    'uneventful',
    'failed',
    'permfailed',
    'lost'
);

COMMENT ON TYPE task_run_status IS 'Where a run stands; the last five are ends';

CREATE TYPE task_status AS ENUM (
    'next_run_not_scheduled',
    'next_run_scheduled',
    'completed',
    'disabled'
);

COMMENT ON TYPE task_status IS 'Where a task stands: waiting for its next run, taken by a runner, done, or switched off';

CREATE FUNCTION count_in_flight(task_type text, at_most bigint) RETURNS TABLE(tasks bigint)
    LANGUAGE sql STABLE ROWS 1 PARALLEL SAFE
    AS $$
  select count(*) from (select from task where type = task_type and status = 'next_run_scheduled' limit at_most) as counted
$$;

COMMENT ON FUNCTION count_in_flight(task_type text, at_most bigint) IS 'How many tasks of a type are in flight, counted no further than at_most; a range of task_scheduled_idx';

CREATE TABLE worker (
    id bigint NOT NULL,
    hostname text NOT NULL,
    pid integer,
    life text,
    began timestamp with time zone NOT NULL,
    online timestamp with time zone,
    signed timestamp with time zone NOT NULL,
    first_sign timestamp with time zone DEFAULT now() NOT NULL,
    last_sign timestamp with time zone,
    clock bigint,
    processed bigint,
    active bigint,
    software text,
    version text,
    pool text,
    blocks boolean,
    heartbeat double precision,
    queues text[],
    inspected timestamp with time zone,
    offline timestamp with time zone,
    offline_active bigint,
    clock_offset double precision,
    events_clock bigint,
    audit_from bigint,
    audit_settled bigint,
    audit_processed bigint,
    audit_starts bigint DEFAULT 0 NOT NULL,
    recent_starts bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    sample_clock bigint,
    sample_processed bigint,
    sample_active bigint,
    sampled timestamp with time zone,
    unmatched bigint,
    missing bigint,
    ended timestamp with time zone,
    ended_by text,
    left_at timestamp with time zone,
    offline_clock bigint,
    left_starts bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    left_ends bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    left_running bigint,
    CONSTRAINT worker_check CHECK (((ended IS NULL) = (ended_by IS NULL))),
    CONSTRAINT worker_ended_by_check CHECK ((ended_by = ANY (ARRAY['succeeded'::text, 'closed'::text, 'left'::text, 'silent'::text, 'forgotten'::text])))
)
WITH (fillfactor='50');

COMMENT ON TABLE worker IS 'Lives: one run of a worker process each, from what it signs to how it ended';

COMMENT ON COLUMN worker.id IS 'Identifier of the life';

COMMENT ON COLUMN worker.hostname IS 'Celery''s name of the worker; its first 255 characters';

COMMENT ON COLUMN worker.pid IS 'Process id of the worker on its machine';

COMMENT ON COLUMN worker.life IS 'Random id that the scheduler''s Events class sends; null for other workers';

COMMENT ON COLUMN worker.began IS 'First sign of the life that is known, by the clock of its machine';

COMMENT ON COLUMN worker.online IS 'Last worker-online, by the clock of its machine';

COMMENT ON COLUMN worker.signed IS 'Last worker event or task-started, by the clock of its machine';

COMMENT ON COLUMN worker.first_sign IS 'When the first of its signs arrived';

COMMENT ON COLUMN worker.last_sign IS 'When the last heartbeat or answer arrived; null before the first';

COMMENT ON COLUMN worker.clock IS 'Lamport clock of its last heartbeat, worker-online or worker-offline';

COMMENT ON COLUMN worker.processed IS 'Executions that the life had begun by then, retries included, as it says';

COMMENT ON COLUMN worker.active IS 'Tasks that it executed then, as it says';

COMMENT ON COLUMN worker.software IS 'Name of its software';

COMMENT ON COLUMN worker.version IS 'Version of its software';

COMMENT ON COLUMN worker.pool IS 'Pool that executes its tasks, as inspect says';

COMMENT ON COLUMN worker.blocks IS 'Whether a task keeps this pool from giving signs of life; null if unknown';

COMMENT ON COLUMN worker.heartbeat IS 'Broker heartbeat that it is configured with, in seconds; null if unknown';

COMMENT ON COLUMN worker.queues IS 'Queues that it consumes from; null if unknown';

COMMENT ON COLUMN worker.inspected IS 'When it was last asked for pool, heartbeat and queues';

COMMENT ON COLUMN worker.offline IS 'Last worker-offline, by the clock of its machine; it may go on working or come back';

COMMENT ON COLUMN worker.offline_active IS 'Tasks that it executed when it said so';

COMMENT ON COLUMN worker.clock_offset IS 'Arrival of its last heartbeat less its timestamp, in seconds; decides nothing';

COMMENT ON COLUMN worker.events_clock IS 'Largest clock of its task events that is recorded: all before it are';

COMMENT ON COLUMN worker.audit_from IS 'Clock from which on task-started are counted; null before the first heartbeat that can be compared';

COMMENT ON COLUMN worker.audit_settled IS 'Clock up to which they are counted and compared';

COMMENT ON COLUMN worker.audit_processed IS 'processed at audit_from';

COMMENT ON COLUMN worker.audit_starts IS 'Distinct task-started between audit_from and audit_settled';

COMMENT ON COLUMN worker.recent_starts IS 'Clocks of distinct task-started that are not settled yet';

COMMENT ON COLUMN worker.sample_clock IS 'Clock of the heartbeat that is compared next';

COMMENT ON COLUMN worker.sample_processed IS 'processed of that heartbeat';

COMMENT ON COLUMN worker.sample_active IS 'active of that heartbeat';

COMMENT ON COLUMN worker.sampled IS 'When that heartbeat arrived';

COMMENT ON COLUMN worker.unmatched IS 'processed less task-started at the heartbeat that was compared last';

COMMENT ON COLUMN worker.missing IS 'Executions whose task-started is missing at the last two heartbeats that were compared; null before them';

COMMENT ON COLUMN worker.ended IS 'When the life was found to be over';

COMMENT ON COLUMN worker.ended_by IS 'Why: succeeded, closed, left, silent or forgotten';

COMMENT ON COLUMN worker.left_at IS 'When its last worker-offline arrived; whether it has come back since, online says';

COMMENT ON COLUMN worker.offline_clock IS 'Lamport clock of its last worker-offline; null if what follows it can''t be counted';

COMMENT ON COLUMN worker.left_starts IS 'Clocks of distinct task-started after offline_clock';

COMMENT ON COLUMN worker.left_ends IS 'Hashes of the distinct runs of which it signed an end after offline_clock';

COMMENT ON COLUMN worker.left_running IS 'Executions that have not ended since its last worker-offline; null if they can''t be counted';

CREATE FUNCTION life_state(life worker) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select md5(cast(row(life.signed, life.last_sign, life.online, life.offline, life.clock, life.ended, life.ended_by) as text))
$$;

COMMENT ON FUNCTION life_state(life worker) IS 'Changes with each sign of the life, and with its end';

CREATE TABLE origin_visit_stats (
    url text NOT NULL,
    visit_type text NOT NULL,
    last_successful timestamp with time zone,
    last_visit timestamp with time zone,
    last_visit_status last_visit_status,
    last_scheduled timestamp with time zone,
    last_snapshot bytea,
    next_visit_queue_position bigint,
    next_position_offset integer DEFAULT 4 NOT NULL,
    successive_visits integer DEFAULT 1 NOT NULL,
    listed_only boolean DEFAULT false NOT NULL
)
WITH (fillfactor='80');

COMMENT ON TABLE origin_visit_stats IS 'What visits found, an origin and visit type a row';

COMMENT ON COLUMN origin_visit_stats.url IS 'Address of the origin';

COMMENT ON COLUMN origin_visit_stats.visit_type IS 'Kind of visit';

COMMENT ON COLUMN origin_visit_stats.last_successful IS 'When a visit last succeeded';

COMMENT ON COLUMN origin_visit_stats.last_visit IS 'When a visit last ended';

COMMENT ON COLUMN origin_visit_stats.last_visit_status IS 'How the last visit ended';

COMMENT ON COLUMN origin_visit_stats.last_scheduled IS 'When a visit was last handed out';

COMMENT ON COLUMN origin_visit_stats.last_snapshot IS 'Identifier of the content that the last successful visit found';

COMMENT ON COLUMN origin_visit_stats.next_visit_queue_position IS 'Place in the queue of origins whose forge gives no last_update';

COMMENT ON COLUMN origin_visit_stats.next_position_offset IS 'Sets how far the next place lies ahead: less after eventful visits, more after others (0 to 10)';

COMMENT ON COLUMN origin_visit_stats.successive_visits IS 'How many visits in a row ended alike';

COMMENT ON COLUMN origin_visit_stats.listed_only IS 'The row stands because a lister lists the origin; nothing was said about its visits yet. Not shown by the API';

CREATE FUNCTION past_cooldowns(stats origin_visit_stats, absolute_before timestamp with time zone, scheduled_before timestamp with time zone, failed_before timestamp with time zone, not_found_before timestamp with time zone) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
  select coalesce(stats.last_scheduled, timestamptz '-infinity') < absolute_before
    and (stats.last_scheduled is null or stats.last_scheduled < greatest(scheduled_before, stats.last_visit))
    and (stats.last_visit_status is distinct from 'failed' or stats.last_visit is null
         or stats.last_visit < failed_before)
    and (stats.last_visit_status is distinct from 'not_found' or stats.last_visit is null
         or stats.last_visit < not_found_before)
$$;

COMMENT ON FUNCTION past_cooldowns(stats origin_visit_stats, absolute_before timestamp with time zone, scheduled_before timestamp with time zone, failed_before timestamp with time zone, not_found_before timestamp with time zone) IS 'Whether an origin may be visited again: the cut-offs of its cooldowns lie behind what they are about';

CREATE TABLE task_run (
    id bigint NOT NULL,
    task bigint NOT NULL,
    backend_id text,
    scheduled timestamp with time zone,
    started timestamp with time zone,
    ended timestamp with time zone,
    metadata jsonb,
    status task_run_status DEFAULT 'scheduled'::task_run_status NOT NULL,
    evidence smallint,
    retries_before bigint,
    interval_before interval,
    next_run_before timestamp with time zone,
    worker bigint,
    begun timestamp with time zone,
    waits_since timestamp with time zone,
    executions bigint[]
)
WITH (fillfactor='80');

COMMENT ON TABLE task_run IS 'Runs of tasks, one a message sent to Celery';

COMMENT ON COLUMN task_run.id IS 'Identifier of the run';

COMMENT ON COLUMN task_run.task IS 'Task that runs';

COMMENT ON COLUMN task_run.backend_id IS 'Identifier of the message in Celery (task id)';

COMMENT ON COLUMN task_run.scheduled IS 'When the run was opened';

COMMENT ON COLUMN task_run.started IS 'When a worker started it';

COMMENT ON COLUMN task_run.ended IS 'When it ended';

COMMENT ON COLUMN task_run.metadata IS 'What its events and its callers noted, merged by key';

COMMENT ON COLUMN task_run.status IS 'Where the run stands';

COMMENT ON COLUMN task_run.evidence IS 'What the end rests on: 1 lost, 2 task-succeeded, 3 failed or revoked, 4 a result; a higher one corrects a lower one';

COMMENT ON COLUMN task_run.retries_before IS 'retries_left of the task when the end moved it; null if it did not. A correction starts from it';

COMMENT ON COLUMN task_run.interval_before IS 'current_interval of the task when the end moved it; a correction starts from it';

COMMENT ON COLUMN task_run.next_run_before IS 'next_run of the task when the end moved it; a correction starts from it';

COMMENT ON COLUMN task_run.worker IS 'Life that began it last; null if unknown. A row that is gone ended long ago';

COMMENT ON COLUMN task_run.begun IS 'Last task-started, by the clock of the worker''s machine';

COMMENT ON COLUMN task_run.waits_since IS 'Last task-received, -retried, -rejected or -cancelled if it came after begun, by the clock of the worker''s machine: it waits for its message. Null while it executes';

COMMENT ON COLUMN task_run.executions IS 'Hash of life, clock and timestamp of each distinct task-started, in order; the first thousand';

CREATE FUNCTION run_state(run task_run) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
  select md5(cast(row(run.status, run.started, run.ended, run.begun, run.waits_since, run.worker, run.executions,
                      run.metadata) as text))
$$;

COMMENT ON FUNCTION run_state(run task_run) IS 'Changes with all that events say of a run';

CREATE TABLE dispatch_type (
    type text NOT NULL,
    paused timestamp with time zone,
    paused_by text,
    paused_reason text,
    max_in_flight bigint,
    rate_limit double precision,
    tokens double precision DEFAULT 0 NOT NULL,
    refilled timestamp with time zone,
    max_run_seconds double precision,
    keep_runs interval,
    CONSTRAINT dispatch_type_keep_runs_check CHECK (((keep_runs >= '00:00:00'::interval) AND (keep_runs <= '365000 days'::interval))),
    CONSTRAINT dispatch_type_max_in_flight_check CHECK ((max_in_flight >= 0)),
    CONSTRAINT dispatch_type_max_run_seconds_check CHECK (((max_run_seconds > (0)::double precision) AND (max_run_seconds < 'Infinity'::double precision))),
    CONSTRAINT dispatch_type_rate_limit_check CHECK (((rate_limit > (0)::double precision) AND (rate_limit < 'Infinity'::double precision)))
);

COMMENT ON TABLE dispatch_type IS 'Controls of a task type: what holds it back, and what limits its runs; nulls, or no row, limit nothing';

COMMENT ON COLUMN dispatch_type.type IS 'Task type';

COMMENT ON COLUMN dispatch_type.paused IS 'Since when none of its tasks is dispatched; null while it is not paused';

COMMENT ON COLUMN dispatch_type.paused_by IS 'Who paused it';

COMMENT ON COLUMN dispatch_type.paused_reason IS 'Why';

COMMENT ON COLUMN dispatch_type.max_in_flight IS 'So many of its tasks may be in flight at a time; null for any number';

COMMENT ON COLUMN dispatch_type.rate_limit IS 'So many of its tasks are dispatched a second, by all runners together; null for any number';

COMMENT ON COLUMN dispatch_type.tokens IS 'Tasks that the rate limit allowed at the time of refilled; never more than those of one second, or one task';

COMMENT ON COLUMN dispatch_type.refilled IS 'When tokens were counted last; null before the first time, when all are there';

COMMENT ON COLUMN dispatch_type.max_run_seconds IS 'How long a run of it may take from its start; null for any time';

COMMENT ON COLUMN dispatch_type.keep_runs IS 'Ended runs of it that are older are deleted, unless a task follows them; null keeps them';

CREATE FUNCTION tokens_at(controls dispatch_type, clock timestamp with time zone) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
  select least(
    greatest(1.0, controls.rate_limit),
    coalesce(
      -- From infinity nothing can be subtracted.
      case when isfinite(controls.refilled) then
        controls.tokens + controls.rate_limit * extract(epoch from clock - controls.refilled) end,
      greatest(1.0, controls.rate_limit)
    )
  )
$$;

COMMENT ON FUNCTION tokens_at(controls dispatch_type, clock timestamp with time zone) IS 'Tokens of a task type with a rate limit; its bucket holds those of a second, and at least one';

CREATE TABLE dispatch_batch (
    id bigint NOT NULL,
    session_id bigint NOT NULL,
    queue text NOT NULL,
    runs bigint[],
    visits jsonb,
    opened timestamp with time zone DEFAULT now() NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    tried timestamp with time zone,
    CONSTRAINT dispatch_batch_check CHECK (((runs IS NULL) <> (visits IS NULL)))
);

COMMENT ON TABLE dispatch_batch IS 'The outbox: messages that the broker has not all confirmed yet; a row goes when it has';

COMMENT ON COLUMN dispatch_batch.id IS 'Identifier of the batch';

COMMENT ON COLUMN dispatch_batch.session_id IS 'Dispatcher session that may send it; changed by compare-and-set alone';

COMMENT ON COLUMN dispatch_batch.queue IS 'Queue that it is sent to';

COMMENT ON COLUMN dispatch_batch.runs IS 'Runs of the batch, in sending order';

COMMENT ON COLUMN dispatch_batch.visits IS 'Or its visits, which have no runs: a list of objects with id, name, url, visit_type, kwargs';

COMMENT ON COLUMN dispatch_batch.opened IS 'When the batch was grabbed';

COMMENT ON COLUMN dispatch_batch.attempts IS 'How often the batch was sent again without a message confirmed';

COMMENT ON COLUMN dispatch_batch.tried IS 'When it was sent again last; null before the first time, and after messages were confirmed';

CREATE SEQUENCE dispatch_batch_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE dispatch_batch_id_seq OWNED BY dispatch_batch.id;

CREATE TABLE dispatch_queue (
    queue text NOT NULL,
    paused timestamp with time zone,
    paused_by text,
    paused_reason text,
    published_by bigint,
    published timestamp with time zone,
    depth bigint,
    drain_rate double precision
);

COMMENT ON TABLE dispatch_queue IS 'Pause of a queue, and what its last lease found';

COMMENT ON COLUMN dispatch_queue.queue IS 'Queue';

COMMENT ON COLUMN dispatch_queue.paused IS 'Since when nothing is sent to it; null while it is not paused';

COMMENT ON COLUMN dispatch_queue.paused_by IS 'Who paused it';

COMMENT ON COLUMN dispatch_queue.paused_reason IS 'Why';

COMMENT ON COLUMN dispatch_queue.published_by IS 'Dispatcher session that published to it last; it may be gone';

COMMENT ON COLUMN dispatch_queue.published IS 'When the broker last confirmed a message to it';

COMMENT ON COLUMN dispatch_queue.depth IS 'Messages ready in it then, as the lease counted';

COMMENT ON COLUMN dispatch_queue.drain_rate IS 'Messages that its workers took a second, averaged over about the last minute; null if not known';

CREATE TABLE dispatcher_session (
    id bigint NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    backend_pid integer NOT NULL,
    opened timestamp with time zone DEFAULT now() NOT NULL,
    service text DEFAULT 'runner'::text NOT NULL,
    sleeps_until timestamp with time zone
);

COMMENT ON TABLE dispatcher_session IS 'Sessions of services; each lives as long as it holds its advisory lock, and those that dispatch have batches';

COMMENT ON COLUMN dispatcher_session.id IS 'Identifier of the session, and the key of its advisory lock';

COMMENT ON COLUMN dispatcher_session.host IS 'Host that it runs on';

COMMENT ON COLUMN dispatcher_session.pid IS 'Its process there';

COMMENT ON COLUMN dispatcher_session.backend_pid IS 'PostgreSQL process of the session';

COMMENT ON COLUMN dispatcher_session.opened IS 'When it came up';

COMMENT ON COLUMN dispatcher_session.service IS 'Service that opened it: runner, listener, visits, rescuer, or recovery';

COMMENT ON COLUMN dispatcher_session.sleeps_until IS 'Until when its runner sleeps unless it is notified; null or past while it is awake';

CREATE SEQUENCE dispatcher_session_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE dispatcher_session_id_seq OWNED BY dispatcher_session.id;

CREATE TABLE event_mark (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    dead_letters boolean NOT NULL,
    placed timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    recorded timestamp with time zone
);

COMMENT ON TABLE event_mark IS 'Marks that the rescuer puts into the event queue: once recorded, so is all that was in the queue before';

COMMENT ON COLUMN event_mark.id IS 'Identifier of the mark; one that is not here is ignored';

COMMENT ON COLUMN event_mark.dead_letters IS 'Whether it was put into the dead-letter queue; recorded out of the other one it counts as nothing';

COMMENT ON COLUMN event_mark.placed IS 'When it was written here, before it was sent';

COMMENT ON COLUMN event_mark.recorded IS 'When a listener took it out of its queue and committed all before it';

CREATE TABLE listed_origins (
    lister_id uuid NOT NULL,
    url text NOT NULL,
    visit_type text NOT NULL,
    extra_loader_arguments jsonb NOT NULL,
    enabled boolean NOT NULL,
    first_seen timestamp with time zone DEFAULT now() NOT NULL,
    last_seen timestamp with time zone NOT NULL,
    last_update timestamp with time zone,
    is_fork boolean,
    forked_from_url text,
    visit_loaded boolean DEFAULT false NOT NULL,
    visit_successful boolean DEFAULT false NOT NULL,
    visit_last_successful timestamp with time zone,
    visit_queue_position bigint
)
WITH (fillfactor='85');

COMMENT ON TABLE listed_origins IS 'Origins that listers know of';

COMMENT ON COLUMN listed_origins.lister_id IS 'Lister that lists the origin';

COMMENT ON COLUMN listed_origins.url IS 'Address of the origin';

COMMENT ON COLUMN listed_origins.visit_type IS 'Kind of visit that loads it';

COMMENT ON COLUMN listed_origins.extra_loader_arguments IS 'Keyword arguments of the loader beside the address';

COMMENT ON COLUMN listed_origins.enabled IS 'Whether the origin is to be visited';

COMMENT ON COLUMN listed_origins.first_seen IS 'When the lister first listed it';

COMMENT ON COLUMN listed_origins.last_seen IS 'When the lister last listed it';

COMMENT ON COLUMN listed_origins.last_update IS 'When it last changed, as its forge says; null if the forge does not say';

COMMENT ON COLUMN listed_origins.is_fork IS 'Whether the origin is a fork, if known';

COMMENT ON COLUMN listed_origins.forked_from_url IS 'Origin that it was forked from, if known';

COMMENT ON COLUMN listed_origins.visit_loaded IS 'Mirror of origin_visit_stats: last_snapshot is known';

COMMENT ON COLUMN listed_origins.visit_successful IS 'Mirror of origin_visit_stats: last_visit_status is successful';

COMMENT ON COLUMN listed_origins.visit_last_successful IS 'Mirror of origin_visit_stats: last_successful';

COMMENT ON COLUMN listed_origins.visit_queue_position IS 'Mirror of origin_visit_stats: next_visit_queue_position';

CREATE TABLE listers (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    name text NOT NULL,
    instance_name text NOT NULL,
    created timestamp with time zone DEFAULT now() NOT NULL,
    current_state jsonb NOT NULL,
    updated timestamp with time zone NOT NULL,
    last_listing_finished_at timestamp with time zone,
    first_visits_queue_prefix text,
    first_visits_scheduled_at timestamp with time zone
);

COMMENT ON TABLE listers IS 'Listers: each enumerates the origins of one instance of a forge';

COMMENT ON COLUMN listers.id IS 'Identifier of the lister';

COMMENT ON COLUMN listers.name IS 'Kind of lister';

COMMENT ON COLUMN listers.instance_name IS 'Instance of the forge that it lists';

COMMENT ON COLUMN listers.created IS 'When the lister was recorded';

COMMENT ON COLUMN listers.current_state IS 'Where an incremental lister goes on from; its own business';

COMMENT ON COLUMN listers.updated IS 'When the row was last written; compared by update_lister';

COMMENT ON COLUMN listers.last_listing_finished_at IS 'When the last listing finished';

COMMENT ON COLUMN listers.first_visits_queue_prefix IS 'Prefix of the queues for first visits';

COMMENT ON COLUMN listers.first_visits_scheduled_at IS 'When the first visits were all handed out';

CREATE VIEW living_session AS
 SELECT (objid)::bigint AS session_id,
    pid AS backend_pid
   FROM pg_locks
  WHERE ((locktype = 'advisory'::text) AND granted AND (classid = (378094)::oid) AND (objsubid = 2) AND (database = ( SELECT pg_database.oid
           FROM pg_database
          WHERE (pg_database.datname = current_database()))));

COMMENT ON VIEW living_session IS 'Dispatcher sessions that live: each holds its advisory lock';

COMMENT ON COLUMN living_session.session_id IS 'Identifier of the session';

COMMENT ON COLUMN living_session.backend_pid IS 'PostgreSQL process of the session';

CREATE TABLE task_type (
    type text NOT NULL,
    description text NOT NULL,
    backend_name text NOT NULL,
    default_interval interval,
    min_interval interval,
    max_interval interval,
    backoff_factor double precision,
    max_queue_length bigint DEFAULT 1000,
    num_retries bigint,
    retry_delay interval
);

COMMENT ON TABLE task_type IS 'Kinds of tasks that can be scheduled';

COMMENT ON COLUMN task_type.type IS 'Short identifier of the task type';

COMMENT ON COLUMN task_type.description IS 'What tasks of this type do, for people';

COMMENT ON COLUMN task_type.backend_name IS 'Name of the Celery task and of its queue';

COMMENT ON COLUMN task_type.default_interval IS 'Interval between two runs of a new task';

COMMENT ON COLUMN task_type.min_interval IS 'Lower bound of the interval between two runs; null does not bound';

COMMENT ON COLUMN task_type.max_interval IS 'Upper bound of the interval between two runs; null does not bound';

COMMENT ON COLUMN task_type.backoff_factor IS 'An eventful run divides the interval by it, an uneventful one multiplies; null counts as 1';

COMMENT ON COLUMN task_type.max_queue_length IS 'Runners never publish into the queue beyond this length; null means unbounded';

COMMENT ON COLUMN task_type.num_retries IS 'How many failed runs in a row are tried again after retry_delay; null counts as 0';

COMMENT ON COLUMN task_type.retry_delay IS 'Time between a failed run and its retry; null counts as one hour';

CREATE VIEW queue_limit AS
 SELECT backend_name AS queue,
    min(max_queue_length) AS max_queue_length
   FROM task_type
  GROUP BY backend_name;

COMMENT ON VIEW queue_limit IS 'Limits of the queues of task types: those that share a queue share the least of theirs';

COMMENT ON COLUMN queue_limit.queue IS 'Queue, backend_name of task types';

COMMENT ON COLUMN queue_limit.max_queue_length IS 'The least max_queue_length of these types; null means unbounded';

CREATE TABLE rejected_event (
    id bigint NOT NULL,
    received timestamp with time zone DEFAULT now() NOT NULL,
    reason text NOT NULL,
    body bytea NOT NULL,
    size bigint,
    properties jsonb DEFAULT '{}'::jsonb NOT NULL
);

COMMENT ON TABLE rejected_event IS 'Events that could not be read or applied, kept for people';

COMMENT ON COLUMN rejected_event.id IS 'Identifier of the row';

COMMENT ON COLUMN rejected_event.received IS 'When it was rejected';

COMMENT ON COLUMN rejected_event.reason IS 'Why';

COMMENT ON COLUMN rejected_event.body IS 'The message body: whole, or its first 64 KiB where it is longer than an event may be';

COMMENT ON COLUMN rejected_event.size IS 'Bytes of the whole body; null in rows of before, which have its first 64 KiB';

COMMENT ON COLUMN rejected_event.properties IS 'What the broker says of the message, and why it was dead-lettered; an object of texts';

CREATE SEQUENCE rejected_event_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE rejected_event_id_seq OWNED BY rejected_event.id;

CREATE TABLE scheduler_metrics (
    lister_id uuid NOT NULL,
    visit_type text NOT NULL,
    last_update timestamp with time zone NOT NULL,
    origins_known integer DEFAULT 0 NOT NULL,
    origins_enabled integer DEFAULT 0 NOT NULL,
    origins_never_visited integer DEFAULT 0 NOT NULL,
    origins_with_pending_changes integer DEFAULT 0 NOT NULL
);

COMMENT ON TABLE scheduler_metrics IS 'Counts of origins, a lister and visit type a row';

COMMENT ON COLUMN scheduler_metrics.lister_id IS 'Lister that lists the origins';

COMMENT ON COLUMN scheduler_metrics.visit_type IS 'Kind of visit';

COMMENT ON COLUMN scheduler_metrics.last_update IS 'When the counts were taken';

COMMENT ON COLUMN scheduler_metrics.origins_known IS 'Origins that the lister knows';

COMMENT ON COLUMN scheduler_metrics.origins_enabled IS 'Origins to be visited';

COMMENT ON COLUMN scheduler_metrics.origins_never_visited IS 'Enabled origins never visited';

COMMENT ON COLUMN scheduler_metrics.origins_with_pending_changes IS 'Enabled origins whose last_update lies after their last visit';

CREATE TABLE swh_sched_runner_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE task (
    id bigint NOT NULL,
    type text NOT NULL,
    arguments jsonb NOT NULL,
    next_run timestamp with time zone NOT NULL,
    current_interval interval,
    status task_status NOT NULL,
    policy task_policy DEFAULT 'recurring'::task_policy NOT NULL,
    retries_left bigint DEFAULT 0 NOT NULL,
    priority task_priority,
    run_id bigint,
    CONSTRAINT task_check CHECK (((policy <> 'recurring'::task_policy) OR (current_interval IS NOT NULL)))
);

COMMENT ON TABLE task IS 'Tasks, recurring and one-shot';

COMMENT ON COLUMN task.id IS 'Identifier of the task';

COMMENT ON COLUMN task.type IS 'Type of the task';

COMMENT ON COLUMN task.arguments IS 'Arguments of the Celery task: an object with args (list) and kwargs (object)';

COMMENT ON COLUMN task.next_run IS 'When the task becomes due';

COMMENT ON COLUMN task.current_interval IS 'Interval to the run after next, adapted by the ends of runs';

COMMENT ON COLUMN task.status IS 'Where the task stands';

COMMENT ON COLUMN task.policy IS 'Whether the task comes back after its run';

COMMENT ON COLUMN task.retries_left IS 'How many more failed runs in a row are tried again';

COMMENT ON COLUMN task.priority IS 'Tasks with a priority go to a queue of their own; null for ordinary tasks';

COMMENT ON COLUMN task.run_id IS 'Run that owns the state of the task; only its end moves the task. Null after an operator''s change';

CREATE SEQUENCE task_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE task_id_seq OWNED BY task.id;

CREATE VIEW task_in_flight AS
 SELECT t.id AS task,
    t.type,
    t.priority,
    r.id AS run,
    r.scheduled,
    r.started
   FROM (task t
     LEFT JOIN task_run r ON ((r.id = t.run_id)))
  WHERE ((t.status = 'next_run_scheduled'::task_status) AND (r.ended IS NULL));

COMMENT ON VIEW task_in_flight IS 'Tasks that were taken and whose run has not ended; one that has no run yet is among them';

COMMENT ON COLUMN task_in_flight.task IS 'Task';

COMMENT ON COLUMN task_in_flight.type IS 'Type of the task';

COMMENT ON COLUMN task_in_flight.priority IS 'Priority of the task; null for ordinary tasks';

COMMENT ON COLUMN task_in_flight.run IS 'Run that owns the task; null if it has none';

COMMENT ON COLUMN task_in_flight.scheduled IS 'When that run was opened';

COMMENT ON COLUMN task_in_flight.started IS 'When a worker started it; null while it waits for one';

CREATE SEQUENCE task_run_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE task_run_id_seq OWNED BY task_run.id;

CREATE TABLE undecided_run (
    run_id bigint NOT NULL,
    rule text NOT NULL,
    reason text NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE undecided_run IS 'Open runs that the rescuer would judge but can''t, as its last round found them';

COMMENT ON COLUMN undecided_run.run_id IS 'Run';

COMMENT ON COLUMN undecided_run.rule IS 'Rule of docs/explanation/lost-runs.md that waits';

COMMENT ON COLUMN undecided_run.reason IS 'What it waits for';

COMMENT ON COLUMN undecided_run.since IS 'When the rescuer first said so';

CREATE TABLE visit_scheduler_queue_position (
    visit_type text NOT NULL,
    "position" bigint NOT NULL
);

COMMENT ON TABLE visit_scheduler_queue_position IS 'How far the visit scheduler has come in the queue of origins without last_update';

COMMENT ON COLUMN visit_scheduler_queue_position.visit_type IS 'Kind of visit';

COMMENT ON COLUMN visit_scheduler_queue_position."position" IS 'Largest place handed out so far';

CREATE SEQUENCE worker_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE worker_id_seq OWNED BY worker.id;

ALTER TABLE ONLY dispatch_batch ALTER COLUMN id SET DEFAULT nextval('dispatch_batch_id_seq'::regclass);

ALTER TABLE ONLY dispatcher_session ALTER COLUMN id SET DEFAULT nextval('dispatcher_session_id_seq'::regclass);

ALTER TABLE ONLY rejected_event ALTER COLUMN id SET DEFAULT nextval('rejected_event_id_seq'::regclass);

ALTER TABLE ONLY task ALTER COLUMN id SET DEFAULT nextval('task_id_seq'::regclass);

ALTER TABLE ONLY task_run ALTER COLUMN id SET DEFAULT nextval('task_run_id_seq'::regclass);

ALTER TABLE ONLY worker ALTER COLUMN id SET DEFAULT nextval('worker_id_seq'::regclass);

ALTER TABLE ONLY dispatch_batch
    ADD CONSTRAINT dispatch_batch_pkey PRIMARY KEY (id);

ALTER TABLE ONLY dispatch_queue
    ADD CONSTRAINT dispatch_queue_pkey PRIMARY KEY (queue);

ALTER TABLE ONLY dispatch_type
    ADD CONSTRAINT dispatch_type_pkey PRIMARY KEY (type);

ALTER TABLE ONLY dispatcher_session
    ADD CONSTRAINT dispatcher_session_pkey PRIMARY KEY (id);

ALTER TABLE ONLY event_mark
    ADD CONSTRAINT event_mark_pkey PRIMARY KEY (id);

ALTER TABLE ONLY listed_origins
    ADD CONSTRAINT listed_origins_pkey PRIMARY KEY (lister_id, url, visit_type);

ALTER TABLE ONLY listers
    ADD CONSTRAINT listers_pkey PRIMARY KEY (id);

ALTER TABLE ONLY origin_visit_stats
    ADD CONSTRAINT origin_visit_stats_pkey PRIMARY KEY (url, visit_type);

ALTER TABLE ONLY rejected_event
    ADD CONSTRAINT rejected_event_pkey PRIMARY KEY (id);

ALTER TABLE ONLY scheduler_metrics
    ADD CONSTRAINT scheduler_metrics_pkey PRIMARY KEY (lister_id, visit_type);

ALTER TABLE ONLY swh_sched_runner_version
    ADD CONSTRAINT swh_sched_runner_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY task
    ADD CONSTRAINT task_pkey PRIMARY KEY (id);

ALTER TABLE ONLY task_run
    ADD CONSTRAINT task_run_pkey PRIMARY KEY (id);

ALTER TABLE ONLY task_type
    ADD CONSTRAINT task_type_pkey PRIMARY KEY (type);

ALTER TABLE ONLY undecided_run
    ADD CONSTRAINT undecided_run_pkey PRIMARY KEY (run_id);

ALTER TABLE ONLY visit_scheduler_queue_position
    ADD CONSTRAINT visit_scheduler_queue_position_pkey PRIMARY KEY (visit_type);

ALTER TABLE ONLY worker
    ADD CONSTRAINT worker_pkey PRIMARY KEY (id);

CREATE INDEX dispatch_batch_session_id_idx ON dispatch_batch USING btree (session_id);

CREATE INDEX listed_origins_disabled_idx ON listed_origins USING btree (visit_type) WHERE (NOT enabled);

CREATE INDEX listed_origins_lag_idx ON listed_origins USING btree (visit_type, ((last_update - visit_last_successful)) DESC) WHERE (enabled AND (last_update > visit_last_successful));

CREATE INDEX listed_origins_queue_idx ON listed_origins USING btree (visit_type, visit_queue_position NULLS FIRST, first_seen) WHERE (enabled AND (last_update IS NULL));

CREATE INDEX listed_origins_unloaded_idx ON listed_origins USING btree (visit_type, last_update) WHERE (enabled AND (NOT visit_loaded) AND (last_update IS NOT NULL));

CREATE INDEX listed_origins_unsuccessful_idx ON listed_origins USING btree (visit_type, last_update, first_seen) WHERE (enabled AND (NOT visit_successful));

CREATE INDEX listed_origins_url_idx ON listed_origins USING btree (url, visit_type);

CREATE UNIQUE INDEX listers_name_instance_name_idx ON listers USING btree (name, instance_name);

CREATE INDEX origin_visit_stats_scheduled_idx ON origin_visit_stats USING btree (visit_type, COALESCE(last_scheduled, '-infinity'::timestamp with time zone));

CREATE INDEX task_match_over_idx ON task USING btree (jsonb_hash_extended(arguments, (0)::bigint), type) WHERE (status = ANY (ARRAY['completed'::task_status, 'disabled'::task_status]));

CREATE INDEX task_match_waiting_idx ON task USING btree (jsonb_hash_extended(arguments, (0)::bigint), type) WHERE (status = ANY (ARRAY['next_run_not_scheduled'::task_status, 'next_run_scheduled'::task_status]));

CREATE INDEX task_ready_idx ON task USING btree (type, next_run, id) WHERE ((status = 'next_run_not_scheduled'::task_status) AND (priority IS NULL));

CREATE INDEX task_ready_priority_idx ON task USING btree (type, priority, next_run, id) WHERE ((status = 'next_run_not_scheduled'::task_status) AND (priority IS NOT NULL));

CREATE UNIQUE INDEX task_run_backend_id_idx ON task_run USING btree (backend_id);

CREATE INDEX task_run_task_idx ON task_run USING btree (task);

CREATE INDEX task_run_time_idx ON task_run USING btree (COALESCE(started, scheduled), id);

CREATE INDEX task_scheduled_idx ON task USING btree (type) WHERE (status = 'next_run_scheduled'::task_status);

CREATE INDEX worker_hostname_idx ON worker USING btree (hostname);

CREATE INDEX worker_leaving_idx ON worker USING btree (hostname) WHERE ((left_at IS NOT NULL) AND (ended IS NULL));

CREATE INDEX worker_living_idx ON worker USING btree (id) WHERE (ended IS NULL);

ALTER TABLE ONLY dispatch_batch
    ADD CONSTRAINT dispatch_batch_session_id_fkey FOREIGN KEY (session_id) REFERENCES dispatcher_session(id);

ALTER TABLE ONLY dispatch_type
    ADD CONSTRAINT dispatch_type_type_fkey FOREIGN KEY (type) REFERENCES task_type(type) ON DELETE CASCADE;

ALTER TABLE ONLY listed_origins
    ADD CONSTRAINT listed_origins_lister_id_fkey FOREIGN KEY (lister_id) REFERENCES listers(id);

ALTER TABLE ONLY scheduler_metrics
    ADD CONSTRAINT scheduler_metrics_lister_id_fkey FOREIGN KEY (lister_id) REFERENCES listers(id);

ALTER TABLE ONLY task_run
    ADD CONSTRAINT task_run_task_fkey FOREIGN KEY (task) REFERENCES task(id);

ALTER TABLE ONLY task
    ADD CONSTRAINT task_type_fkey FOREIGN KEY (type) REFERENCES task_type(type);
