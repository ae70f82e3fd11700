-- Views and functions for the program that had an adopted database before: it builds its objects from `select *` and
-- calls functions whose rows are of its tables' types, so that every column of ours breaks it. The views list its own
-- columns; the functions answer in rows of the views. Its search_path names this schema first, ours never does.
-- Functions find the tables, and its temporary ones, by a search_path of their own.

-- name: stands
-- Whether the schema is there.
select to_regnamespace('swh_scheduler_compat') is not null;

-- name: create_schema
-- The schema that the other program's search_path names first.
create schema if not exists swh_scheduler_compat;

-- name: describe_schema
-- What it is, for whoever meets it.
comment on schema swh_scheduler_compat is
  'Tables of Software Heritage''s scheduler in the shape that its own program knows; made by swh-sched-runner db compat';

-- name: open_schema
-- Everyone may look for names here; what is found has the grants of its table.
grant usage on schema swh_scheduler_compat to public;

-- name: drop_schema
-- All of it goes; the tables stay.
drop schema if exists swh_scheduler_compat cascade;

-- name: task_type
-- Task types.
create or replace view swh_scheduler_compat.task_type as
select type, description, backend_name, default_interval, min_interval, max_interval, backoff_factor, max_queue_length,
       num_retries, retry_delay
from public.task_type;

-- name: task
-- Tasks.
create or replace view swh_scheduler_compat.task as
select id, type, arguments, next_run, current_interval, status, policy, retries_left, priority
from public.task;

-- name: task_run
-- Runs.
create or replace view swh_scheduler_compat.task_run as
select id, task, backend_id, scheduled, started, ended, metadata, status
from public.task_run;

-- name: listers_33
-- Listers up to version 37.
create or replace view swh_scheduler_compat.listers as
select id, name, instance_name, created, current_state, updated
from public.listers;

-- name: listers_38
-- Listers from version 38 on.
create or replace view swh_scheduler_compat.listers as
select id, name, instance_name, created, current_state, updated, last_listing_finished_at, first_visits_queue_prefix,
       first_visits_scheduled_at
from public.listers;

-- name: listed_origins_33
-- Origins up to version 36.
create or replace view swh_scheduler_compat.listed_origins as
select lister_id, url, visit_type, extra_loader_arguments, enabled, first_seen, last_seen, last_update
from public.listed_origins;

-- name: listed_origins_37
-- Origins from version 37 on.
create or replace view swh_scheduler_compat.listed_origins as
select lister_id, url, visit_type, extra_loader_arguments, enabled, first_seen, last_seen, last_update, is_fork,
       forked_from_url
from public.listed_origins;

-- name: origin_visit_stats
-- Statistics of visits; those that stand because an origin is listed too.
create or replace view swh_scheduler_compat.origin_visit_stats as
select url, visit_type, last_successful, last_visit, last_visit_status, last_scheduled, last_snapshot,
       next_visit_queue_position, next_position_offset, successive_visits
from public.origin_visit_stats;

-- name: visit_scheduler_queue_position
-- Places in the queues of visits.
create or replace view swh_scheduler_compat.visit_scheduler_queue_position as
select visit_type, position from public.visit_scheduler_queue_position;

-- name: scheduler_metrics
-- Counts of origins.
create or replace view swh_scheduler_compat.scheduler_metrics as
select lister_id, visit_type, last_update, origins_known, origins_enabled, origins_never_visited,
       origins_with_pending_changes
from public.scheduler_metrics;

-- name: refuse
-- What only one program may do says who does it.
create or replace function swh_scheduler_compat.refuse(what text) returns void language plpgsql as $$
begin
  raise exception using
    errcode = 'feature_not_supported',
    message = what || ' is refused: swh-sched-runner takes the tasks of this database, opens their runs and ends them',
    hint = 'Stop this program''s runner and listener; docs/how-to/adopt.md says what it may go on doing.';
end $$;

