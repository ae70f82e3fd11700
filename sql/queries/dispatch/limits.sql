-- name: claim_type
-- A row for the controls of a task type, unless it has one; nothing for an unknown type.
insert into dispatch_type (type) select type from task_type where type = :task_type on conflict (type) do nothing;

-- name: lock_type
-- The controls of a task type, to change them. Waits for the grab that obeys them now, so that none that
-- began before the change ends after it.
select paused, paused_by, paused_reason, max_in_flight, rate_limit, max_run_seconds, keep_runs
from dispatch_type
where type = :task_type
for no key update;

-- name: pause_type
-- From now on none of its tasks is taken. After lock_type, which may have waited: the clock, not the transaction's start.
update dispatch_type
set paused = clock_timestamp(), paused_by = :by, paused_reason = :reason
where type = :task_type;

-- name: resume_type
-- Its tasks are taken again.
update dispatch_type set paused = null, paused_by = null, paused_reason = null where type = :task_type;

-- name: set_type_limits
-- How many tasks of a type may be in flight, and are dispatched a second, how long a run may take and ended ones are
-- kept; null is without a limit. A new rate begins with one token: what was dispatched before it came is not known.
update dispatch_type
set max_in_flight = cast(:max_in_flight as bigint), rate_limit = cast(:rate_limit as float8),
    max_run_seconds = cast(:max_run_seconds as float8), keep_runs = cast(:keep_runs as interval),
    tokens = case when refilled is null then 1 else tokens end,
    refilled = case when cast(:rate_limit as float8) is not null then coalesce(refilled, clock_timestamp()) end
where type = :task_type;

-- name: claim_queue
-- A row for the controls of a queue, unless it has one.
insert into dispatch_queue (queue) values (:queue) on conflict (queue) do nothing;

-- name: lock_queue
-- The pause of a queue, to change it.
select paused, paused_by, paused_reason from dispatch_queue where queue = :queue for no key update;

-- name: pause_queue
-- From now on nothing is sent to it.
update dispatch_queue set paused = clock_timestamp(), paused_by = :by, paused_reason = :reason where queue = :queue;

-- name: resume_queue
-- Messages are sent to it again.
update dispatch_queue set paused = null, paused_by = null, paused_reason = null where queue = :queue;

-- name: set_queue_limit
-- max_queue_length of all task types that share a queue; null is no limit. In order of type: two of these never deadlock.
with locked as materialized (
  select type from task_type where backend_name = :queue order by type for no key update
)
update task_type
set max_queue_length = cast(:max_queue_length as bigint)
where type in (select type from locked)
returning type;

-- name: queues_of_types
-- The queues that task types have.
select distinct backend_name from task_type order by backend_name;

-- name: type_controls
-- All task types and what holds them back.
select tt.type, tt.backend_name as queue, tt.max_queue_length, c.max_in_flight, c.rate_limit,
       c.max_run_seconds, c.keep_runs, c.paused, c.paused_by, c.paused_reason
from task_type tt
left join dispatch_type c on c.type = tt.type
order by tt.type;

-- name: queue_controls
-- The queues of task types, and others that are paused.
select queue, q.paused, q.paused_by, q.paused_reason
from (
  select backend_name as queue from task_type
  union
  select queue from dispatch_queue where paused is not null
) as named
left join dispatch_queue q using (queue)
order by queue;

-- name: in_flight
-- Tasks in flight of each type, without and with a priority: they go to different queues. Reads task_scheduled_idx and
-- the runs that own those tasks.
select type, priority is not null as priority, count(*) as tasks
from task_in_flight
group by 1, 2
order by 1, 2;

-- name: unconfirmed
-- Of each queue the messages that the broker has not confirmed and of which nothing was heard; runs are those that
-- in_flight counts too, visits have none.
select queue, cast(sum(runs) as bigint) as runs, cast(sum(visits) as bigint) as visits
from (
  select b.queue, count(*) as runs, 0 as visits
  from dispatch_batch b
  cross join unnest(b.runs) as u (run)
  join task_run r on r.id = u.run
  join task t on t.id = r.task and t.run_id = r.id
  where r.started is null and r.ended is null and t.status = 'next_run_scheduled'
  group by b.queue
  union all
  select queue, 0, coalesce(sum(case jsonb_typeof(visits) when 'array' then jsonb_array_length(visits) end), 0)
  from dispatch_batch
  where visits is not null
  group by queue
) as open
group by queue
order by queue;

-- name: published
-- What the runner that published last to each queue saw of it; host and pid are known while that runner lives.
with alive as materialized (
  select session_id from living_session
)
select q.queue, q.published, q.drain_rate, o.host, o.pid
from dispatch_queue q
left join dispatcher_session o on o.id = q.published_by and o.id in (select session_id from alive)
where q.published is not null
order by q.queue;
