-- name: harden_session
-- The server notices within 10 s that the client is gone, so that its lock comes free. No effect on a socket file.
-- What this session writes (who it is, until when it sleeps) says nothing after a crash: it need not wait for the disk.
select set_config('tcp_keepalives_idle', '3', false), set_config('tcp_keepalives_interval', '2', false),
       set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '10000', false),
       set_config('idle_session_timeout', '0', false), set_config('synchronous_commit', 'off', false);

-- name: backend_pid
-- The server process behind this session; differs from what the driver was told behind a pooler.
select pg_backend_pid();

-- name: register_session
-- A new dispatcher session; it takes the advisory lock of its id next.
insert into dispatcher_session (service, host, pid, backend_pid)
values (:service, :host, :pid, pg_backend_pid())
returning id;

-- name: try_lock_session
-- Take an advisory lock about a dispatcher session: the one that it holds as long as it lives, or the one for taking over
-- from it.
select pg_try_advisory_lock(:lock_class, :session_id);

-- name: unlock_session
-- Give such a lock back.
select pg_advisory_unlock(:lock_class, :session_id);

-- name: end_session
-- End the server process that the session registered, while it holds the session's lock (a process that has the number
-- now does not). Whoever else holds the lock is a successor, and healthy.
select coalesce(bool_or(pg_terminate_backend(l.backend_pid)), false)
from dispatcher_session s
join living_session l on l.session_id = s.id and l.backend_pid = s.backend_pid
where s.id = :session_id;

-- name: forget_session
-- Remove a session that is gone, once it has no batches.
delete from dispatcher_session o
where id = :session_id and not exists (select from dispatch_batch b where b.session_id = o.id);

-- name: visit_queue
-- Queue of the tasks of a type, and its max_queue_length.
select tt.backend_name, (select max_queue_length from queue_limit where queue = tt.backend_name) as max_queue_length
from task_type tt
where tt.type = :task_type;

-- name: open_batch
-- Take due tasks of a group, open their runs, write the batch: of tasks without priority the longest due first, of those
-- with one high, normal, low, then the longest due. Two runners never take the same task. The ids of the runs begin with
-- the time: an index of random ones takes a page a run, read and written whole, as soon as it outgrows the memory.
-- ``with_priority`` is known when the statement is planned: the planner takes the case for a constant, or for the column
-- of an index, and walks task_ready_idx or task_ready_priority_idx in its order.
with ready as materialized (  -- materialized: the limit must hold before the update
  select id
  from task
  where type = :task_type and status = 'next_run_not_scheduled'
    and (priority is not null) = cast(:with_priority as boolean)
    and next_run <= coalesce(cast(:now as timestamptz), now())
    and not exists (select from dispatch_queue where queue = :queue and paused is not null)
  order by case when cast(:with_priority as boolean) then priority end, next_run, id
  limit cast(:num_tasks as bigint)
  for no key update skip locked
), grabbed as (  -- by an array: a join with the tasks would read all of them while they are few
  update task
  set status = 'next_run_scheduled', run_id = nextval('task_run_id_seq')
  where id = any(array(select id from ready))
  returning id, priority, next_run, run_id, arguments
), opened as materialized (
  select id as task, row_number() over (order by priority, next_run, id) as n, run_id as run, arguments,
         overlay(cast(gen_random_uuid() as text) placing :id_prefix from 1) as backend_id
  from grabbed
), runs as (
  insert into task_run (id, task, backend_id, scheduled, metadata)
  select run, task, backend_id, now(), '{}' from opened
), batch as (
  insert into dispatch_batch (session_id, queue, runs)
  select cast(:session_id as bigint), :queue, array_agg(run order by n) from opened having count(*) > 0
  returning id
)
select batch.id as batch, o.backend_id, o.arguments
from opened o
cross join batch
order by o.n;

-- name: open_visit_batch
-- Write a batch of visits, which have no runs: the outbox holds the messages themselves.
insert into dispatch_batch (session_id, queue, visits)
values (:session_id, :queue, cast(:visits as jsonb))
returning id;

-- name: close_batch
-- The broker has confirmed all of the batch.
delete from dispatch_batch where id = :batch and session_id = :session_id;

