-- What this project adds to origins and visits: a row of statistics for every listed origin, and the indexes that lead the policies.
--
-- A policy selects and orders by columns of both tables. No index spans two tables, so the few facts about visits that
-- a policy walks by are mirrored in listed_origins (visit_…). Who writes a row of listed_origins, or changes what is
-- mirrored there, holds the row of origin_visit_stats with the same url and visit_type, locked in order of url and
-- visit_type: that row stands from the first listing on.

alter table origin_visit_stats
  add column listed_only boolean not null default false;
comment on column origin_visit_stats.listed_only is 'The row stands because a lister lists the origin; nothing was said about its visits yet. Not shown by the API';

alter table listed_origins
  add column visit_loaded boolean not null default false,
  add column visit_successful boolean not null default false,
  add column visit_last_successful timestamptz,
  add column visit_queue_position bigint;
comment on column listed_origins.visit_loaded is 'Mirror of origin_visit_stats: last_snapshot is known';
comment on column listed_origins.visit_successful is 'Mirror of origin_visit_stats: last_visit_status is successful';
comment on column listed_origins.visit_last_successful is 'Mirror of origin_visit_stats: last_successful';
comment on column listed_origins.visit_queue_position is 'Mirror of origin_visit_stats: next_visit_queue_position';

insert into origin_visit_stats (url, visit_type, listed_only)
  select distinct url, visit_type, true from listed_origins
  on conflict (url, visit_type) do nothing;
update listed_origins lo
  set visit_loaded = s.last_snapshot is not null,
      visit_successful = s.last_visit_status is not distinct from 'successful',
      visit_last_successful = s.last_successful,
      visit_queue_position = s.next_visit_queue_position
  from origin_visit_stats s
  where s.url = lo.url and s.visit_type = lo.visit_type and not s.listed_only;

-- Room for the outcome of a visit, and for a listing that finds nothing new, in the same page: no index has to follow.
alter table origin_visit_stats set (fillfactor = 80);
alter table listed_origins set (fillfactor = 85);

create index listed_origins_url_idx on listed_origins (url, visit_type);

-- oldest_scheduled_first, first_visits_after_listing. -infinity: never scheduled comes first, and "before" is one range.
create index origin_visit_stats_scheduled_idx
  on origin_visit_stats (visit_type, coalesce(last_scheduled, timestamptz '-infinity'));
-- never_visited_oldest_update_first.
create index listed_origins_unloaded_idx on listed_origins (visit_type, last_update)
  where enabled and not visit_loaded and last_update is not null;
-- stop_after_success.
create index listed_origins_unsuccessful_idx on listed_origins (visit_type, last_update, first_seen)
  where enabled and not visit_successful;
-- already_visited_order_by_lag.
create index listed_origins_lag_idx on listed_origins (visit_type, (last_update - visit_last_successful) desc)
  where enabled and last_update > visit_last_successful;
-- origins_without_last_update.
create index listed_origins_queue_idx on listed_origins (visit_type, visit_queue_position nulls first, first_seen)
  where enabled and last_update is null;
-- Every policy for the disabled ones, who are few.
create index listed_origins_disabled_idx on listed_origins (visit_type) where not enabled;
