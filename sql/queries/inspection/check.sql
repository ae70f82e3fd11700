-- What rows look like that others wrote: SQL, or the program that had an adopted database before. A table is read in
-- ranges of its pages: in order, a little at a time, and so that a sample can be taken. What is mended is looked at
-- again by the same statements, under its locks.

-- name: pages
-- How many pages a table has.
select pg_relation_size(to_regclass(:table)) / cast(current_setting('block_size') as bigint);

-- name: origins
-- Listed origins that no policy finds, or finds by what was true once.
select lo.url, lo.visit_type, case when s.url is null then 'origin_without_statistics' else 'origin_outdated' end as kind
from listed_origins lo
left join lateral (  -- offset 0: by its key, whatever the planner believes
  select url, last_snapshot, last_visit_status, last_successful, next_visit_queue_position
  from origin_visit_stats
  where url = lo.url and visit_type = lo.visit_type
  offset 0
) as s on true
where lo.ctid >= cast(:first as tid) and lo.ctid < cast(:last as tid)
  and (s.url is null
       or (lo.visit_loaded, lo.visit_successful, lo.visit_last_successful, lo.visit_queue_position) is distinct from
          (s.last_snapshot is not null, s.last_visit_status is not distinct from 'successful',
           case when lo.last_update >= timestamptz '10000-01-01 00:00:00+00' then null  -- as in mirror_stats
                when s.last_successful >= timestamptz '0001-01-01 00:00:00+00' then s.last_successful end,
           s.next_visit_queue_position));

-- name: statistics
-- Statistics that somebody wrote, and that are held for those of an origin that is listed and no more.
select url, visit_type, 'statistics_hidden' as kind
from origin_visit_stats
where ctid >= cast(:first as tid) and ctid < cast(:last as tid)
  and listed_only
  and (last_successful is not null or last_visit is not null or last_visit_status is not null
       or last_scheduled is not null or last_snapshot is not null or next_visit_queue_position is not null
       or next_position_offset <> 4 or successive_visits <> 1);

-- name: show_statistics
-- They are what somebody wrote. The caller holds the rows.
update origin_visit_stats s
set listed_only = false
from unnest(cast(:urls as text[]), cast(:visit_types as text[])) as key (url, visit_type)
where s.url = key.url and s.visit_type = key.visit_type and s.listed_only;

-- name: runs
-- Runs whose status contradicts their end, that no event can end, or that would move a task on which somebody decided.
select r.id, r.task,
       case when r.ended is null and r.status not in ('scheduled', 'started') then 'run_without_timestamp'
            when r.ended is not null then 'run_without_outcome'
            when r.backend_id is null then 'run_unreachable'
            else 'task_decided' end as kind
from task_run r
left join lateral (
  select id
  from task
  where r.ended is null and id = r.task and run_id = r.id and status <> 'next_run_scheduled'
  offset 0
) as decided on true
where (cast(:first as tid) is null or r.ctid >= cast(:first as tid) and r.ctid < cast(:last as tid))
  and (cast(:ids as bigint[]) is null or r.id = any(cast(:ids as bigint[])))
  and ((r.ended is null) <> (r.status in ('scheduled', 'started'))
       or r.ended is null and (r.backend_id is null or decided.id is not null));

-- name: lock_tasks
-- Tasks first, in order of id, as everyone locks them.
select id from task where id = any(cast(:ids as bigint[])) order by id for no key update;

-- name: close_runs
-- An end without a timestamp came no earlier than the run's last one. What ended with no outcome, and what nothing can end,
-- is lost until a result says otherwise. Locks runs in order of id; the caller holds their tasks.
with locked as materialized (
  select id from task_run where id = any(cast(:ids as bigint[])) order by id for no key update
)
update task_run r
set ended = coalesce(r.ended, case when r.status in ('scheduled', 'started') then now()
                                   else greatest(least(coalesce(r.started, r.scheduled), now()),
                                                 timestamptz '0001-01-02 00:00:00+00') end),
    status = case when r.status in ('scheduled', 'started') then 'lost' else r.status end,
    evidence = case when r.status in ('scheduled', 'started') then 1 else r.evidence end,
    metadata = case when r.metadata is null then '{}' when jsonb_typeof(r.metadata) = 'object' then r.metadata
                    else jsonb_build_object('metadata', r.metadata) end
               || jsonb_build_object('mended', 'by db check: ' || case
                    when r.status not in ('scheduled', 'started') then 'its end had no timestamp'
                    when r.ended is not null then 'it ended without an outcome'
                    else 'no event can end a run without a backend_id' end)
where r.id = any(array(select id from locked));

-- name: leave_runs
-- Tasks on which somebody decided follow no run. The caller holds them.
update task set run_id = null where id = any(cast(:ids as bigint[])) and status <> 'next_run_scheduled';

-- name: tasks
-- Tasks in flight that don't follow a run that can still end: whose open run was opened by somebody else (run), whose
-- run somebody else ended without moving them (run, status, ended), or that have none. A run that ended before the task
-- was due belongs to the past. Reads what is in flight, by index, or :limit of it.
select t.id, t.version,
       case when opened.run is not null then 'task_unfollowed' when newest.id is not null then 'task_unmoved'
            else 'task_stuck' end as kind,
       coalesce(opened.run, newest.id) as run, newest.backend_id, newest.status, newest.ended, newest.evidence
from (
  select id, run_id, next_run, cast(xmin as text) as version
  from task
  where status = 'next_run_scheduled' and (cast(:ids as bigint[]) is null or id = any(cast(:ids as bigint[])))
  limit cast(:limit as bigint)
) as t
left join lateral (
  select id
  from task_run
  where id = t.run_id and task = t.id and ended is null and status in ('scheduled', 'started')
    and backend_id is not null
  offset 0
) as followed on true
left join lateral (
  select max(r.id) as run
  from (select id, ended, status, backend_id from task_run where task = t.id offset 0) as r
  where followed.id is null and r.ended is null and r.status in ('scheduled', 'started') and r.backend_id is not null
) as opened on true
left join lateral (
  select r.id, r.backend_id, r.status, r.evidence,
         greatest(least(r.ended, now()), timestamptz '0001-01-02 00:00:00+00') as ended  -- Python has no other years
  from (
    select last.id, last.backend_id, last.status, last.ended, last.evidence, last.retries_before
    from (
      select id, backend_id, status, ended, evidence, retries_before from task_run where task = t.id offset 0
    ) as last
    order by last.id desc
    limit 1
  ) as r
  where r.backend_id is not null and r.ended >= t.next_run and r.status not in ('scheduled', 'started')
    and r.retries_before is null
) as newest on followed.id is null and opened.run is null
where followed.id is null;

-- name: follow_runs
-- Tasks in flight follow these runs. The caller holds them.
update task t
set run_id = followed.run
from unnest(cast(:ids as bigint[]), cast(:runs as bigint[])) as followed (id, run)
where t.id = followed.id and t.status = 'next_run_scheduled';

-- name: reopen_runs
-- As if they had not ended yet: their end is recorded next. The caller holds their tasks.
update task_run
set ended = null, evidence = null, status = 'scheduled'
where id = any(cast(:runs as bigint[]));

-- name: release_tasks
-- Tasks in flight without a run wait for one again. The caller holds them.
update task
set status = 'next_run_not_scheduled', run_id = null
where id = any(cast(:ids as bigint[])) and status = 'next_run_scheduled';
