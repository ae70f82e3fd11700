-- name: backlog
-- Due tasks of each type and priority, and since when the first is due. A range of task_ready_idx or
-- task_ready_priority_idx each, nothing else is read; a type that has nothing due costs a descent.
select tt.type, null as priority, due.tasks, due.oldest
from task_type tt
cross join lateral (
  select count(*) as tasks, min(next_run) as oldest
  from task t
  where t.type = tt.type and t.status = 'next_run_not_scheduled' and t.priority is null
    and t.next_run <= coalesce(cast(:now as timestamptz), now())
) as due
where due.tasks > 0
union all
select tt.type, cast(p.priority as text), due.tasks, due.oldest
from task_type tt
cross join unnest(enum_range(cast(null as task_priority))) as p (priority)
cross join lateral (
  select count(*) as tasks, min(next_run) as oldest
  from task t
  where t.type = tt.type and t.status = 'next_run_not_scheduled' and t.priority = p.priority
    and t.next_run <= coalesce(cast(:now as timestamptz), now())
) as due
where due.tasks > 0
order by type, priority nulls first;

-- name: in_flight
-- Tasks in flight of each type: waiting for a worker, or started. Reads task_scheduled_idx and the runs that own those
-- tasks, so it costs what is in flight, whatever the history. A task that was grabbed and has no run yet is waiting.
select type, count(*) filter (where started is null) as waiting,
       count(*) filter (where started is not null) as started, min(coalesce(started, scheduled)) as oldest
from task_in_flight
group by type
order by type;

-- name: last_failures
-- Runs that failed or were lost lately, the last end first: among the newest :window runs, since no index on
-- status is kept (every start and end would have to write it).
select r.id as run, r.task, t.type, r.status, r.backend_id, r.ended, r.error
from (
  select id, task, status, backend_id, ended, coalesce(metadata ->> 'error', metadata ->> 'reason') as error
  from (
    select id, task, status, backend_id, ended, metadata from task_run order by id desc limit :window
  ) as newest
  where status in ('failed', 'permfailed', 'lost')
  order by ended desc nulls last, id desc
  limit :limit  -- before the join, or all of task is read
) as r
join task t on t.id = r.task
order by r.ended desc nulls last, r.id desc;

-- name: outbox
-- The outbox: messages that are not confirmed yet, of runs and of visits, since when the oldest batch is open;
-- and rejected events.
select count(*) as batches, cast(coalesce(sum(cardinality(runs)), 0) as bigint) as runs,
       cast(coalesce(sum(case jsonb_typeof(visits) when 'array' then jsonb_array_length(visits) end), 0) as bigint)
         as visits, min(opened) as oldest,
       (select count(*) from rejected_event) as rejected
from dispatch_batch;

-- name: tasks_in_flight
-- Tasks in flight of each type. Reads task_scheduled_idx alone, so it costs what is in flight: 100,000 take 10 ms, with
-- their runs, to tell waiting from started, 500 ms.
select type, count(*) as tasks from task where status = 'next_run_scheduled' group by type order by type;

-- name: living_services
-- The services that live: each holds the advisory lock of its session, which ends with its process. A rescuer that looks
-- at queues has a second session.
select s.service, s.host, s.pid, min(s.opened) as since
from dispatcher_session s
join living_session l on l.session_id = s.id and l.backend_pid = s.backend_pid
where s.service in ('runner', 'listener', 'visits', 'rescuer')
group by s.service, s.host, s.pid
order by since, s.host, s.pid;

-- name: now
-- The time by the clock that stamps what services write.
select now();