-- name: wake
-- 378095 is wake.SLEEP_LOCK. Before tasks are made due: no runner falls asleep from here to the commit, and those that sleep are notified then.
create or replace function swh_scheduler_compat.wake() returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(378095, 0);
  perform pg_notify('swh_sched_runner', '')
  where exists (select from public.dispatcher_session where sleeps_until > clock_timestamp());
end $$;

-- name: update_task
-- A change of a task is an operator's decision: runs that are open no longer move it.
create or replace function swh_scheduler_compat.update_task() returns trigger language plpgsql as $$
begin
  perform swh_scheduler_compat.wake();
  update public.task
  set type = new.type, arguments = new.arguments, next_run = new.next_run, current_interval = new.current_interval,
      status = new.status, policy = new.policy, retries_left = new.retries_left, priority = new.priority, run_id = null
  where id = old.id;
  return new;
end $$;

-- name: update_task_trigger
-- Changes of tasks go there.
create or replace trigger update_task instead of update on swh_scheduler_compat.task
for each row execute function swh_scheduler_compat.update_task();

-- name: refuse_run
-- Runs may be read and archived.
create or replace function swh_scheduler_compat.refuse_run() returns trigger language plpgsql as $$
begin
  perform swh_scheduler_compat.refuse('writing to task_run');
  return null;
end $$;

-- name: refuse_run_trigger
-- Writes of runs go there.
create or replace trigger refuse_run instead of insert or update on swh_scheduler_compat.task_run
for each row execute function swh_scheduler_compat.refuse_run();

-- name: mktemp_task
-- Where the other program copies new tasks to.
create or replace function swh_scheduler_compat.swh_scheduler_mktemp_task() returns void language plpgsql as $$
begin
  create temporary table tmp_task (like swh_scheduler_compat.task) on commit drop;
end $$;

-- name: create_tasks
-- Tasks of tmp_task that do not exist yet are inserted, once each; answers each distinct one, old or new. The rule and the
-- locks are those of tasks.create_tasks; 378093 is tasks.CREATION_LOCK.
create or replace function swh_scheduler_compat.swh_scheduler_create_tasks_from_temp()
returns setof swh_scheduler_compat.task language plpgsql set search_path = public, pg_temp as $$
begin
  perform pg_advisory_xact_lock(378093, slot)
  from (
    select distinct cast(abs(mod(jsonb_hash_extended(arguments, 0), 64)) as int) as slot from tmp_task order by slot
  ) as slots;
  perform swh_scheduler_compat.wake();
  return query
  with input as (
    select row_number() over (order by i.ctid) as n, i.type, i.arguments, i.next_run,
           coalesce(i.policy, 'recurring') as policy, coalesce(i.status, 'next_run_not_scheduled') as status, i.priority,
           coalesce(i.retries_left, tt.num_retries, 0) as retries_left,
           coalesce(i.current_interval, tt.default_interval) as current_interval
    from tmp_task i
    left join task_type tt on tt.type = i.type  -- an unknown type violates the reference
  ), firsts as materialized (
    select distinct on (i.type, i.arguments, i.policy, i.priority, i.waiting, i.over, i.timestamp)
           i.n, i.type, i.arguments, i.next_run, i.policy, i.status, i.priority, i.retries_left, i.current_interval,
           i.waiting
    from (
      select input.n, input.type, input.arguments, input.next_run, input.policy, input.status, input.priority,
             input.retries_left, input.current_interval, input.status in ('next_run_not_scheduled', 'next_run_scheduled') as waiting,
             case when input.status in ('completed', 'disabled') then input.status end as over,
             case when input.policy = 'oneshot' then input.next_run end as timestamp
      from input
    ) as i
    order by i.type, i.arguments, i.policy, i.priority, i.waiting, i.over, i.timestamp, i.n
  ), matched as materialized (
    select f.n, f.type, f.arguments, f.next_run, f.policy, f.status, f.priority, f.retries_left, f.current_interval,
           existing.id as existing
    from firsts f
    left join lateral (
      select t.id, t.arguments, t.policy, t.priority, t.next_run
      from (  -- from one of the two indexes
        select w.id, w.arguments, w.policy, w.priority, w.next_run from task w
        where jsonb_hash_extended(w.arguments, 0) = jsonb_hash_extended(f.arguments, 0) and w.type = f.type
          and f.waiting and w.status in ('next_run_not_scheduled', 'next_run_scheduled')
        union all
        select o.id, o.arguments, o.policy, o.priority, o.next_run from task o
        where jsonb_hash_extended(o.arguments, 0) = jsonb_hash_extended(f.arguments, 0) and o.type = f.type
          and not f.waiting and o.status in ('completed', 'disabled') and o.status = f.status
        offset 0
      ) as t
      where t.arguments = f.arguments and t.policy = f.policy and t.priority is not distinct from f.priority
        and (f.policy = 'recurring' or t.next_run = f.next_run)
      order by t.id
      limit 1
    ) as existing on true
  ), inserted as (
    insert into task (type, arguments, next_run, current_interval, status, policy, retries_left, priority)
    select m.type, m.arguments, m.next_run, m.current_interval, m.status, m.policy, m.retries_left, m.priority
    from matched m
    where m.existing is null
    order by m.n
    returning id, type, arguments, next_run, current_interval, status, policy, retries_left, priority
  )
  select t.id, t.type, t.arguments, t.next_run, t.current_interval, t.status, t.policy, t.retries_left, t.priority
  from task t
  join matched m on m.existing = t.id
  union all
  select i.id, i.type, i.arguments, i.next_run, i.current_interval, i.status, i.policy, i.retries_left, i.priority
  from inserted i
  order by 1;
