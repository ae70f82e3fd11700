-- name: filter_task_to_archive
-- Runs of tasks that are done with, in order of their timestamp: one that came to several at once is told by its id.
-- After :timestamp and :run, the last of the page before; the first page begins with the timestamp itself and run 0.
select t.id as task_id, t.policy as task_policy, t.status as task_status, r.id as task_run_id, t.arguments, t.type,
       r.backend_id, coalesce(r.metadata, '{}') as metadata, r.scheduled, r.started, r.ended,
       r.status as task_run_status
from task_run r
cross join lateral (  -- looked up one by one: for a page of a thousand the planner would else read all of task
  select id, policy, status, arguments, type from task where id = r.task limit 1
) as t
where (coalesce(r.started, r.scheduled), r.id) > (cast(:timestamp as timestamptz), cast(:run as bigint))
  and coalesce(r.started, r.scheduled) < :before
  and (t.status = 'disabled' or t.status = 'completed' and t.policy = 'oneshot')
order by coalesce(r.started, r.scheduled), r.id
limit :limit;

-- name: lock_archived_tasks
-- First lock, as an end takes them: the tasks, in order of id. No run is opened, and none ends, while it is held.
select id from task where id = any(cast(:tasks as bigint[])) order by id for update;

-- name: other_task
-- A run that belongs to another task than the one it is named with.
select r.id as run, r.task
from unnest(cast(:tasks as bigint[]), cast(:runs as bigint[])) as given (task, run)
join task_run r on r.id = given.run
where r.id = any(cast(:runs as bigint[])) and r.task <> given.task
order by r.id
limit 1;

-- name: delete_runs
-- Second, the runs, in order of id.
with locked as materialized (
  select id from task_run where id = any(cast(:runs as bigint[])) order by id for update
)
delete from task_run where id = any(array(select id from locked));

-- name: delete_tasks
-- Tasks that have no run left. One that an operator set to run again, or that a caller has just grabbed, stays: it
-- follows no run, neither one of those that were deleted.
delete from task t
where id = any(cast(:tasks as bigint[]))
  and not exists (select from task_run r where r.task = t.id)
  and (status in ('completed', 'disabled') or run_id = any(cast(:runs as bigint[])));
