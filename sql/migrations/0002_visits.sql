-- Listers, the origins they list, and the statistics of visits: the tables of version 33.

create table listers (
  id             uuid primary key default gen_random_uuid(),
  name           text not null,
  instance_name  text not null,
  created        timestamptz not null default now(),
  current_state  jsonb not null,
  updated        timestamptz not null
);
create unique index listers_name_instance_name_idx on listers (name, instance_name);
comment on table listers is 'Listers: each enumerates the origins of one instance of a forge';
comment on column listers.id is 'Identifier of the lister';
comment on column listers.name is 'Kind of lister';
comment on column listers.instance_name is 'Instance of the forge that it lists';
comment on column listers.created is 'When the lister was recorded';
comment on column listers.current_state is 'Where an incremental lister goes on from; its own business';
comment on column listers.updated is 'When the row was last written; compared by update_lister';

create table listed_origins (
  lister_id               uuid not null references listers (id),
  url                     text not null,
  visit_type              text not null,
  extra_loader_arguments  jsonb not null,
  enabled                 boolean not null,
  first_seen              timestamptz not null default now(),
  last_seen               timestamptz not null,
  last_update             timestamptz,
  primary key (lister_id, url, visit_type)
);
comment on table listed_origins is 'Origins that listers know of';
comment on column listed_origins.lister_id is 'Lister that lists the origin';
comment on column listed_origins.url is 'Address of the origin';
comment on column listed_origins.visit_type is 'Kind of visit that loads it';
comment on column listed_origins.extra_loader_arguments is 'Keyword arguments of the loader beside the address';
comment on column listed_origins.enabled is 'Whether the origin is to be visited';
comment on column listed_origins.first_seen is 'When the lister first listed it';
comment on column listed_origins.last_seen is 'When the lister last listed it';
comment on column listed_origins.last_update is 'When it last changed, as its forge says; null if the forge does not say';

create type last_visit_status as enum ('successful', 'failed', 'not_found');
comment on type last_visit_status is 'How the last visit of an origin ended';

create table origin_visit_stats (
  url                        text not null,
  visit_type                 text not null,
  last_successful            timestamptz,
  last_visit                 timestamptz,
  last_visit_status          last_visit_status,
  last_scheduled             timestamptz,
  last_snapshot              bytea,
  next_visit_queue_position  bigint,
  next_position_offset       int not null default 4,
  successive_visits          int not null default 1,
  primary key (url, visit_type)
);
comment on table origin_visit_stats is 'What visits found, an origin and visit type a row';
comment on column origin_visit_stats.url is 'Address of the origin';
comment on column origin_visit_stats.visit_type is 'Kind of visit';
comment on column origin_visit_stats.last_successful is 'When a visit last succeeded';
comment on column origin_visit_stats.last_visit is 'When a visit last ended';
comment on column origin_visit_stats.last_visit_status is 'How the last visit ended';
comment on column origin_visit_stats.last_scheduled is 'When a visit was last handed out';
comment on column origin_visit_stats.last_snapshot is 'Identifier of the content that the last successful visit found';
comment on column origin_visit_stats.next_visit_queue_position is 'Place in the queue of origins whose forge gives no last_update';
comment on column origin_visit_stats.next_position_offset is 'Sets how far the next place lies ahead: less after eventful visits, more after others (0 to 10)';
comment on column origin_visit_stats.successive_visits is 'How many visits in a row ended alike';

create table visit_scheduler_queue_position (
  visit_type  text primary key,
  position    bigint not null
);
comment on table visit_scheduler_queue_position is 'How far the visit scheduler has come in the queue of origins without last_update';
comment on column visit_scheduler_queue_position.visit_type is 'Kind of visit';
comment on column visit_scheduler_queue_position.position is 'Largest place handed out so far';

create table scheduler_metrics (
  lister_id                     uuid not null references listers (id),
  visit_type                    text not null,
  last_update                   timestamptz not null,
  origins_known                 int not null default 0,
  origins_enabled               int not null default 0,
  origins_never_visited         int not null default 0,
  origins_with_pending_changes  int not null default 0,
  primary key (lister_id, visit_type)
);
comment on table scheduler_metrics is 'Counts of origins, a lister and visit type a row';
comment on column scheduler_metrics.lister_id is 'Lister that lists the origins';
comment on column scheduler_metrics.visit_type is 'Kind of visit';
comment on column scheduler_metrics.last_update is 'When the counts were taken';
comment on column scheduler_metrics.origins_known is 'Origins that the lister knows';
comment on column scheduler_metrics.origins_enabled is 'Origins to be visited';
comment on column scheduler_metrics.origins_never_visited is 'Enabled origins never visited';
comment on column scheduler_metrics.origins_with_pending_changes is 'Enabled origins whose last_update lies after their last visit';
