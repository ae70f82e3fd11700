-- Names of tables and types are looked up along the search path: the same statements read the scheduler's own tables, and
-- those that the migrations make in the temporary schema.

-- name: scheduler_version_is_kept
-- Whether a table dbversion with a column version stands here.
select exists (
  select from pg_attribute
  where attrelid = to_regclass('dbversion') and attname = 'version' and not attisdropped
);

-- name: scheduler_version
-- The version of the scheduler that made these tables.
select cast(max(version) as int) from dbversion;

-- name: tables
-- Which of these tables stand, and how. Rows are the planner's estimate, or ours where it has none yet.
select t.name, c.relkind, n.nspname as schema, n.nspname = current_schema() as here,
       pg_has_role(c.relowner, 'usage') as owned, coalesce(c.reloptions, '{}') as options,
       obj_description(c.oid, 'pg_class') as comment, case when c.reltuples < 0 then pg_table_size(c.oid) / 200 else cast(c.reltuples as bigint) end as rows,
       pg_table_size(c.oid) as bytes
from unnest(cast(:tables as text[])) as t (name)
join pg_class c on c.oid = to_regclass(quote_ident(t.name))
join pg_namespace n on n.oid = c.relnamespace;

-- name: columns
-- The columns of these tables. given: the database fills it in by itself, as identity or as generated.
select t.name as "table", a.attname as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as required,
       pg_get_expr(d.adbin, d.adrelid, true) as default_value, a.attidentity <> '' or a.attgenerated <> '' as given,
       col_description(a.attrelid, a.attnum) as comment
from unnest(cast(:tables as text[])) as t (name)
join pg_attribute a on a.attrelid = to_regclass(quote_ident(t.name)) and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
order by t.name, a.attnum;

-- name: constraints
-- Primary keys, references and checks of these tables; their columns in the constraint's order.
select t.name as "table", k.conname as name, k.contype as kind, pg_get_constraintdef(k.oid, true) as definition,
       array(select cast(a.attname as text)
             from unnest(k.conkey) with ordinality as key (attnum, n)
             join pg_attribute a on a.attrelid = k.conrelid and a.attnum = key.attnum
             order by key.n) as columns,
       cast(cast(nullif(k.confrelid, 0) as regclass) as text) as target, k.convalidated as valid
from unnest(cast(:tables as text[])) as t (name)
join pg_constraint k on k.conrelid = to_regclass(quote_ident(t.name)) and k.contype in ('p', 'f', 'c')
order by t.name, k.conname;

-- name: indexes
-- Indexes of these tables, and which columns they must follow.
select t.name as "table", c.relname as name, pg_get_indexdef(i.indexrelid, 0, true) as definition,
       i.indisvalid and i.indisready as valid, i.indisprimary as is_primary, pg_relation_size(c.oid) as bytes,
       array(select distinct cast(a.attname as text)
             from pg_depend d
             join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
             where d.classid = cast('pg_class' as regclass) and d.objid = i.indexrelid and d.refobjid = i.indrelid
               and d.refobjsubid > 0
             union
             select cast(a.attname as text) from pg_attribute a
             where a.attrelid = i.indrelid and a.attnum = any(i.indkey)) as columns
from unnest(cast(:tables as text[])) as t (name)
join pg_index i on i.indrelid = to_regclass(quote_ident(t.name))
join pg_class c on c.oid = i.indexrelid
order by t.name, c.relname;

-- name: enums
-- The labels of these enum types, in their order.
select t.name, array(select cast(e.enumlabel as text) from pg_enum e where e.enumtypid = y.oid order by e.enumsortorder)
         as labels,
       obj_description(y.oid, 'pg_type') as comment
from unnest(cast(:enums as text[])) as t (name)
join pg_type y on y.oid = to_regtype(quote_ident(t.name)) and y.typtype = 'e';

-- name: triggers
-- Triggers of these tables, but those that PostgreSQL keeps for references; and the statement that drops each.
select t.name as "table", g.tgname as name, format('drop trigger if exists %I on %I', g.tgname, t.name) as statement
from unnest(cast(:tables as text[])) as t (name)
join pg_trigger g on g.tgrelid = to_regclass(quote_ident(t.name)) and not g.tgisinternal
order by t.name, g.tgname;

-- name: rights
-- What this session may do here beside its tables.
select has_schema_privilege(current_schema(), 'create') as may_create,
       has_database_privilege(current_database(), 'temporary') as may_have_temporary,
       coalesce((select pg_has_role(nspowner, 'usage') from pg_namespace where nspname = 'swh_scheduler_compat'),
                has_database_privilege(current_database(), 'create')) as may_have_compat,
       cast(current_setting('transaction_read_only') as boolean) as read_only,
       current_schema() as schema, cast(current_user as text) as role, cast(current_database() as text) as database;

-- name: backend_pid
-- The server process behind this session; differs from what the driver was told behind a pooler.
select pg_backend_pid();

