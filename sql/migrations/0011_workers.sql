-- Workers as data: a row a life, which life began a run, and whether that run executes or waits for its message.

create table worker (
  id               bigserial primary key,
  hostname         text not null,
  pid              int,
  life             text,
  began            timestamptz not null,
  online           timestamptz,
  signed           timestamptz not null,
  first_sign       timestamptz not null default now(),
  last_sign        timestamptz,
  clock            bigint,
  processed        bigint,
  active           bigint,
  software         text,
  version          text,
  pool             text,
  blocks           boolean,
  heartbeat        double precision,
  queues           text[],
  inspected        timestamptz,
  offline          timestamptz,
  offline_active   bigint,
  clock_offset     double precision,
  events_clock     bigint,
  audit_from       bigint,
  audit_settled    bigint,
  audit_processed  bigint,
  audit_starts     bigint not null default 0,
  recent_starts    bigint[] not null default '{}',
  sample_clock     bigint,
  sample_processed bigint,
  sample_active    bigint,
  sampled          timestamptz,
  unmatched        bigint,
  missing          bigint,
  ended            timestamptz,
  ended_by         text,
  check (ended_by in ('succeeded', 'closed', 'left', 'silent', 'forgotten')),
  check ((ended is null) = (ended_by is null))
) with (fillfactor = 50);  -- heartbeats write every row again and again
create index worker_hostname_idx on worker (hostname);
comment on table worker is 'Lives: one run of a worker process each, from what it signs to how it ended';
comment on column worker.id is 'Identifier of the life';
comment on column worker.hostname is 'Celery''s name of the worker; its first 255 characters';
comment on column worker.pid is 'Process id of the worker on its machine';
comment on column worker.life is 'Random id that the scheduler''s Events class sends; null for other workers';
comment on column worker.began is 'First sign of the life that is known, by the clock of its machine';
comment on column worker.online is 'Last worker-online, by the clock of its machine';
comment on column worker.signed is 'Last worker event or task-started, by the clock of its machine';
comment on column worker.first_sign is 'When the first of its signs arrived';
comment on column worker.last_sign is 'When the last heartbeat or answer arrived; null before the first';
comment on column worker.clock is 'Lamport clock of its last heartbeat, worker-online or worker-offline';
comment on column worker.processed is 'Executions that the life had begun by then, retries included, as it says';
comment on column worker.active is 'Tasks that it executed then, as it says';
comment on column worker.software is 'Name of its software';
comment on column worker.version is 'Version of its software';
comment on column worker.pool is 'Pool that executes its tasks, as inspect says';
comment on column worker.blocks is 'Whether a task keeps this pool from giving signs of life; null if unknown';
comment on column worker.heartbeat is 'Broker heartbeat that it is configured with, in seconds; null if unknown';
comment on column worker.queues is 'Queues that it consumes from; null if unknown';
comment on column worker.inspected is 'When it was last asked for pool, heartbeat and queues';
comment on column worker.offline is 'Last worker-offline, by the clock of its machine; it may go on working or come back';
comment on column worker.offline_active is 'Tasks that it executed when it said so';
comment on column worker.clock_offset is 'Arrival of its last heartbeat less its timestamp, in seconds; decides nothing';
comment on column worker.events_clock is 'Largest clock of its task events that is recorded: all before it are';
comment on column worker.audit_from is 'Clock from which on task-started are counted; null before the first heartbeat that can be compared';
comment on column worker.audit_settled is 'Clock up to which they are counted and compared';
comment on column worker.audit_processed is 'processed at audit_from';
comment on column worker.audit_starts is 'Distinct task-started between audit_from and audit_settled';
comment on column worker.recent_starts is 'Clocks of distinct task-started that are not settled yet';
comment on column worker.sample_clock is 'Clock of the heartbeat that is compared next';
comment on column worker.sample_processed is 'processed of that heartbeat';
comment on column worker.sample_active is 'active of that heartbeat';
comment on column worker.sampled is 'When that heartbeat arrived';
comment on column worker.unmatched is 'processed less task-started at the heartbeat that was compared last';
comment on column worker.missing is 'Executions whose task-started is missing at the last two heartbeats that were compared; null before them';
comment on column worker.ended is 'When the life was found to be over';
comment on column worker.ended_by is 'Why: succeeded, closed, left, silent or forgotten';

alter table task_run
  add column worker bigint,
  add column begun timestamptz,
  add column waits_since timestamptz,
  add column executions bigint[];
comment on column task_run.worker is 'Life that began it last; null if unknown. A row that is gone ended long ago';
comment on column task_run.begun is 'Last task-started, by the clock of the worker''s machine';
comment on column task_run.waits_since is 'Last task-received, -retried, -rejected or -cancelled if it came after begun, by the clock of the worker''s machine: it waits for its message. Null while it executes';
comment on column task_run.executions is 'Hash of life, clock and timestamp of each distinct task-started, in order; the first thousand';
