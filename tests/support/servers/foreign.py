"""Databases of Software Heritage's scheduler as others leave them, from version 33 to 38, with faults planted.

Made from the description of its tables; triggers, functions and indexes stand for those that such databases carry.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import closing

from sqlalchemy import Engine

from swh_sched_runner.db.adopt import Progress
from swh_sched_runner.db.adopt import adopt as take_over
from swh_sched_runner.db.engine import connect
from swh_sched_runner.embedded.postgres import available_binaries, major_version
from tools import schema

TABLES = """
create table dbversion (version int primary key, release timestamptz, description text);
create type task_status as enum ('next_run_not_scheduled', 'next_run_scheduled', 'completed', 'disabled');
create type task_policy as enum ('recurring', 'oneshot');
create type task_priority as enum ('high', 'normal', 'low');
create type task_run_status as enum
  ('scheduled', 'started', 'eventful', 'uneventful', 'failed', 'permfailed', 'lost');
create type last_visit_status as enum ('successful', 'failed', 'not_found');
create table task_type (
  type text primary key, description text not null, backend_name text not null, default_interval interval,
  min_interval interval, max_interval interval, backoff_factor float, max_queue_length bigint,
  num_retries bigint, retry_delay interval
);
create table task (
  id bigserial primary key, type text not null references task_type (type), arguments jsonb not null,
  next_run timestamptz not null, current_interval interval, status task_status not null,
  policy task_policy not null default 'recurring', retries_left bigint not null default 0, priority task_priority,
  check (policy <> 'recurring' or current_interval is not null)
);
create table task_run (
  id bigserial primary key, task bigint not null references task (id), backend_id text, scheduled timestamptz,
  started timestamptz, ended timestamptz, metadata jsonb, status task_run_status not null default 'scheduled'
);
create table listers (
  id uuid primary key default uuid_generate_v4(), name text not null, instance_name text not null,
  created timestamptz not null default now(), current_state jsonb not null, updated timestamptz not null
);
create unique index on listers (name, instance_name);
create table listed_origins (
  lister_id uuid not null references listers (id), url text not null, visit_type text not null,
  extra_loader_arguments jsonb not null, enabled boolean not null, first_seen timestamptz not null default now(),
  last_seen timestamptz not null, last_update timestamptz, primary key (lister_id, url, visit_type)
);
create table origin_visit_stats (
  url text not null, visit_type text not null, last_successful timestamptz, last_visit timestamptz,
  last_visit_status last_visit_status, last_scheduled timestamptz, last_snapshot bytea,
  next_visit_queue_position bigint, next_position_offset int not null default 4,
  successive_visits int not null default 1, primary key (url, visit_type)
);
create table visit_scheduler_queue_position (visit_type text primary key, position bigint not null);
create table scheduler_metrics (
  lister_id uuid not null references listers (id), visit_type text not null, last_update timestamptz not null,
  origins_known int not null default 0, origins_enabled int not null default 0,
  origins_never_visited int not null default 0, origins_with_pending_changes int not null default 0,
  primary key (lister_id, visit_type)
);

-- The second has the name of an index of ours, and is another one.
create index on task (type, next_run);
create index on task_run (backend_id);
create index on task_run (task desc, started desc);
create index on listed_origins (visit_type, last_update);

create function swh_scheduler_count_tasks() returns bigint language sql stable as 'select count(*) from task';
create function swh_scheduler_update_task_on_task_end() returns trigger language plpgsql as $$
begin
  update task
  set status = 'next_run_not_scheduled', next_run = next_run + interval '7 days', retries_left = retries_left + 1
  where id = new.task;
  return new;
end $$;
create trigger update_task_on_task_end after update of status on task_run for each row
  execute function swh_scheduler_update_task_on_task_end();
"""
# What each version did to the tables of the one before.
STEPS = {
    35: "alter table task_type alter max_queue_length set default 1000",
    36: "alter table task drop constraint task_priority_fkey; drop table priority_ratio",
    37: "alter table listed_origins add is_fork boolean, add forked_from_url text",
    38: "alter table listers add last_listing_finished_at timestamptz, add first_visits_queue_prefix text, "
    "add first_visits_scheduled_at timestamptz",
}
PRIORITY_RATIO = """
create table priority_ratio (id task_priority primary key, ratio float not null);
insert into priority_ratio values ('high', 0.5), ('normal', 0.3), ('low', 0.2);
alter table task add constraint task_priority_fkey foreign key (priority) references priority_ratio (id);
"""
# gen_random_uuid() under the other name, where the extension is not at hand.
UUIDS = """
do $$ begin
  if exists (select from pg_available_extensions where name = 'uuid-ossp') then
    create extension "uuid-ossp";
  else
    create function uuid_generate_v4() returns uuid language sql as 'select gen_random_uuid()';
  end if;
end $$;
"""
# Tasks: one in ten in flight, with a run that is open; origins: a third never visited, a third without last_update.
ROWS = """
insert into task_type (type, description, backend_name, default_interval, min_interval, max_interval, backoff_factor,
                       max_queue_length, num_retries, retry_delay)
values ('load-git', 'Load', 'tests.load-git', '1 day', '1 hour', '8 days', 2, 100, 2, '5 minutes'),
       ('load-odd', 'Load oddly', 'tests.load-odd', '1 day', '1 hour', '8 days', 0, null, null, null);