-- name: other_sessions
-- Who else uses this database, and since when the oldest of their transactions is open.
select count(*) as sessions, min(xact_start) as oldest,
       coalesce(array_agg(distinct application_name order by application_name)
                filter (where application_name <> ''), '{}') as names
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend';

-- name: prepare_session
-- No limit of the role cuts a long build short; and the server looks every second whether the client still lives, so that
-- an adoption that was killed holds nothing for long.
select set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '0', false),
       set_config('client_connection_check_interval', '1s', false);

-- name: limit_lock_wait
-- In this transaction: whoever waits for a lock makes all others wait behind it, so it soon gives up.
select set_config('lock_timeout', :timeout, true);

-- name: use_temporary_schema
-- In this transaction: what is made lands in the session's temporary schema, and nothing else is seen.
select set_config('search_path', 'pg_temp', true);

-- name: compose_default
-- The statement that gives a column its default.
select format('alter table %I alter column %I set default %s',
              cast(:table as text), cast(:column as text), cast(:value as text));

-- name: compose_nullable
-- The statement that lets a column be empty.
select format('alter table %I alter column %I drop not null', cast(:table as text), cast(:column as text));

-- name: compose_required
-- The statements that make a column required: rows are read while reads and writes go on, only the ends take locks.
select array[
  format('alter table %1$I drop constraint if exists %3$I, add constraint %3$I check (%2$I is not null) not valid',
         cast(:table as text), cast(:column as text), cast(:name as text)),
  format('alter table %1$I validate constraint %2$I', cast(:table as text), cast(:name as text)),
  format('alter table %1$I alter column %2$I set not null, drop constraint %3$I',
         cast(:table as text), cast(:column as text), cast(:name as text))
];

-- name: compose_constraint
-- The statements that add a constraint in the same way.
select array[
  format('alter table %1$I drop constraint if exists %2$I, add constraint %2$I %3$s not valid',
         cast(:table as text), cast(:name as text), cast(:definition as text)),
  format('alter table %1$I validate constraint %2$I', cast(:table as text), cast(:name as text))
];

-- name: compose_unconstrained
-- The statement that drops a constraint.
select format('alter table %I drop constraint if exists %I', cast(:table as text), cast(:name as text));

-- name: compose_storage
-- The statement that sets options of a table, written as `fillfactor=80`.
select format('alter table %I set (%s)', cast(:table as text), array_to_string(cast(:options as text[]), ', '));

-- name: compose_index_name
-- The statement that gives an index another name.
select format('alter index %I rename to %I', cast(:name as text), cast(:new_name as text));

-- name: compose_no_index
-- The statement that drops an index while reads and writes go on.
select format('drop index concurrently if exists %I', cast(:name as text));

-- name: duplicate_backend_ids
-- backend_ids that several runs have: how many ids, how many runs beyond one each, and the worst.
with duplicate as materialized (
  select backend_id, count(*) as runs from task_run where backend_id is not null group by backend_id having count(*) > 1
)
select count(*) as ids, cast(coalesce(sum(runs - 1), 0) as bigint) as rows,
       array(select backend_id from duplicate order by runs desc, backend_id limit :examples) as examples
from duplicate;

-- name: rename_duplicate_backend_ids
-- The newest run keeps the id that several have. The others get their own run's number behind it, and note what it was.
with duplicate as materialized (
  select id, row_number() over (partition by backend_id order by id desc) as n
  from task_run
  where backend_id in (
    select backend_id from task_run where backend_id is not null group by backend_id having count(*) > 1
  )
)
update task_run r
set backend_id = r.backend_id || '.' || r.id,
    metadata = case when r.metadata is null then '{}' when jsonb_typeof(r.metadata) = 'object' then r.metadata
                    else jsonb_build_object('metadata', r.metadata) end
               || jsonb_build_object('backend_id_before_adoption', r.backend_id)
from duplicate
where r.id = duplicate.id and duplicate.n > 1;

-- name: duplicate_tasks
-- Tasks that count as the same: how many beyond one each, and the ids of the largest groups, the first of which
-- create_tasks answers with.
with hashed as materialized (
  select jsonb_hash_extended(arguments, 0) as hash, type
  from task
  group by 1, 2
  having count(*) > 1
), duplicate as materialized (
  select count(*) as tasks, min(t.id) as id
  from task t
  join hashed h on h.hash = jsonb_hash_extended(t.arguments, 0) and h.type = t.type
  group by t.type, t.arguments, t.policy, t.priority,
           case when t.status = 'next_run_scheduled' then 'next_run_not_scheduled' else t.status end,
           case when t.policy = 'oneshot' then t.next_run end
  having count(*) > 1
)
select cast(coalesce(sum(tasks - 1), 0) as bigint) as rows,
       array(select cast(id as text) from duplicate order by tasks desc, id limit :examples) as examples
from duplicate;

-- name: open_runs
-- Runs without an end: those that may still get one, those that no event can reach, those whose status says that they ended.
select count(*) filter (where status in ('scheduled', 'started')) as open,
       count(*) filter (where status in ('scheduled', 'started') and backend_id is null) as unreachable,
       count(*) filter (where status not in ('scheduled', 'started')) as endless
