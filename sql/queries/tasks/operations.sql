-- name: select_tasks
-- The tasks that meet all given conditions, in order of id. The last outcome is that of the newest run that has ended.
select t.id
from task t
where (cast(:ids as bigint[]) is null or t.id = any(cast(:ids as bigint[])))
  and (cast(:task_type as text) is null or t.type = :task_type)
  and (cast(:status as text) is null or t.status = cast(:status as task_status))
  and (cast(:before as timestamptz) is null or t.next_run <= :before)
  and (cast(:failed_since as interval) is null and cast(:error as text) is null
       or (select r.status in ('failed', 'permfailed', 'lost')
                  and (cast(:failed_since as interval) is null or r.ended >= now() - cast(:failed_since as interval))
                  and (cast(:error as text) is null
                       or strpos(coalesce(r.metadata ->> 'error', r.metadata ->> 'reason', ''), :error) > 0)
           from task_run r
           where r.task = t.id and r.ended is not null
           order by r.id desc
           limit 1))
order by t.id;

-- name: lock_tasks
-- First lock, as an end takes them: the tasks, in order of id. No run is opened, and none ends, while it is held.
select id from task where id = any(cast(:ids as bigint[])) order by id for no key update;

-- name: lock_tasks_to_delete
-- The same, against runs that others open without a grab as well.
select id from task where id = any(cast(:ids as bigint[])) order by id for update;

-- name: standings
-- How these tasks stand, in order of id: in a statement of its own, which sees what the last holder of the lock
-- committed. A task may have open runs that it doesn't follow: it was disabled, or rescheduled, after they were opened.
select t.id, cast(t.status as text) as status, cast(t.policy as text) as policy, o.backend_ids, o.run, o.since
from task t
left join lateral (
  select array_agg(backend_id order by id) as backend_ids, max(id) as run,
         (array_agg(coalesce(started, scheduled) order by id desc))[1] as since
  from task_run r
  where r.task = t.id and r.ended is null and r.backend_id is not null
) as o on true
where t.id = any(cast(:ids as bigint[]))
order by t.id;

-- name: clock
-- When runs that are ended here ended: they may have started since this transaction began.
select clock_timestamp();

-- name: schedule
-- These tasks wait for their next run, and no run that was opened before moves them. With ``earliest`` one that is due
-- before stays so, ahead of those that became due later.
update task
set status = 'next_run_not_scheduled', run_id = null,
    next_run = case when cast(:earliest as boolean) then least(next_run, now())
                    else coalesce(cast(:next_run as timestamptz), now()) end
where id = any(cast(:ids as bigint[]));

-- name: disable
-- Runs that are open no longer move these tasks.
update task set status = 'disabled', run_id = null where id = any(cast(:ids as bigint[]));

-- name: enable
-- A task with an open run follows it again, and is not dispatched before its end.
update task t
set status = cast(case when e.run is null then 'next_run_not_scheduled' else 'next_run_scheduled' end as task_status),
    run_id = e.run
from unnest(cast(:ids as bigint[]), cast(:runs as bigint[])) as e (id, run)
where t.id = e.id;

-- name: change
-- New values, null for those that stay. A task that is not in flight leaves its last run: an end of that run that is
-- corrected later would put back what was there before.
update task
set current_interval = coalesce(cast(:interval as interval), current_interval),
    next_run = coalesce(cast(:next_run as timestamptz), next_run),
    priority = case when cast(:set_priority as boolean) then cast(:priority as task_priority) else priority end,
    retries_left = coalesce(cast(:retries as bigint), retries_left),
    run_id = case when status = 'next_run_scheduled' then run_id end
where id = any(cast(:ids as bigint[]));

-- name: delete_runs
-- Second lock, the runs, in order of id, as ends take them; and their end.
with locked as materialized (
  select id from task_run where task = any(cast(:ids as bigint[])) order by id for update
)
delete from task_run where id = any(array(select id from locked));

-- name: delete_tasks
-- Tasks whose runs are deleted.
delete from task where id = any(cast(:ids as bigint[]));
