-- What a life that shuts down has begun and ended since, so that it is over with the last of its executions.

alter table worker
  add column offline_clock bigint,
  add column left_starts bigint[] not null default '{}',
  add column left_ends bigint[] not null default '{}',
  add column left_running bigint;
comment on column worker.offline_clock is 'Lamport clock of its last worker-offline; null if what follows it can''t be counted';
comment on column worker.left_starts is 'Clocks of distinct task-started after offline_clock';
comment on column worker.left_ends is 'Hashes of the distinct runs of which it signed an end after offline_clock';
comment on column worker.left_running is 'Executions that have not ended since its last worker-offline; null if they can''t be counted';
-- Each batch of events asks whether a worker that it names shuts down.
create index worker_leaving_idx on worker (hostname) where left_at is not null and ended is null;

-- The rescuer reads the lives that are not over every five seconds, beside those of a day that are.
create index worker_living_idx on worker (id) where ended is null;
