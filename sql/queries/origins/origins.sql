-- name: record_listed_origins
-- Insert or update origins; the caller holds their rows of origin_visit_stats, which a new row mirrors.
insert into listed_origins as known (
  lister_id, url, visit_type, extra_loader_arguments, enabled, last_seen, last_update, is_fork, forked_from_url,
  visit_loaded, visit_successful, visit_last_successful, visit_queue_position
)
select listed.lister_id, listed.url, listed.visit_type, listed.extra_loader_arguments, listed.enabled, now(),
       listed.last_update, listed.is_fork, listed.forked_from_url,
       s.last_snapshot is not null, s.last_visit_status is not distinct from 'successful',
       s.last_successful, s.next_visit_queue_position
from unnest(
    cast(:lister_ids as uuid[]), cast(:urls as text[]), cast(:visit_types as text[]),
    cast(:extra_loader_arguments as jsonb[]), cast(:enabled as boolean[]), cast(:last_updates as timestamptz[]),
    cast(:is_forks as boolean[]), cast(:forked_from_urls as text[])
  ) as listed (
    lister_id, url, visit_type, extra_loader_arguments, enabled, last_update, is_fork, forked_from_url
  )
  cross join lateral (  -- offset 0: by its key, whatever the planner believes of tables that grow
    select last_snapshot, last_visit_status, next_visit_queue_position,
           case when last_successful >= timestamptz '0001-01-01 00:00:00+00' then last_successful end
             as last_successful  -- as in mirror_stats
    from origin_visit_stats
    where url = listed.url and visit_type = listed.visit_type
    offset 0
  ) as s
on conflict (lister_id, url, visit_type) do update
set extra_loader_arguments = excluded.extra_loader_arguments,
    enabled = excluded.enabled,
    last_seen = excluded.last_seen,
    last_update = excluded.last_update,
    -- Known already, but where mirror_stats left it out for a last_update that is overwritten here.
    visit_last_successful = coalesce(known.visit_last_successful, excluded.visit_last_successful),
    is_fork = coalesce(excluded.is_fork, known.is_fork),  -- a lister that can't tell takes nothing back
    forked_from_url = coalesce(excluded.forked_from_url, known.forked_from_url)
returning cast(lister_id as text), url, visit_type, extra_loader_arguments, last_update, enabled, first_seen, last_seen,
          is_fork, forked_from_url;

-- name: get_listed_origins
-- Origins in key order from behind (lister, url) on. With ties: all visit types of the last url.
select lister_id, url, visit_type, extra_loader_arguments, last_update, enabled, first_seen, last_seen,
       is_fork, forked_from_url
from listed_origins
where (cast(:lister_id as uuid) is null or lister_id = cast(:lister_id as uuid))
  and (cast(:url as text) is null or url = :url)
  and (cast(:enabled as boolean) is null or enabled = cast(:enabled as boolean))
  and (
    cast(:after_lister as uuid) is null
    or (lister_id, url) > (cast(:after_lister as uuid), cast(:after_url as text))
  )
order by lister_id, url
fetch first (cast(:limit as bigint)) rows with ties;

-- name: disable
-- Take origins out of every lister; the caller holds their rows of origin_visit_stats.
update listed_origins lo
set enabled = false
from (
  select listed.ctid
  from unnest(cast(:urls as text[]), cast(:visit_types as text[])) as failing (url, visit_type)
    cross join lateral (
      select ctid from listed_origins where url = failing.url and visit_type = failing.visit_type and enabled offset 0
    ) as listed
) as failing
where lo.ctid = failing.ctid;
