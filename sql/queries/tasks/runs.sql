-- name: open_runs
-- Open runs of tasks that were grabbed before; the tasks follow them from now on. Locks tasks in order of id.
-- A backend_id that is taken is skipped; the caller compares counts and takes everything back.
with input as materialized (
  select n, task, backend_id, coalesce(scheduled, now()) as scheduled, cast(metadata as jsonb) as metadata
  from unnest(cast(:tasks as bigint[]), cast(:backend_ids as text[]), cast(:scheduled as timestamptz[]),
              cast(:metadata as text[]))
       with ordinality as u (task, backend_id, scheduled, metadata, n)
), locked as materialized (
  select id from task where id in (select task from input) order by id for no key update
), opened as (
  insert into task_run (task, backend_id, scheduled, metadata)
  select i.task, i.backend_id, i.scheduled, i.metadata
  from input i
  join locked on locked.id = i.task
  order by i.n
  on conflict (backend_id) do nothing
  returning id, task, backend_id
), followed as (
  update task t
  set run_id = o.run,
      status = case when t.status = 'next_run_not_scheduled' then 'next_run_scheduled' else t.status end
  from (select task, max(id) as run from opened group by task) as o
  where t.id = o.task
)
select array(select id from locked) as tasks, array(select backend_id from opened) as backend_ids;

-- name: get_run
-- The run of a message.
select id, task, backend_id, scheduled, started, ended, coalesce(metadata, '{}') as metadata, status
from task_run
where backend_id = :backend_id;

-- name: get_runs_of_tasks
-- The runs of these tasks, in order of id.
select id, task, backend_id, scheduled, started, ended, coalesce(metadata, '{}') as metadata, status
from task_run
where task = any(cast(:task_ids as bigint[]))
order by id
limit cast(:limit as bigint);

-- name: plan_by_index
-- For this transaction: look up row by row what a batch names. The planner guesses how many rows an unnest yields, and
-- reads task_run from end to end for a batch of 500 beside 20,000 runs; its guesses also call for JIT.
select set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true);

-- name: lock_tasks_of_runs
-- First lock of an end: the tasks, in order of id; answers their runs. Two flushes of the same runs deadlock without it.
with run as materialized (
  select id, backend_id, task from task_run where backend_id = any(cast(:backend_ids as text[]))
), locked as materialized (
  select id from task where id = any(array(select task from run)) order by id for no key update
)
select id, backend_id
from run
where (select count(*) from locked) >= 0;  -- once, before the first row: all are locked

-- name: lock_runs
-- Second lock of an end: the runs, in order of id; answers which of them are still there.
select id
from task_run
where id = any(cast(:ids as bigint[]))
order by id
for no key update;

