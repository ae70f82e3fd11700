-- name: task
-- A task, its type with the controls of it, and the run that owns it, as of one point in time. ``moved``: the end of the
-- run moved the task.
select t.id, t.type, t.status, t.policy, t.priority, t.next_run, t.run_id, tt.backend_name,
       (select max_queue_length from queue_limit where queue = tt.backend_name) as max_queue_length,
       coalesce(cast(:now as timestamptz), now()) as now,
       c.paused, c.paused_by, c.paused_reason, c.max_in_flight, c.rate_limit,
       case when c.rate_limit is not null then tokens_at(c, clock_timestamp()) end as tokens,
       r.id as run, r.backend_id, r.status as run_status, r.scheduled, r.started, r.ended,
       coalesce(r.metadata ->> 'error', r.metadata ->> 'reason') as error, r.metadata ->> 'worker' as worker,
       case when jsonb_typeof(r.metadata -> 'attempts') = 'number'
            then cast(least(greatest(cast(r.metadata -> 'attempts' as numeric), 0), 1000000) as bigint) end as attempts,
       r.retries_before is not null as moved,
       case when r.ended is null then 'rule ' || u.rule || ': ' || u.reason end as undecided
from task t
join task_type tt on tt.type = t.type
left join dispatch_type c on c.type = t.type
left join task_run r on r.id = t.run_id
left join undecided_run u on u.run_id = r.id
where t.id = :task_id;

-- name: queue
-- The controls of a queue, what the session that published to it last saw of it, and its oldest open batch.
select q.paused, q.paused_by, q.paused_reason, q.published, q.depth, q.drain_rate,
       (select min(opened) from dispatch_batch where queue = :queue) as oldest_batch
from (values (1)) as one
left join dispatch_queue q on q.queue = :queue;

-- name: ahead
-- Due tasks without priority that the grab takes before this one, counted no further than :limit: a range of
-- task_ready_idx.
select count(*)
from (select from task
      where type = :task_type and status = 'next_run_not_scheduled' and priority is null
        and (next_run, id) < (cast(:next_run as timestamptz), cast(:task_id as bigint))
      limit :limit) as counted;

-- name: ahead_with_priority
-- The same of tasks with a priority: due ones of a higher priority, and earlier ones of the same. A range of
-- task_ready_priority_idx for each priority.
select cast(coalesce(sum(before.tasks) filter (where p.priority < cast(:priority as task_priority)), 0) as bigint) as higher,
       cast(coalesce(sum(before.tasks) filter (where p.priority = cast(:priority as task_priority)), 0) as bigint) as earlier
from unnest(enum_range(cast(null as task_priority))) as p (priority)
cross join lateral (
  select count(*) as tasks
  from (select from task t
        where t.type = :task_type and t.status = 'next_run_not_scheduled' and t.priority = p.priority
          and (t.next_run, t.id) < (
            case when p.priority < cast(:priority as task_priority) then cast(:now as timestamptz)
                 else cast(:next_run as timestamptz) end,
            case when p.priority < cast(:priority as task_priority) then 9223372036854775807
                 else cast(:task_id as bigint) end)
        limit :limit) as counted
) as before
where p.priority <= cast(:priority as task_priority);

-- name: outbox_batch
-- The open batch of a run, its dispatcher session, and whether that lives.
select b.id as batch, b.queue, b.opened, b.session_id, o.host, o.pid,
       o.id in (select session_id from living_session) as alive
from dispatch_batch b
join dispatcher_session o on o.id = b.session_id
where :run = any(b.runs)
order by b.id
limit 1;

-- name: living_runners
-- How many runners hold the lock that proves them alive.
select count(*)
from dispatcher_session o
where o.service = 'runner' and o.id in (select session_id from living_session);
