-- The policies stand at the end of the file. Each walks one index in order and stops at its limit: the laterals look
-- every row's other half up by its key, whatever the planner believes (offset 0, and the lock, keep it from anything
-- else; free, it joined whole tables). Conditions on visits are asked of origin_visit_stats, whose row is locked and
-- then looked at again; the mirrors in listed_origins only lead the walk. A cooldown that is off is `infinity`.
-- A sample is drawn row by row, so that it needs no scan of the table.

-- name: hold_stats
-- Lock the rows of these origins until the transaction ends, made where missing. One pass in key order: holders of
-- overlapping sets wait for each other and never deadlock. `where false` locks a row that stands and writes nothing.
insert into origin_visit_stats (url, visit_type, listed_only)
select url, visit_type, true
from (
  select distinct url, visit_type
  from unnest(cast(:urls as text[]), cast(:visit_types as text[])) as key (url, visit_type)
) as key
order by url collate "C", visit_type collate "C"
on conflict (url, visit_type) do update set listed_only = true where false;

-- name: upsert_stats
-- Write statistics, locked in key order as hold_stats does; a null keeps what is stored.
insert into origin_visit_stats as known (
  url, visit_type, last_successful, last_visit, last_visit_status, last_scheduled, last_snapshot,
  next_visit_queue_position, next_position_offset, successive_visits
)
select url, visit_type, last_successful, last_visit, last_visit_status, last_scheduled, last_snapshot,
       next_visit_queue_position, next_position_offset, successive_visits
from unnest(
    cast(:urls as text[]), cast(:visit_types as text[]), cast(:last_successfuls as timestamptz[]),
    cast(:last_visits as timestamptz[]), cast(:last_visit_statuses as last_visit_status[]),
    cast(:last_scheduleds as timestamptz[]), cast(:last_snapshots as bytea[]),
    cast(:next_visit_queue_positions as bigint[]), cast(:next_position_offsets as int[]),
    cast(:successive_visits as int[])
  ) as given (
    url, visit_type, last_successful, last_visit, last_visit_status, last_scheduled, last_snapshot,
    next_visit_queue_position, next_position_offset, successive_visits
  )
order by url collate "C", visit_type collate "C"
on conflict (url, visit_type) do update
set last_successful = coalesce(excluded.last_successful, known.last_successful),
    last_visit = coalesce(excluded.last_visit, known.last_visit),
    last_visit_status = coalesce(excluded.last_visit_status, known.last_visit_status),
    last_scheduled = coalesce(excluded.last_scheduled, known.last_scheduled),
    last_snapshot = coalesce(excluded.last_snapshot, known.last_snapshot),
    next_visit_queue_position = coalesce(excluded.next_visit_queue_position, known.next_visit_queue_position),
    next_position_offset = excluded.next_position_offset,
    successive_visits = excluded.successive_visits,
    listed_only = false;

-- name: mirror_stats
-- Bring the mirrors in listed_origins up to date, in every lister. A statement after the one that locked the
-- statistics: only its snapshot shows a listing that committed while that one waited. Laterals with offset 0 look
-- every key up by index, whatever the planner believes of tables that grow; ctid, because the caller's lock of the
-- statistics keeps the rows in place. Where others wrote timestamps of no year of ours, their difference may be none that
-- an index can hold: then it is not mirrored, and no lag is known.
update listed_origins lo
set visit_loaded = stale.loaded,
    visit_successful = stale.successful,
    visit_last_successful = stale.last_successful,
    visit_queue_position = stale.queue_position
from (
  select listed.ctid, s.loaded, s.successful, listed.last_successful, s.queue_position
  from unnest(cast(:urls as text[]), cast(:visit_types as text[])) as key (url, visit_type)
    cross join lateral (
      select last_snapshot is not null as loaded, last_visit_status is not distinct from 'successful' as successful,
             case when last_successful >= timestamptz '0001-01-01 00:00:00+00' then last_successful end
               as last_successful,
             next_visit_queue_position as queue_position
      from origin_visit_stats
      where url = key.url and visit_type = key.visit_type
      offset 0
    ) as s
    cross join lateral (
      select ctid, visit_loaded, visit_successful, visit_last_successful, visit_queue_position,
             case when last_update >= timestamptz '10000-01-01 00:00:00+00' then null else s.last_successful end
               as last_successful
      from listed_origins
      where url = key.url and visit_type = key.visit_type
      offset 0
    ) as listed
  where (listed.visit_loaded, listed.visit_successful, listed.visit_last_successful, listed.visit_queue_position)
    is distinct from (s.loaded, s.successful, listed.last_successful, s.queue_position)
) as stale
where lo.ctid = stale.ctid;

-- name: get_stats
-- Statistics of these origins, in the order of the keys; without those that stand only because the origin is listed.
select s.url, s.visit_type, s.last_successful, s.last_visit, s.last_visit_status, s.last_scheduled, s.last_snapshot,
       s.next_visit_queue_position, s.next_position_offset, s.successive_visits