-- name: record
-- Starts and ends of runs, one row a run, and what an end does to its task: the only place where that is decided.
-- Runs and tasks are locked before, so that this statement's snapshot holds their last state.
-- One row a change from the first step to the last: an intermediate result joined to another is compared row by row,
-- since the planner guesses that one of them has a single row.
with input as materialized (
  select id, started, status, ended, evidence, cast(noted as jsonb) as noted, cast(end_noted as jsonb) as end_noted,
         attempts, begun, waits_since, cast(worker_noted as jsonb) as worker_noted, worker,
         cast(executions as bigint[]) as executions
  from unnest(cast(:ids as bigint[]), cast(:started as timestamptz[]), cast(:statuses as task_run_status[]),
              cast(:ended as timestamptz[]), cast(:evidence as smallint[]), cast(:noted as text[]),
              cast(:end_noted as text[]), cast(:attempts as int[]), cast(:begun as timestamptz[]),
              cast(:waits_since as timestamptz[]), cast(:worker_noted as text[]), cast(:workers as bigint[]),
              cast(:executions as text[]))
       as u (id, started, status, ended, evidence, noted, end_noted, attempts, begun, waits_since, worker_noted, worker,
             executions)
), run as materialized (
  select r.id, r.task, r.started as old_started, r.ended as old_ended, r.status as old_status,
         case when r.metadata is null then '{}' when jsonb_typeof(r.metadata) = 'object' then r.metadata
              else jsonb_build_object('metadata', r.metadata) end as metadata,
         r.retries_before, r.interval_before, r.next_run_before,
         r.begun as old_begun, r.waits_since as old_waits, r.executions as old_executions, r.worker as old_worker,
         i.status, i.evidence, i.noted, i.end_noted, i.attempts, i.worker_noted, i.worker,
         greatest(i.begun, r.begun) as begun,
         -- It waits if that came after the last start, be it in this batch or before.
         case when greatest(i.waits_since, r.waits_since) > greatest(i.begun, r.begun) or greatest(i.begun, r.begun) is null
              then greatest(i.waits_since, r.waits_since) end as waits_since,
         i.begun > r.begun or i.begun is not null and r.begun is null as begins,
         -- Of several workers that signed for it the last one is noted.
         i.worker_noted is not null
           and coalesce(greatest(i.begun, i.waits_since) >= greatest(r.begun, r.waits_since), true) as is_last,
         case when i.executions is null or r.executions @> i.executions then r.executions
              when r.executions is null then i.executions
              else array(select e from unnest(r.executions || i.executions) as e group by e order by e limit 1000)
         end as executions,
         -- Timestamps of events come from other clocks: they lie between the opening of the run and now.
         case when i.started is null then null  -- least would make it now
              when cast(:from_events as boolean) then greatest(least(i.started, now()), bounded.scheduled)
              else i.started end as started,
         case when :from_events then greatest(least(i.ended, now()), bounded.scheduled) else i.ended end as ended,
         -- Of equals the first stays; of two failures or successes that events tell, as when a task raises Reject, the
         -- one that came about first, in whatever order they arrive.
         i.status is not null
           and (r.ended is null or i.evidence > coalesce(r.evidence, 4)
                or :from_events and i.evidence = r.evidence and i.evidence in (2, 3)
                   and greatest(least(i.ended, now()), bounded.scheduled) < r.ended) as ends
  from input i
  join task_run r on r.id = i.id
  cross join lateral (  -- an opening that others wrote, in no year of ours, bounds nothing
    select case when r.scheduled >= timestamptz '0001-01-01 00:00:00+00'
                  and r.scheduled < timestamptz '10000-01-01 00:00:00+00' then r.scheduled end as scheduled
  ) as bounded
), changed as materialized (
  select run.*,
         started is not null
           and (old_started is null or :from_events and started < old_started) as starts,
         -- Only such an end asks for the task.
         case when ends and (old_ended is null or retries_before is not null) then task end as task_to_move,
         case when is_last then noted || worker_noted else noted end as all_noted,
         case when jsonb_typeof(metadata -> 'attempts') = 'number' then cast(metadata -> 'attempts' as numeric) else 0 end
           as old_attempts
  from run
), moving as materialized (
  -- Beside each change what its end does: it moves its task if that still follows this run, and nobody disabled it but
  -- an end of this run that this one corrects.
  -- Intervals are held between nothing and 365,000 days, and factors to numbers that these can be multiplied with:
  -- what others wrote may be infinite, negative or no number, and would refuse the end of this run and its neighbours.
  select c.*, t.id is not null as moves, t.policy,
         coalesce(c.retries_before, t.retries_left) as retries,
         case when t.id is not null and known.interval is not null
              then greatest(interval '0', least(known.interval, interval '365000 days')) end as interval,
         case when c.retries_before is null then t.next_run else c.next_run_before end as next_run,
         coalesce(tt.num_retries, 0) as num_retries,
         greatest(interval '0', least(coalesce(tt.retry_delay, interval '1 hour'), interval '365000 days'))
           as retry_delay,
         case when tt.backoff_factor > 0 and tt.backoff_factor < float8 'infinity'
              then least(greatest(tt.backoff_factor, 1e-15), 1e15) else 1 end as factor,
         tt.min_interval, tt.max_interval
  from changed c
  left join task t
    on t.id = c.task_to_move and t.run_id = c.id
       and (t.status <> 'disabled'
            or c.old_status in ('lost', 'failed') and t.policy = 'oneshot' and c.retries_before <= 0)
  left join task_type tt on tt.type = t.type
  cross join lateral (
    select case when c.retries_before is null then t.current_interval else c.interval_before end as interval
  ) as known
), adapted as materialized (
  select m.*,
         case
           when m.evidence = 2 then m.interval  -- task-succeeded alone: whether anything changed is unknown
           else greatest(interval '0', least(interval '365000 days', greatest(m.min_interval, least(
             m.max_interval,
             case when extract(epoch from m.interval) * m.change < 31536000000 then m.interval * m.change end,
             interval '365000 days'
           ))))
         end as new_interval
  from (
    select task, status, evidence, ended, policy, retries, interval, next_run, num_retries, retry_delay, min_interval,
           max_interval, case when status = 'eventful' then 1 / factor else factor end as change
    from moving
    where moves
  ) as m
), moved as (
  update task t
  set status = cast(case
        when a.status in ('eventful', 'uneventful') and a.policy = 'oneshot' then 'completed'
        when a.status in ('eventful', 'uneventful') then 'next_run_not_scheduled'
        when a.status = 'permfailed' then 'disabled'
        when a.retries > 0 then 'next_run_not_scheduled'
        when a.policy = 'oneshot' then 'disabled'
        else 'next_run_not_scheduled'
      end as task_status),
      next_run = case
        when a.status = 'permfailed' then a.next_run
        when a.policy = 'oneshot' and not (a.status in ('failed', 'lost') and a.retries > 0) then a.next_run
        -- The last timestamp that Python knows, where the sum lies behind it.
        else least(timestamptz '9999-12-31 23:59:59.999999+00', a.ended + case
          when a.status in ('failed', 'lost') and a.retries > 0 then a.retry_delay
          when a.status in ('failed', 'lost') then a.interval
          else a.new_interval
        end)
      end,
      current_interval = case
        when a.policy = 'recurring' and a.status in ('eventful', 'uneventful') then a.new_interval
        else a.interval
      end,
      retries_left = case
        when a.status = 'permfailed' then a.retries
        when a.status in ('failed', 'lost') and a.retries > 0 then a.retries - 1
        when a.policy = 'oneshot' then a.retries
        else a.num_retries
      end
  from adapted a
  where t.id = a.task
), recorded as (
  update task_run r
  set started = case when c.starts then c.started else r.started end,
      ended = case when c.ends then c.ended else r.ended end,
      evidence = case when c.ends then c.evidence else r.evidence end,
      status = case when c.ends then c.status when r.ended is null and c.starts then 'started' else r.status end,
      metadata = case when c.ends and c.old_ended is not null then c.metadata - array['result', 'error', 'reason']
                      else c.metadata end
                 || case when c.starts or c.ends or :from_events then c.all_noted else '{}' end
                 || case when c.ends then c.end_noted else '{}' end
                 || case when c.attempts > c.old_attempts then jsonb_build_object('attempts', c.attempts) else '{}' end
                 || case when c.executions <> coalesce(c.old_executions, '{}')
                         then jsonb_build_object('executions', cardinality(c.executions)) else '{}' end,
      worker = case when c.begins then c.worker else r.worker end,
      begun = c.begun,
      waits_since = c.waits_since,
      executions = c.executions,
      retries_before = case when c.moves and c.retries_before is null then c.retries else r.retries_before end,
      interval_before = case when c.moves and c.retries_before is null then c.interval else r.interval_before end,
      next_run_before = case when c.moves and c.retries_before is null then c.next_run else r.next_run_before end
  from moving c
  where r.id = c.id
    -- An event that changes nothing writes nothing.
    and (c.starts or c.ends
         or :from_events and (
           c.attempts > c.old_attempts or not c.metadata @> c.all_noted or c.begins
           or c.waits_since is distinct from c.old_waits or c.executions is distinct from c.old_executions))
)
select status, count(*) as runs from changed where ends group by status;

-- name: now
-- The database's clock.
select now();