end $$;

-- name: peek_no_priority
-- Due tasks without priority.
create or replace function swh_scheduler_compat.swh_scheduler_peek_no_priority_tasks(
  task_type text, ts timestamptz default now(), num_tasks bigint default null
) returns setof swh_scheduler_compat.task language sql stable set search_path = public, pg_temp as $$
  select id, type, arguments, next_run, current_interval, status, policy, retries_left, priority
  from task
  where type = $1 and status = 'next_run_not_scheduled' and priority is null and next_run <= $2
  order by next_run, id
  limit $3
$$;

-- name: peek_one_priority
-- Due tasks of one priority.
create or replace function swh_scheduler_compat.swh_scheduler_peek_tasks_with_priority(
  task_type text, ts timestamptz default now(), num_tasks_priority bigint default null,
  task_priority public.task_priority default 'normal'
) returns setof swh_scheduler_compat.task language sql stable set search_path = public, pg_temp as $$
  select id, type, arguments, next_run, current_interval, status, policy, retries_left, priority
  from task
  where type = $1 and status = 'next_run_not_scheduled' and priority = $4 and next_run <= $2
  order by next_run, id
  limit $3
$$;

-- name: peek_any_priority
-- Due tasks with a priority, the highest first.
create or replace function swh_scheduler_compat.swh_scheduler_peek_any_ready_priority_tasks(
  task_type text, ts timestamptz default now(), num_tasks bigint default null
) returns setof swh_scheduler_compat.task language sql stable set search_path = public, pg_temp as $$
  select id, type, arguments, next_run, current_interval, status, policy, retries_left, priority
  from task
  where type = $1 and status = 'next_run_not_scheduled' and priority is not null and next_run <= $2
  order by priority, next_run, id
  limit $3
$$;

-- name: grab
-- Refused.
create or replace function swh_scheduler_compat.swh_scheduler_grab_ready_tasks(
  task_type text, ts timestamptz default now(), num_tasks bigint default null
) returns setof swh_scheduler_compat.task language plpgsql as $$
begin
  perform swh_scheduler_compat.refuse('grabbing tasks');
end $$;

-- name: grab_priority
-- Refused.
create or replace function swh_scheduler_compat.swh_scheduler_grab_any_ready_priority_tasks(
  task_type text, ts timestamptz default now(), num_tasks bigint default null
) returns setof swh_scheduler_compat.task language plpgsql as $$
begin
  perform swh_scheduler_compat.refuse('grabbing tasks');
