-- name: get_lister
-- The lister of that name and instance.
select id, name, instance_name, created, current_state, updated,
       last_listing_finished_at, first_visits_queue_prefix, first_visits_scheduled_at
from listers
where name = :name and instance_name = :instance_name;

-- name: insert_lister
-- A new lister, unless it is there.
insert into listers (name, instance_name, current_state, updated)
values (:name, :instance_name, jsonb_build_object(), now())
on conflict (name, instance_name) do nothing;

-- name: get_listers
-- Listers in order of creation; all, or those of the ids.
select id, name, instance_name, created, current_state, updated,
       last_listing_finished_at, first_visits_queue_prefix, first_visits_scheduled_at
from listers
where cast(:ids as uuid[]) is null or id = any(cast(:ids as uuid[]))
order by created, id;

-- name: update_lister
-- Write a lister if nobody else did since it was read; `updated` grows even within one transaction's now().
update listers
set current_state = cast(:current_state as jsonb),
    last_listing_finished_at = cast(:last_listing_finished_at as timestamptz),
    first_visits_queue_prefix = :first_visits_queue_prefix,
    first_visits_scheduled_at = cast(:first_visits_scheduled_at as timestamptz),
    updated = greatest(clock_timestamp(), updated + interval '1 microsecond')
where id = cast(:id as uuid) and updated = cast(:updated as timestamptz)
returning id, name, instance_name, created, current_state, updated,
          last_listing_finished_at, first_visits_queue_prefix, first_visits_scheduled_at;

-- name: find_listers
-- Listers that meet all given conditions.
select id, last_listing_finished_at
from listers
where (cast(:id as uuid) is null or id = cast(:id as uuid))
  and (cast(:name as text) is null or name = :name)
  and (cast(:instance_name as text) is null or instance_name = :instance_name);
