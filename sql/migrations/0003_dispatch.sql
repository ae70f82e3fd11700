-- What this project adds to tasks and runs: the run that owns a task, evidence of ends, the dispatch ledger.

alter table task add column run_id bigint;
comment on column task.run_id is 'Run that owns the state of the task; only its end moves the task. Null after an operator''s change';

alter table task_run
  add column evidence smallint,
  add column retries_before bigint,
  add column interval_before interval,
  add column next_run_before timestamptz;
comment on column task_run.evidence is 'What the end rests on: 1 lost, 2 task-succeeded, 3 failed or revoked, 4 a result; a higher one corrects a lower one';
comment on column task_run.retries_before is 'retries_left of the task when the end moved it; null if it did not. A correction starts from it';
comment on column task_run.next_run_before is 'next_run of the task when the end moved it; a correction starts from it';
comment on column task_run.interval_before is 'current_interval of the task when the end moved it; a correction starts from it';

create unique index task_run_backend_id_idx on task_run (backend_id);
create index task_run_task_idx on task_run (task);

-- The grab reads these in order and stops at its limit.
create index task_ready_idx on task (type, next_run, id)
  where status = 'next_run_not_scheduled' and priority is null;
create index task_ready_priority_idx on task (type, priority, next_run, id)
  where status = 'next_run_not_scheduled' and priority is not null;
-- In flight, a type at a time.
create index task_scheduled_idx on task (type) where status = 'next_run_scheduled';
-- The twin of a new task. Eight bytes a task instead of its arguments; the comparison itself is exact.
create index task_match_idx on task (jsonb_hash_extended(arguments, 0), type);

create table dispatch_owner (
  id           bigserial primary key,
  host         text not null,
  pid          int not null,
  backend_pid  int not null,
  opened       timestamptz not null default now()
);
comment on table dispatch_owner is 'Runners that may own batches; alive as long as its session holds its advisory lock';
comment on column dispatch_owner.id is 'Identifier of the owner, and the key of its advisory lock';
comment on column dispatch_owner.host is 'Host that it runs on';
comment on column dispatch_owner.pid is 'Its process there';
comment on column dispatch_owner.backend_pid is 'PostgreSQL process of the session that holds its lock';
comment on column dispatch_owner.opened is 'When it came up';

create table dispatch_batch (
  id      bigserial primary key,
  owner   bigint not null references dispatch_owner (id),
  queue   text not null,
  runs    bigint[],
  visits  jsonb,
  opened  timestamptz not null default now(),
  check ((runs is null) <> (visits is null))
);
create index dispatch_batch_owner_idx on dispatch_batch (owner);
comment on table dispatch_batch is 'The ledger: messages that were promised and are not all confirmed yet; a row goes when the broker has confirmed them';
comment on column dispatch_batch.id is 'Identifier of the batch';
comment on column dispatch_batch.owner is 'Runner that may send it; changed by compare-and-set alone';
comment on column dispatch_batch.queue is 'Queue that it goes to';
comment on column dispatch_batch.runs is 'Runs of the batch, in sending order';
comment on column dispatch_batch.visits is 'Or its visits, which have no runs: a list of objects with id, name, url, visit_type, kwargs';
comment on column dispatch_batch.opened is 'When the batch was grabbed';

create table event_set_aside (
  id        bigserial primary key,
  received  timestamptz not null default now(),
  reason    text not null,
  body      bytea not null
);
comment on table event_set_aside is 'Events that could not be read or applied, kept for people';
comment on column event_set_aside.id is 'Identifier of the row';
comment on column event_set_aside.received is 'When it was set aside';
comment on column event_set_aside.reason is 'Why';
comment on column event_set_aside.body is 'The message body, its first 64 KiB';

-- Columns of versions 37 and 38.
alter table listed_origins
  add column if not exists is_fork boolean,
  add column if not exists forked_from_url text;
comment on column listed_origins.is_fork is 'Whether the origin is a fork, if known';
comment on column listed_origins.forked_from_url is 'Origin that it was forked from, if known';
alter table listers
  add column if not exists last_listing_finished_at timestamptz,
  add column if not exists first_visits_queue_prefix text,
  add column if not exists first_visits_scheduled_at timestamptz;
comment on column listers.last_listing_finished_at is 'When the last listing finished';
comment on column listers.first_visits_queue_prefix is 'Prefix of the queues for first visits';
comment on column listers.first_visits_scheduled_at is 'When the first visits were all handed out';
