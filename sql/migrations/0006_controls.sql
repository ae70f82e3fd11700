-- What operators decide about dispatch while it runs, what runners have seen of queues, and when runners sleep.

alter table dispatch_owner
  add column service text not null default 'runner',
  add column sleeps_until timestamptz;
comment on column dispatch_owner.service is 'What owns: runner, visits, or recovery';
comment on column dispatch_owner.sleeps_until is 'Until when its runner sleeps unless it is notified; null or past while it is awake';

create table dispatch_type (
  type           text primary key references task_type (type) on delete cascade,
  paused         timestamptz,
  paused_by      text,
  paused_reason  text,
  max_in_flight  bigint check (max_in_flight >= 0),
  rate_limit     float8 check (rate_limit > 0 and rate_limit < 'infinity'),
  tokens         float8 not null default 0,
  refilled       timestamptz
);
comment on table dispatch_type is 'Controls of a task type; without a row, or with nulls, nothing holds it back';
comment on column dispatch_type.type is 'Task type';
comment on column dispatch_type.paused is 'Since when none of its tasks is dispatched; null while it is not paused';
comment on column dispatch_type.paused_by is 'Who paused it';
comment on column dispatch_type.paused_reason is 'Why';
comment on column dispatch_type.max_in_flight is 'So many of its tasks may be in flight at a time; null for any number';
comment on column dispatch_type.rate_limit is 'So many of its tasks are dispatched a second, by all runners together; null for any number';
comment on column dispatch_type.tokens is 'Tasks that the rate limit allowed at the time of refilled; never more than those of one second, or one task';
comment on column dispatch_type.refilled is 'When tokens were counted last; null before the first time, when all are there';

create table dispatch_queue (
  queue          text primary key,
  paused         timestamptz,
  paused_by      text,
  paused_reason  text,
  filled_by      bigint,
  filled         timestamptz,
  depth          bigint,
  drain_rate     float8
);
comment on table dispatch_queue is 'Controls of a queue, and what its last filler saw of it';
comment on column dispatch_queue.queue is 'Queue';
comment on column dispatch_queue.paused is 'Since when nothing is sent to it; null while it is not paused';
comment on column dispatch_queue.paused_by is 'Who paused it';
comment on column dispatch_queue.paused_reason is 'Why';
comment on column dispatch_queue.filled_by is 'Runner that filled it last; an owner that may be gone';
comment on column dispatch_queue.filled is 'When it had a message confirmed last';
comment on column dispatch_queue.depth is 'Messages ready in it then, by its filler''s count';
comment on column dispatch_queue.drain_rate is 'Messages that its workers took a second, averaged over about the last minute; null if not known';