from unnest(cast(:urls as text[]), cast(:visit_types as text[])) with ordinality as key (url, visit_type, place)
  cross join lateral (
    select url, visit_type, last_successful, last_visit, last_visit_status, last_scheduled, last_snapshot,
           next_visit_queue_position, next_position_offset, successive_visits
    from origin_visit_stats
    where url = key.url and visit_type = key.visit_type and not listed_only
    offset 0
  ) as s
order by key.place;

-- name: get_queue_positions
-- How far the queue of origins without last_update has come, by visit type.
select visit_type, position from visit_scheduler_queue_position;

-- name: set_queue_position
-- Set how far the queue of a visit type has come.
insert into visit_scheduler_queue_position (visit_type, position)
values (:visit_type, :position)
on conflict (visit_type) do update set position = excluded.position;

-- name: raise_queue_position
-- The queue of a visit type has come that far; it never goes back.
insert into visit_scheduler_queue_position (visit_type, position)
values (:visit_type, :position)
on conflict (visit_type) do update
set position = greatest(visit_scheduler_queue_position.position, excluded.position);

-- name: now
-- The database's clock.
select now();

-- name: forbid_sorting
-- A policy walks an index in order and locks as it goes, up to its count. Where statistics say that a table is nearly
-- empty the planner would sort instead, below the locks: the first grabber would lock all that a second one looks for.
select current_setting('enable_sort') as before, set_config('enable_sort', 'off', true);

-- name: restore_sorting
-- As it was before.
select set_config('enable_sort', :before, true);

-- name: mark_scheduled
-- Note that visits were handed out; never backwards. The caller holds the rows.
update origin_visit_stats
set last_scheduled = greatest(last_scheduled, cast(:now as timestamptz)), listed_only = false
where visit_type = :visit_type and url = any(cast(:urls as text[]));

-- name: oldest_scheduled_first
-- What waits longest, what was never scheduled before all.
select lo.lister_id, lo.url, lo.visit_type, lo.extra_loader_arguments, lo.last_update, lo.enabled,
       lo.first_seen, lo.last_seen, lo.is_fork, lo.forked_from_url
from origin_visit_stats s
  cross join lateral (
    select lister_id, url, visit_type, extra_loader_arguments, last_update, enabled,
           first_seen, last_seen, is_fork, forked_from_url
    from listed_origins
    where url = s.url and visit_type = s.visit_type
      and enabled = cast(:enabled as boolean)
      and (cast(:tablesample as float8) is null or random() * 100 < cast(:tablesample as float8))
    offset 0
  ) as lo
where s.visit_type = :visit_type
  and past_cooldowns(s, cast(:absolute_before as timestamptz), cast(:scheduled_before as timestamptz),
                     cast(:failed_before as timestamptz), cast(:not_found_before as timestamptz))
order by coalesce(s.last_scheduled, timestamptz '-infinity')
limit cast(:count as bigint)
for no key update of s skip locked;

-- name: oldest_scheduled_first_of_listers
-- The same of some listers; a join, so that the planner may start from the listers where they list little.
select lo.lister_id, lo.url, lo.visit_type, lo.extra_loader_arguments, lo.last_update, lo.enabled,
       lo.first_seen, lo.last_seen, lo.is_fork, lo.forked_from_url
from origin_visit_stats s
  join listed_origins lo on lo.url = s.url and lo.visit_type = s.visit_type
where s.visit_type = :visit_type
  and lo.lister_id = any(cast(:listers as uuid[]))
  and lo.enabled = cast(:enabled as boolean)
  and (cast(:tablesample as float8) is null or random() * 100 < cast(:tablesample as float8))
  and past_cooldowns(s, cast(:absolute_before as timestamptz), cast(:scheduled_before as timestamptz),
                     cast(:failed_before as timestamptz), cast(:not_found_before as timestamptz))
order by coalesce(s.last_scheduled, timestamptz '-infinity')
limit cast(:count as bigint)
for no key update of s skip locked;

-- name: first_visits_after_listing
-- What a lister lists and was not scheduled since that listing finished (year 1: never finished).
select lo.lister_id, lo.url, lo.visit_type, lo.extra_loader_arguments, lo.last_update, lo.enabled,
       lo.first_seen, lo.last_seen, lo.is_fork, lo.forked_from_url
from origin_visit_stats s
  join listed_origins lo on lo.url = s.url and lo.visit_type = s.visit_type
where s.visit_type = :visit_type
  and lo.lister_id = any(cast(:listers as uuid[]))
  and lo.enabled = cast(:enabled as boolean)
  and (cast(:tablesample as float8) is null or random() * 100 < cast(:tablesample as float8))
  and coalesce(s.last_scheduled, timestamptz '-infinity') < cast(:finished as timestamptz)
  and past_cooldowns(s, cast(:absolute_before as timestamptz), cast(:scheduled_before as timestamptz),
                     cast(:failed_before as timestamptz), cast(:not_found_before as timestamptz))