end $$;

-- name: schedule_run
-- Refused.
create or replace function swh_scheduler_compat.swh_scheduler_schedule_task_run(
  task_id bigint, backend_id text, metadata jsonb default '{}', ts timestamptz default now()
) returns swh_scheduler_compat.task_run language plpgsql as $$
begin
  perform swh_scheduler_compat.refuse('opening runs');
end $$;

-- name: mktemp_run
-- Refused.
create or replace function swh_scheduler_compat.swh_scheduler_mktemp_task_run() returns void language plpgsql as $$
begin
  perform swh_scheduler_compat.refuse('opening runs');
end $$;

-- name: schedule_runs
-- Refused.
create or replace function swh_scheduler_compat.swh_scheduler_schedule_task_run_from_temp()
returns void language plpgsql as $$
begin
  perform swh_scheduler_compat.refuse('opening runs');
end $$;

-- name: start_run
-- Refused.
create or replace function swh_scheduler_compat.swh_scheduler_start_task_run(
  backend_id text, metadata jsonb default '{}', ts timestamptz default now()
) returns swh_scheduler_compat.task_run language plpgsql as $$
begin
  perform swh_scheduler_compat.refuse('starting runs');
end $$;

-- name: end_run
-- Refused.
create or replace function swh_scheduler_compat.swh_scheduler_end_task_run(
  backend_id text, status public.task_run_status, metadata jsonb default '{}', ts timestamptz default now()
) returns swh_scheduler_compat.task_run language plpgsql as $$
begin
  perform swh_scheduler_compat.refuse('ending runs');
end $$;

-- name: compose_grants
-- The statements that give each view the grants of its table, and no others.
with granted as (
  select v.relname, g.privilege_type, g.is_table,
         case when g.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end as grantee
  from pg_class v
  join pg_class t on t.oid = to_regclass('public.' || quote_ident(v.relname))
  cross join lateral (
    select grantee, privilege_type, true as is_table from aclexplode(t.relacl) where grantee <> t.relowner
    union all
    select grantee, privilege_type, false from aclexplode(v.relacl) where grantee <> v.relowner
  ) as g
  where v.relnamespace = to_regnamespace(:schema) and v.relkind = 'v'
    and g.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
)
select coalesce(array_agg(
         format(case when is_table then 'grant %s on %I.%I to %s' else 'revoke %s on %I.%I from %s' end,
                privilege_type, cast(:schema as text), relname, grantee)
         order by is_table), '{}')  -- first away with what was granted before
from granted;

-- name: update_metrics
-- Count the origins of one lister, or of all; its own names a constraint, which a view has not.
create or replace function swh_scheduler_compat.update_metrics(
  lister_id uuid default null, ts timestamptz default now()
) returns setof swh_scheduler_compat.scheduler_metrics language sql set search_path = public, pg_temp as $$
  insert into scheduler_metrics (
    lister_id, visit_type, last_update,
    origins_known, origins_enabled, origins_never_visited, origins_with_pending_changes
  )
  select lo.lister_id, lo.visit_type, coalesce($2, now()),
         count(*),
         count(*) filter (where lo.enabled),
         count(*) filter (where lo.enabled and s.last_snapshot is null),
         count(*) filter (where lo.enabled and lo.last_update > s.last_successful)
  from listed_origins lo
  left join origin_visit_stats s on s.url = lo.url and s.visit_type = lo.visit_type
  where $1 is null or lo.lister_id = $1
  group by lo.lister_id, lo.visit_type
  order by lo.lister_id, lo.visit_type
  on conflict (lister_id, visit_type) do update
  set last_update = excluded.last_update,
      origins_known = excluded.origins_known,
      origins_enabled = excluded.origins_enabled,
      origins_never_visited = excluded.origins_never_visited,
      origins_with_pending_changes = excluded.origins_with_pending_changes
  returning lister_id, visit_type, last_update,
            origins_known, origins_enabled, origins_never_visited, origins_with_pending_changes
$$;
