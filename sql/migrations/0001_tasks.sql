-- Task types, tasks and their runs: the tables of Software Heritage's scheduler at version 33.

create type task_status as enum ('next_run_not_scheduled', 'next_run_scheduled', 'completed', 'disabled');
comment on type task_status is 'Where a task stands: waiting for its next run, taken by a runner, done, or switched off';

create type task_policy as enum ('recurring', 'oneshot');
comment on type task_policy is 'Whether a task comes back after its run';

create type task_priority as enum ('high', 'normal', 'low');
comment on type task_priority is 'The order in which tasks with a priority are taken; declared from first to last';

create type task_run_status as enum ('scheduled', 'started', 'eventful', 'uneventful', 'failed', 'permfailed', 'lost');
comment on type task_run_status is 'Where a run stands; the last five are ends';

create table task_type (
  type              text primary key,
  description       text not null,
  backend_name      text not null,
  default_interval  interval,
  min_interval      interval,
  max_interval      interval,
  backoff_factor    double precision,
  max_queue_length  bigint default 1000,
  num_retries       bigint,
  retry_delay       interval
);
comment on table task_type is 'Kinds of tasks that can be scheduled';
comment on column task_type.type is 'Short identifier of the task type';
comment on column task_type.description is 'What tasks of this type do, for people';
comment on column task_type.backend_name is 'Name of the Celery task and of its queue';
comment on column task_type.default_interval is 'Interval between two runs of a new task';
comment on column task_type.min_interval is 'Lower bound of the interval between two runs; null does not bound';
comment on column task_type.max_interval is 'Upper bound of the interval between two runs; null does not bound';
comment on column task_type.backoff_factor is 'An eventful run divides the interval by it, an uneventful one multiplies; null counts as 1';
comment on column task_type.max_queue_length is 'Runners never publish into the queue beyond this length; null means unbounded';
comment on column task_type.num_retries is 'How many failed runs in a row are tried again after retry_delay; null counts as 0';
comment on column task_type.retry_delay is 'Time between a failed run and its retry; null counts as one hour';

create table task (
  id                bigserial primary key,
  type              text not null references task_type (type),
  arguments         jsonb not null,
  next_run          timestamptz not null,
  current_interval  interval,
  status            task_status not null,
  policy            task_policy not null default 'recurring',
  retries_left      bigint not null default 0,
  priority          task_priority,
  check (policy <> 'recurring' or current_interval is not null)
);
comment on table task is 'Tasks, recurring and one-shot';
comment on column task.id is 'Identifier of the task';
comment on column task.type is 'Type of the task';
comment on column task.arguments is 'Arguments of the Celery task: an object with args (list) and kwargs (object)';
comment on column task.next_run is 'When the task becomes due';
comment on column task.current_interval is 'Interval to the run after next, adapted by the ends of runs';
comment on column task.status is 'Where the task stands';
comment on column task.policy is 'Whether the task comes back after its run';
comment on column task.retries_left is 'How many more failed runs in a row are tried again';
comment on column task.priority is 'Tasks with a priority go to a queue of their own; null for ordinary tasks';

create table task_run (
  id          bigserial primary key,
  task        bigint not null references task (id),
  backend_id  text,
  scheduled   timestamptz,
  started     timestamptz,
  ended       timestamptz,
  metadata    jsonb,
  status      task_run_status not null default 'scheduled'
) with (fillfactor = 80);  -- room for start and end in the same page: no index has to follow them
comment on table task_run is 'Runs of tasks, one a message sent to Celery';
comment on column task_run.id is 'Identifier of the run';
comment on column task_run.task is 'Task that runs';
comment on column task_run.backend_id is 'Identifier of the message in Celery (task id)';
comment on column task_run.scheduled is 'When the run was opened';
comment on column task_run.started is 'When a worker started it';
comment on column task_run.ended is 'When it ended';
comment on column task_run.metadata is 'What its events and its callers noted, merged by key';
comment on column task_run.status is 'Where the run stands';