-- name: keep_unconfirmed
-- Part of the batch is confirmed, or nothing: the rest stays in the outbox. By message id.
update dispatch_batch
set attempts = case when cast(:progress as boolean) then 0 else attempts end,
    tried = case when not :progress then tried end,
    runs = case when runs is not null then
             array(select u.run from unnest(runs) with ordinality as u (run, n)
                   join task_run r on r.id = u.run
                   where r.backend_id = any(cast(:unconfirmed as text[])) order by u.n) end,
    visits = case when visits is not null then
               (select coalesce(jsonb_agg(v.visit order by v.n), '[]') from jsonb_array_elements(visits) with ordinality as v (visit, n)
                where v.visit ->> 'id' = any(cast(:unconfirmed as text[]))) end
where id = :batch and session_id = :session_id;

-- name: tasks_of_batch
-- The tasks of a batch, for the log.
select r.task
from dispatch_batch b
cross join unnest(b.runs) as u (run)
join task_run r on r.id = u.run
where b.id = :batch
order by r.task;

-- name: open_batches
-- The batches of a session, but those for paused queues: one after the other, so that one that can't be sent doesn't keep others
-- waiting. ``due``: after each try without success it is left alone for longer, up to half a minute.
select id, queue,
       tried is null or tried + make_interval(secs => least(30, 2 ^ (least(attempts, 6) - 1))) <= clock_timestamp() as due
from dispatch_batch b
where session_id = :session_id and not exists (select from dispatch_queue q where q.queue = b.queue and q.paused is not null)
order by tried nulls first, id;

-- name: note_attempt
-- The batch is about to be sent again.
update dispatch_batch set attempts = attempts + 1, tried = clock_timestamp() where id = :batch and session_id = :session_id;

-- name: other_sessions
-- Sessions with open batches, but this one.
select distinct session_id from dispatch_batch where session_id <> :session_id order by session_id;

-- name: take_over_batches
-- Compare-and-set: batches that are still the old session's become the new one's.
with taken as materialized (
  select id from dispatch_batch where session_id = :old order by id for no key update
)
update dispatch_batch set session_id = :new where id in (select id from taken) and session_id = :old returning id;

-- name: unconfirmed_runs
-- The runs of a batch that have neither started nor ended; withdrawn are those whose task no longer follows them.
select r.backend_id, tt.backend_name, t.arguments,
       (select max_queue_length from queue_limit where queue = tt.backend_name) as max_queue_length,
       t.run_id is distinct from r.id or t.status = 'disabled' as withdrawn
from dispatch_batch b
cross join unnest(b.runs) with ordinality as u (run, n)
join task_run r on r.id = u.run
join task t on t.id = r.task
join task_type tt on tt.type = t.type
where b.id = :batch and b.session_id = :session_id and r.started is null and r.ended is null
order by u.n;

-- name: unconfirmed_visits
-- The visits of a batch whose origins were not visited since.
select v.visit ->> 'id' as backend_id, tt.backend_name,
       (select max_queue_length from queue_limit where queue = tt.backend_name) as max_queue_length,
       jsonb_build_object('args', jsonb_build_array(), 'kwargs', v.visit -> 'kwargs') as arguments, false as withdrawn
from dispatch_batch b
cross join jsonb_array_elements(b.visits) with ordinality as v (visit, n)
join task_type tt on tt.type = v.visit ->> 'task_type'
left join origin_visit_stats s on s.url = v.visit ->> 'url' and s.visit_type = v.visit ->> 'visit_type'
where b.id = :batch and b.session_id = :session_id and (s.last_visit is null or s.last_visit < b.opened)
order by v.n;

-- name: open_runs
-- Runs that have not ended; unconfirmed are those in an open batch. Reads all of task_run: for restarts alone.
select r.id, r.backend_id, tt.backend_name, t.priority is not null as priority, r.started is not null as started,
       case when jsonb_typeof(r.metadata -> 'worker_pid') = 'number' then cast(r.metadata -> 'worker_pid' as int) end
         as worker_pid,
       exists (select from dispatch_batch b where r.id = any(b.runs)) as unconfirmed
from task_run r
join task t on t.id = r.task
join task_type tt on tt.type = t.type
where r.ended is null and r.backend_id is not null
order by r.id;

-- name: put_in_outbox
-- A batch of runs that were opened before, for a runner to take over.
insert into dispatch_batch (session_id, queue, runs) values (:session_id, :queue, cast(:runs as bigint[]));