insert into task (type, arguments, next_run, current_interval, status, policy, retries_left, priority)
select case when n % 50 = 0 then 'load-odd' else 'load-git' end,
       jsonb_build_object('args', '[]'::jsonb, 'kwargs', jsonb_build_object('url', 'https://forge.example/' || n)),
       timestamptz '2026-03-01 12:00+00' + n * interval '1 second', interval '1 day',
       (case when n % 10 = 0 then 'next_run_scheduled' when n % 10 = 1 then 'completed'
             else 'next_run_not_scheduled' end)::task_status,
       (case when n % 10 = 1 then 'oneshot' else 'recurring' end)::task_policy, 2,
       (case when n % 10 = 2 then 'high' end)::task_priority
from generate_series(1, {rows}) as n;
insert into task_run (task, backend_id, scheduled, started, ended, metadata, status)
select id, 'old-' || id, next_run, next_run, next_run + interval '1 minute', '{{"worker": "w1"}}', 'eventful' from task;
insert into task_run (task, backend_id, scheduled, started, metadata, status)
select id, 'open-' || id, next_run, next_run, null, 'started' from task where status = 'next_run_scheduled';
insert into listers (name, instance_name, current_state, updated)
values ('github', '', '{{"last": 7}}', '2026-03-01 12:00+00'),
       ('gitlab', 'gitlab.example', '{{}}', '2026-03-01 12:00+00');
insert into listed_origins (lister_id, url, visit_type, extra_loader_arguments, enabled, last_seen, last_update)
select l.id, 'https://forge.example/' || n, 'git', '{{}}', n % 20 <> 0, '2026-03-01 12:00+00',
       case when n % 3 <> 0 then timestamptz '2026-03-01 12:00+00' - n * interval '1 minute' end
from generate_series(1, {rows} / 2) as n cross join listers l;
insert into origin_visit_stats (url, visit_type, last_successful, last_visit, last_visit_status, last_scheduled,
                                last_snapshot, next_visit_queue_position)
select 'https://forge.example/' || n, 'git', '2026-02-01 12:00+00', '2026-02-01 12:00+00', 'successful',
       '2026-02-01 11:00+00', decode(md5(cast(n as text)), 'hex'), n
from generate_series(1, {rows} / 2) as n where n % 3 > 0;
insert into visit_scheduler_queue_position values ('git', 17);
"""
# Two tasks that count as the same; a task in flight without a run; an id that three runs have, one of them open; one
# that two have, with metadata that is no object; a run without an id; one that ended at no time.
FAULTS = """
insert into task (type, arguments, next_run, current_interval, status)
values ('load-git', '{"args": [], "kwargs": {"url": "https://double.example"}}', '2026-03-01', '1 day',
        'next_run_not_scheduled'),
       ('load-git', '{"args": [], "kwargs": {"url": "https://double.example"}}', '2026-03-09', '2 days',
        'next_run_scheduled'),
       ('load-git', '{"args": [], "kwargs": {"url": "https://twice.example"}}', '2026-03-01', '1 day',
        'next_run_scheduled');
insert into task_run (task, backend_id, scheduled, ended, metadata, status)
select id, doubled.backend_id, '2026-02-01', doubled.ended, doubled.metadata::jsonb, doubled.status::task_run_status
from task,
     (values (1, 'double', timestamptz '2026-02-02', '{"a": 1}', 'failed'), (2, 'double', '2026-02-03', null, 'lost'),
             (3, 'double', null, null, 'scheduled'), (4, 'other', '2026-02-02', '[1, 2]', 'failed'),
             (5, 'other', '2026-02-02', null, 'failed'), (6, null, null, null, 'scheduled'),
             (7, 'endless', null, null, 'permfailed'))
       as doubled (n, backend_id, ended, metadata, status)
where arguments -> 'kwargs' ->> 'url' = 'https://twice.example'
order by n;
"""


def build(url: str, version: int, *, rows: int = 0, faults: bool = False) -> None:
    """Make such a database in an empty one, with ``rows`` tasks and as many listed origins."""
    script = [UUIDS, TABLES, PRIORITY_RATIO]
    script += [step for number, step in STEPS.items() if number <= version]
    script += [ROWS.format(rows=rows)] if rows else []
    script += [FAULTS] if faults else []
    with closing(connect(url)) as conn, conn, conn.cursor() as cursor:
        for statements in script:
            cursor.execute(statements)
        cursor.execute("insert into dbversion select n, now(), 'made' from generate_series(30, %s) as n", [version])


def adopt(engine: Engine) -> list[Progress]:
    """Adopt it and print nothing, duplicates renamed; how it went."""
    told: list[Progress] = []
    take_over(engine, rename_duplicates=True, show=lambda plan: None, tell=told.append)
    return told


def dumped(url: str, *options: str) -> str:
    """What pg_dump says of a database, without what changes by itself."""
    newest = max(available_binaries(), key=lambda folder: int(major_version(folder)))
    dump = (newest / "pg_dump", "--no-owner", "--no-privileges", *options, url)
    return schema.tidied(subprocess.run(dump, capture_output=True, text=True, check=True).stdout)


def parts(url: str) -> set[str]:
    """The schema in pieces that can be compared whatever their order: columns of tables, and whole statements."""
    theirs = re.compile(r"CREATE FUNCTION (?:swh_scheduler|uuid_).*?\$\$.*?\$\$;\n", re.DOTALL)
    without_functions = theirs.sub("", dumped(url, "--schema-only"))
    pieces: set[str] = set()
    for statement in re.split(r";\n", without_functions):
        head, _, body = statement.strip().partition(" (\n")
        if head.startswith("CREATE TABLE"):
            pieces |= {f"{head}: {line.strip().rstrip(',')}" for line in body.split("\n")}
        else:
            pieces.add(statement.strip())
    return pieces
