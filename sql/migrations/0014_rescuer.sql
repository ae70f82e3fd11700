-- What the rescuer needs: marks in the event queue, when a worker left, and the runs it can't judge.

create table event_mark (
  id           uuid primary key default gen_random_uuid(),
  dead_letters boolean not null,
  placed       timestamptz not null default clock_timestamp(),
  recorded     timestamptz
);
comment on table event_mark is 'Marks that the rescuer puts into the event queue: once recorded, so is all that was in the queue before';
comment on column event_mark.id is 'Identifier of the mark; one that is not here is ignored';
comment on column event_mark.dead_letters is 'Whether it was put into the dead-letter queue; recorded out of the other one it counts as nothing';
comment on column event_mark.placed is 'When it was written here, before it was sent';
comment on column event_mark.recorded is 'When a listener took it out of its queue and committed all before it';

alter table worker add column left_at timestamptz;
comment on column worker.left_at is 'When its last worker-offline arrived; whether it has come back since, online says';

create table undecided_run (
  run_id bigint primary key,
  rule   text not null,
  reason text not null,
  since  timestamptz not null default now()
);
comment on table undecided_run is 'Open runs that the rescuer would judge but can''t, as its last round found them';
comment on column undecided_run.run_id is 'Run';
comment on column undecided_run.rule is 'Rule of docs/explanation/lost-runs.md that waits';
comment on column undecided_run.reason is 'What it waits for';
comment on column undecided_run.since is 'When the rescuer first said so';

create function run_state(run task_run) returns text
language sql stable parallel safe
as $$
  select md5(cast(row(run.status, run.started, run.ended, run.begun, run.waits_since, run.worker, run.executions,
                      run.metadata) as text))
$$;
comment on function run_state(task_run) is 'Changes with all that events say of a run';

create function life_state(life worker) returns text
language sql stable parallel safe
as $$
  select md5(cast(row(life.signed, life.last_sign, life.online, life.offline, life.clock, life.ended, life.ended_by) as text))
$$;
comment on function life_state(worker) is 'Changes with each sign of the life, and with its end';