order by coalesce(s.last_scheduled, timestamptz '-infinity')
limit cast(:count as bigint)
for no key update of s skip locked;

-- name: never_visited_oldest_update_first
-- What was never loaded, by its last update.
select lo.lister_id, lo.url, lo.visit_type, lo.extra_loader_arguments, lo.last_update, lo.enabled,
       lo.first_seen, lo.last_seen, lo.is_fork, lo.forked_from_url,
       s.next_visit_queue_position as queue_position
from listed_origins lo
  cross join lateral (
    select next_visit_queue_position
    from origin_visit_stats
    where url = lo.url and visit_type = lo.visit_type
      and last_snapshot is null
      and past_cooldowns(origin_visit_stats, cast(:absolute_before as timestamptz),
                         cast(:scheduled_before as timestamptz), cast(:failed_before as timestamptz),
                         cast(:not_found_before as timestamptz))
    for no key update skip locked
  ) as s
where lo.visit_type = :visit_type
  and not lo.visit_loaded
  and lo.last_update is not null
  and lo.enabled = cast(:enabled as boolean)
  and (cast(:listers as uuid[]) is null or lo.lister_id = any(cast(:listers as uuid[])))
  and (cast(:tablesample as float8) is null or random() * 100 < cast(:tablesample as float8))
order by lo.last_update
limit cast(:count as bigint);

-- name: already_visited_order_by_lag
-- What changed since it was loaded, the largest lag first.
select lo.lister_id, lo.url, lo.visit_type, lo.extra_loader_arguments, lo.last_update, lo.enabled,
       lo.first_seen, lo.last_seen, lo.is_fork, lo.forked_from_url,
       s.next_visit_queue_position as queue_position
from listed_origins lo
  cross join lateral (
    select next_visit_queue_position
    from origin_visit_stats
    where url = lo.url and visit_type = lo.visit_type
      and last_snapshot is not null and last_successful < lo.last_update
      and past_cooldowns(origin_visit_stats, cast(:absolute_before as timestamptz),
                         cast(:scheduled_before as timestamptz), cast(:failed_before as timestamptz),
                         cast(:not_found_before as timestamptz))
    for no key update skip locked
  ) as s
where lo.visit_type = :visit_type
  and lo.last_update > lo.visit_last_successful
  and lo.enabled = cast(:enabled as boolean)
  and (cast(:listers as uuid[]) is null or lo.lister_id = any(cast(:listers as uuid[])))
  and (cast(:tablesample as float8) is null or random() * 100 < cast(:tablesample as float8))
order by lo.last_update - lo.visit_last_successful desc
limit cast(:count as bigint);

-- name: origins_without_last_update
-- What its forge gives no last update for, by its place in the queue.
select lo.lister_id, lo.url, lo.visit_type, lo.extra_loader_arguments, lo.last_update, lo.enabled,
       lo.first_seen, lo.last_seen, lo.is_fork, lo.forked_from_url,
       s.next_visit_queue_position as queue_position
from listed_origins lo
  cross join lateral (
    select next_visit_queue_position
    from origin_visit_stats
    where url = lo.url and visit_type = lo.visit_type
      and past_cooldowns(origin_visit_stats, cast(:absolute_before as timestamptz),
                         cast(:scheduled_before as timestamptz), cast(:failed_before as timestamptz),
                         cast(:not_found_before as timestamptz))
    for no key update skip locked
  ) as s
where lo.visit_type = :visit_type
  and lo.last_update is null
  and lo.enabled = cast(:enabled as boolean)
  and (cast(:listers as uuid[]) is null or lo.lister_id = any(cast(:listers as uuid[])))
  and (cast(:tablesample as float8) is null or random() * 100 < cast(:tablesample as float8))
order by lo.visit_queue_position nulls first, lo.first_seen
limit cast(:count as bigint);

-- name: stop_after_success
-- What has not been loaded in its last visit, by its last update.
select lo.lister_id, lo.url, lo.visit_type, lo.extra_loader_arguments, lo.last_update, lo.enabled,
       lo.first_seen, lo.last_seen, lo.is_fork, lo.forked_from_url,
       s.next_visit_queue_position as queue_position
from listed_origins lo
  cross join lateral (
    select next_visit_queue_position
    from origin_visit_stats
    where url = lo.url and visit_type = lo.visit_type
      and last_visit_status is distinct from 'successful'
      and past_cooldowns(origin_visit_stats, cast(:absolute_before as timestamptz),
                         cast(:scheduled_before as timestamptz), cast(:failed_before as timestamptz),
                         cast(:not_found_before as timestamptz))
    for no key update skip locked
  ) as s
where lo.visit_type = :visit_type
  and not lo.visit_successful
  and lo.enabled = cast(:enabled as boolean)
  and (cast(:listers as uuid[]) is null or lo.lister_id = any(cast(:listers as uuid[])))
  and (cast(:tablesample as float8) is null or random() * 100 < cast(:tablesample as float8))
order by lo.last_update, lo.first_seen
limit cast(:count as bigint);