from task_run
where ended is null;

-- name: stuck_tasks
-- Tasks in flight without a run that an event could end.
with stuck as materialized (
  select id
  from task t
  where status = 'next_run_scheduled'
    and not exists (
      select from task_run r
      where r.task = t.id and r.ended is null and r.status in ('scheduled', 'started') and r.backend_id is not null
    )
)
select count(*) as rows, array(select cast(id as text) from stuck order by id limit :examples) as examples from stuck;

-- name: shrinking_types
-- Task types whose factor is not positive, which would move time backwards; it counts as 1.
select count(*) as rows, coalesce(array_agg(type order by type), '{}') as examples
from task_type
where backoff_factor <= 0;

-- name: begin_adoption
-- The record of an adoption under way, made once; it goes with the last step.
create table if not exists swh_sched_runner_adoption (
  started        timestamptz not null default now(),
  from_version   int not null,
  step           text not null default '',
  origins_after  jsonb,
  origins        bigint not null default 0,
  origins_done   boolean not null default false
);

-- name: describe_adoption
-- What that table is, for whoever meets it.
comment on table swh_sched_runner_adoption is
  'An adoption by swh-sched-runner is under way, or was interrupted: `swh-sched-runner db adopt` goes on with it';

-- name: record_adoption
-- The row of that record.
insert into swh_sched_runner_adoption (from_version)
select :version where not exists (select from swh_sched_runner_adoption);

-- name: adoption_is_recorded
-- Whether an adoption was begun here.
select to_regclass('swh_sched_runner_adoption') is not null;

-- name: adoption
-- How far it came.
select started, from_version, step, origins, origins_done from swh_sched_runner_adoption;

-- name: record_step
-- What is being done now.
update swh_sched_runner_adoption set step = :step;

-- name: follow_open_runs
-- Tasks in flight follow their newest open run that an event can reach; its end then moves them. Others stay as they are.
with flight as materialized (
  select id from task where status = 'next_run_scheduled' and run_id is null order by id for no key update
)
update task t
set run_id = followed.run
from (
  select flight.id, newest.run
  from flight
  cross join lateral (
    select max(r.id) as run
    from task_run r
    where r.task = flight.id and r.ended is null and r.status in ('scheduled', 'started') and r.backend_id is not null
  ) as newest
  where newest.run is not null
) as followed
where t.id = followed.id;

-- name: prepare_origins
-- The next origins in key order get the row of statistics that stands from the first listing on, and the mirror of it.
-- Answers how many were looked at; none is the end.
with place as materialized (
  select coalesce(cast(origins_after ->> 0 as uuid), uuid '00000000-0000-0000-0000-000000000000') as lister_id,
         coalesce(origins_after ->> 1, '') as url, coalesce(origins_after ->> 2, '') as visit_type
  from swh_sched_runner_adoption
), page as materialized (
  select lister_id, url, visit_type
  from listed_origins
  where (lister_id, url, visit_type)  -- sub-queries: the range of an index, not a filter
        > ((select lister_id from place), (select url from place), (select visit_type from place))
  order by lister_id, url, visit_type
  limit :batch
), known as (
  insert into origin_visit_stats (url, visit_type, listed_only)
  select url, visit_type, true
  from (select distinct url, visit_type from page) as key
  order by url collate "C", visit_type collate "C"
  on conflict (url, visit_type) do nothing
), mirrored as (
  update listed_origins lo
  set visit_loaded = s.last_snapshot is not null,
      visit_successful = s.last_visit_status is not distinct from 'successful',
      visit_last_successful = s.last_successful,
      visit_queue_position = s.next_visit_queue_position
  from page
  join origin_visit_stats s on s.url = page.url and s.visit_type = page.visit_type
  where lo.lister_id = page.lister_id and lo.url = page.url and lo.visit_type = page.visit_type
    and (lo.visit_loaded, lo.visit_successful, lo.visit_last_successful, lo.visit_queue_position)
      is distinct from (s.last_snapshot is not null, s.last_visit_status is not distinct from 'successful',
                        s.last_successful, s.next_visit_queue_position)
), seen as (
  select count(*) as origins,
         (select jsonb_build_array(lister_id, url, visit_type)
          from page order by lister_id desc, url desc, visit_type desc limit 1) as last
  from page
)
update swh_sched_runner_adoption
set origins_after = coalesce(seen.last, origins_after),
    origins = swh_sched_runner_adoption.origins + seen.origins,
    origins_done = seen.origins = 0
from seen
returning seen.origins;

-- name: compose_statistics
-- The statements that count what stands in these tables: indexes on expressions are not used well before that. Not in
-- those that are empty, where the count would mislead once they fill.
select coalesce(array_agg(format('analyze %I', name)), '{}')
from unnest(cast(:tables as text[])) as t (name)
where pg_relation_size(to_regclass(quote_ident(name))) > 0;

-- name: end_adoption
-- The record goes.
drop table swh_sched_runner_adoption;
