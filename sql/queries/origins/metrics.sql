-- name: update_metrics
-- Count the origins of one lister, or of all. Written in key order: two updates at once don't deadlock.
insert into scheduler_metrics (
  lister_id, visit_type, last_update,
  origins_known, origins_enabled, origins_never_visited, origins_with_pending_changes
)
select lister_id, visit_type, coalesce(cast(:now as timestamptz), now()),
       count(*),
       count(*) filter (where enabled),
       count(*) filter (where enabled and not visit_loaded),
       count(*) filter (where enabled and last_update > visit_last_successful)
from listed_origins
where cast(:lister_id as uuid) is null or lister_id = cast(:lister_id as uuid)
group by lister_id, visit_type
order by lister_id, visit_type
on conflict (lister_id, visit_type) do update
set last_update = excluded.last_update,
    origins_known = excluded.origins_known,
    origins_enabled = excluded.origins_enabled,
    origins_never_visited = excluded.origins_never_visited,
    origins_with_pending_changes = excluded.origins_with_pending_changes
returning lister_id, visit_type, last_update,
          origins_known, origins_enabled, origins_never_visited, origins_with_pending_changes;

-- name: get_metrics
-- What was counted last, in key order.
select lister_id, visit_type, last_update,
       origins_known, origins_enabled, origins_never_visited, origins_with_pending_changes
from scheduler_metrics
where (cast(:lister_id as uuid) is null or lister_id = cast(:lister_id as uuid))
  and (cast(:visit_type as text) is null or visit_type = :visit_type)
order by lister_id, visit_type;
