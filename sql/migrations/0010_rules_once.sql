-- Rules that several statements need, each said once. The functions are of a kind that the planner puts into the
-- statement in place of their call: conditions that indexes answer stay such conditions.

create function past_cooldowns(
  stats origin_visit_stats, absolute_before timestamptz, scheduled_before timestamptz, failed_before timestamptz,
  not_found_before timestamptz
) returns boolean
language sql immutable parallel safe
as $$
  select coalesce(stats.last_scheduled, timestamptz '-infinity') < absolute_before
    and (stats.last_scheduled is null or stats.last_scheduled < greatest(scheduled_before, stats.last_visit))
    and (stats.last_visit_status is distinct from 'failed' or stats.last_visit is null
         or stats.last_visit < failed_before)
    and (stats.last_visit_status is distinct from 'not_found' or stats.last_visit is null
         or stats.last_visit < not_found_before)
$$;
comment on function past_cooldowns(origin_visit_stats, timestamptz, timestamptz, timestamptz, timestamptz) is
  'Whether an origin may be visited again: the cut-offs of its cooldowns lie behind what they are about';

create function tokens_at(controls dispatch_type, clock timestamptz) returns float8
language sql immutable parallel safe
as $$
  select least(
    greatest(1.0, controls.rate_limit),
    coalesce(
      -- From infinity nothing can be subtracted.
      case when isfinite(controls.refilled) then
        controls.tokens + controls.rate_limit * extract(epoch from clock - controls.refilled) end,
      greatest(1.0, controls.rate_limit)
    )
  )
$$;
comment on function tokens_at(dispatch_type, timestamptz) is
  'Tokens of a task type with a rate limit; its bucket holds those of a second, and at least one';

create function count_in_flight(task_type text, at_most bigint) returns table (tasks bigint)
language sql stable parallel safe rows 1
as $$
  select count(*) from (select from task where type = task_type and status = 'next_run_scheduled' limit at_most) as counted
$$;
comment on function count_in_flight(text, bigint) is
  'How many tasks of a type are in flight, counted no further than at_most; a range of task_scheduled_idx';

create view task_in_flight as
select t.id as task, t.type, t.priority, r.id as run, r.scheduled, r.started
from task t
left join task_run r on r.id = t.run_id
where t.status = 'next_run_scheduled' and r.ended is null;
comment on view task_in_flight is
  'Tasks that were taken and whose run has not ended; one that has no run yet is among them';
comment on column task_in_flight.task is 'Task';
comment on column task_in_flight.type is 'Type of the task';
comment on column task_in_flight.priority is 'Priority of the task; null for ordinary tasks';
comment on column task_in_flight.run is 'Run that owns the task; null if it has none';
comment on column task_in_flight.scheduled is 'When that run was opened';
comment on column task_in_flight.started is 'When a worker started it; null while it waits for one';

create view queue_limit as
select backend_name as queue, min(max_queue_length) as max_queue_length from task_type group by backend_name;
comment on view queue_limit is 'Limits of the queues of task types: those that share a queue share the least of theirs';
comment on column queue_limit.queue is 'Queue, backend_name of task types';
comment on column queue_limit.max_queue_length is 'The least max_queue_length of these types; null means unbounded';

-- 378094 is SESSION_LOCK of backend/dispatch/session.py, where the lock is taken.
create view living_session as
select cast(objid as bigint) as session_id, pid as backend_pid
from pg_locks
where locktype = 'advisory' and granted and classid = 378094 and objsubid = 2
  and database = (select oid from pg_database where datname = current_database());
comment on view living_session is 'Dispatcher sessions that live: each holds its advisory lock';
comment on column living_session.session_id is 'Identifier of the session';
comment on column living_session.backend_pid is 'PostgreSQL process of the session';
