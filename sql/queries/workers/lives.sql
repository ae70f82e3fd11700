-- name: lock_all
-- One at a time writes lives: two that add a life of one worker would not see each other's. Taken after tasks and runs
-- are locked, before rows of worker.
select pg_advisory_xact_lock(:key);

-- name: lock_lives
-- Third lock of an end, and that of heartbeats: rows of worker, in order of id. Those of the workers named that are not
-- over, or that what is signed may be of.
select id, hostname, pid, life, began, online, signed, first_sign, last_sign, clock, processed, active, software, version,
       pool, offline, offline_active, offline_clock, left_at, left_starts, left_ends, left_running, clock_offset,
       events_clock, audit_from, audit_settled, audit_processed, audit_starts, recent_starts, sample_clock,
       sample_processed, sample_active, sampled, unmatched, missing, ended, ended_by
from worker
where hostname = any(cast(:hostnames as text[]))
  and (ended is null or life = any(cast(:lives as text[])) or life is null and pid = any(cast(:pids as int[])))
order by id
for no key update;

-- name: leaving
-- Which of these workers shut down; mostly none.
select hostname
from worker
where left_at is not null and ended is null and offline > coalesce(online, began)
  and hostname = any(cast(:hostnames as text[]));

-- name: lock_samples
-- Lives of which a heartbeat has waited so long to be compared that all that its worker told before is recorded, if
-- nothing is left to record.
select id, hostname, pid, life, began, online, signed, first_sign, last_sign, clock, processed, active, software, version,
       pool, offline, offline_active, offline_clock, left_at, left_starts, left_ends, left_running, clock_offset,
       events_clock, audit_from, audit_settled, audit_processed, audit_starts, recent_starts, sample_clock,
       sample_processed, sample_active, sampled, unmatched, missing, ended, ended_by
from worker
where sampled < now() - make_interval(secs => :seconds) and ended is null
order by id
for no key update;

-- name: write
-- New lives and what became of known ones, whose rows are locked.
insert into worker (
  id, hostname, pid, life, began, online, signed, first_sign, last_sign, clock, processed, active, software, version,
  offline, offline_active, offline_clock, left_at, left_starts, left_ends, left_running, clock_offset, events_clock,
  audit_from, audit_settled, audit_processed, audit_starts, recent_starts, sample_clock, sample_processed,
  sample_active, sampled, unmatched, missing, ended, ended_by
)
select coalesce(id, nextval('worker_id_seq')), hostname, pid, life, began, online, signed, first_sign, last_sign, clock,
       processed, active, software, version, offline, offline_active, offline_clock, left_at,
       cast(left_starts as bigint[]), cast(left_ends as bigint[]), left_running, cast(clock_offset as double precision),
       events_clock, audit_from, audit_settled, audit_processed, audit_starts, cast(recent_starts as bigint[]),
       sample_clock, sample_processed, sample_active, sampled, unmatched, missing, ended, ended_by
from unnest(
  cast(:id as bigint[]), cast(:hostname as text[]), cast(:pid as int[]), cast(:life as text[]),
  cast(:began as timestamptz[]), cast(:online as timestamptz[]), cast(:signed as timestamptz[]),
  cast(:first_sign as timestamptz[]), cast(:last_sign as timestamptz[]), cast(:clock as bigint[]),
  cast(:processed as bigint[]), cast(:active as bigint[]), cast(:software as text[]), cast(:version as text[]),
  cast(:offline as timestamptz[]), cast(:offline_active as bigint[]), cast(:offline_clock as bigint[]),
  cast(:left_at as timestamptz[]), cast(:left_starts as text[]), cast(:left_ends as text[]),
  cast(:left_running as bigint[]), cast(:clock_offset as text[]),
  cast(:events_clock as bigint[]), cast(:audit_from as bigint[]), cast(:audit_settled as bigint[]),
  cast(:audit_processed as bigint[]), cast(:audit_starts as bigint[]), cast(:recent_starts as text[]),
  cast(:sample_clock as bigint[]), cast(:sample_processed as bigint[]), cast(:sample_active as bigint[]),
  cast(:sampled as timestamptz[]), cast(:unmatched as bigint[]), cast(:missing as bigint[]),
  cast(:ended as timestamptz[]), cast(:ended_by as text[])
) as u (
  id, hostname, pid, life, began, online, signed, first_sign, last_sign, clock, processed, active, software, version,
  offline, offline_active, offline_clock, left_at, left_starts, left_ends, left_running, clock_offset, events_clock,
  audit_from, audit_settled, audit_processed, audit_starts, recent_starts, sample_clock, sample_processed,
  sample_active, sampled, unmatched, missing, ended, ended_by
)
on conflict (id) do update
set began = excluded.began, online = excluded.online, signed = excluded.signed, last_sign = excluded.last_sign,
    clock = excluded.clock, processed = excluded.processed, active = excluded.active, software = excluded.software,
    version = excluded.version, offline = excluded.offline, offline_active = excluded.offline_active,
    offline_clock = excluded.offline_clock, left_at = excluded.left_at, left_starts = excluded.left_starts,
    left_ends = excluded.left_ends, left_running = excluded.left_running,
    clock_offset = excluded.clock_offset, events_clock = excluded.events_clock, audit_from = excluded.audit_from,
    audit_settled = excluded.audit_settled, audit_processed = excluded.audit_processed,
    audit_starts = excluded.audit_starts, recent_starts = excluded.recent_starts, sample_clock = excluded.sample_clock,
    sample_processed = excluded.sample_processed, sample_active = excluded.sample_active, sampled = excluded.sampled,
    unmatched = excluded.unmatched, missing = excluded.missing, ended = excluded.ended, ended_by = excluded.ended_by
returning id, hostname, pid, life, began;

-- name: uninspected
-- Lives to ask for their pool and queues: those that were never asked, a minute later those that left out an answer.
update worker
set inspected = now()
where id in (
  select id
  from worker
  where ended is null and (pool is null or queues is null) and last_sign > now() - interval '10 seconds'
    and (inspected is null or inspected < now() - interval '1 minute')
  order by id
  limit 500
  for no key update
)
returning id, hostname, pid;

-- name: inspected
-- What lives answered. Locks rows in order of id.
with locked as materialized (
  select id from worker where id = any(cast(:ids as bigint[])) and ended is null order by id for no key update
)
update worker w
set pool = u.pool, blocks = u.blocks, heartbeat = cast(u.heartbeat as double precision),
    queues = case when u.queues is not null then array(select jsonb_array_elements_text(cast(u.queues as jsonb))) end,
    inspected = now()
from unnest(cast(:ids as bigint[]), cast(:pools as text[]), cast(:blocks as boolean[]), cast(:heartbeats as text[]),
            cast(:queues as text[])) as u (id, pool, blocks, heartbeat, queues)
join locked on locked.id = u.id
where w.id = u.id;

-- name: list
-- Lives that are not over, and with all those that are, in order of host name and beginning; and what each executes.
with executing as (
  select r.worker, jsonb_agg(jsonb_build_object(
           'task', t.id, 'task_type', t.type, 'backend_id', r.backend_id,
           'seconds', greatest(0, round(extract(epoch from now() - r.started)))) order by r.started, r.id) as runs
  from task t
  join task_run r on r.id = t.run_id
  where t.status = 'next_run_scheduled' and r.worker is not null and r.ended is null and r.waits_since is null
  group by r.worker
)
select w.id, w.hostname, w.pid, w.life, w.began, w.online, w.first_sign, w.last_sign, w.processed, w.active, w.software,
       w.version, w.pool, w.blocks, w.heartbeat, w.queues, w.offline > coalesce(w.online, w.began) as is_leaving,
       w.clock_offset, w.audit_from, w.missing, w.ended, w.ended_by,
       coalesce(executing.runs, '[]') as executing
from worker w
left join executing on executing.worker = w.id
where w.ended is null or :all
order by w.hostname, w.began, w.id;

-- name: measures
-- Executions whose task-started is missing and how late heartbeats arrive, by worker.
select hostname, sum(missing) as missing, (array_agg(clock_offset order by began desc, id desc))[1] as clock_offset
from worker
where ended is null
group by hostname
order by hostname;

-- name: forget
-- End the lives of a worker by an operator's word; answers those that still show signs of life where that isn't forced.
with life as materialized (
  select id, coalesce(last_sign, first_sign) as sign
  from worker
  where hostname = :hostname and ended is null
  order by id
  for no key update
), living as (
  select max(sign) as sign from life where sign > now() - make_interval(secs => :seconds) and not :force
), forgotten as (
  update worker w set ended = now(), ended_by = 'forgotten'
  from life
  where w.id = life.id and (select sign from living) is null
  returning w.id
)
select (select count(*) from life) as lives, (select count(*) from forgotten) as forgotten,
       extract(epoch from now() - (select sign from living)) as seconds;

-- name: trim
-- Lives that were over for so long, unless a run that is in flight names them.
delete from worker
where ended < now() - make_interval(secs => :seconds)
  and id not in (
    select r.worker
    from task t
    join task_run r on r.id = t.run_id
    where t.status = 'next_run_scheduled' and r.worker is not null and r.ended is null
  )
returning id;
