-- Tables, columns and indexes get the names that the documentation uses. A program of the release before doesn't know
-- them, so none may be at work.

do $$
declare
  living text;
begin
  with session as materialized (
    select o.service, o.host, o.pid, o.backend_pid
    from dispatch_owner o
    join pg_locks l on l.objid = o.id
    where l.locktype = 'advisory' and l.granted and l.classid = 378094 and l.objsubid = 2
      and l.database = (select oid from pg_database where datname = current_database())
  )
  select string_agg(name, '; ') into living
  from (
    select service || ' on ' || host || ' with pid ' || pid as name from session
    union all
    select 'a listener or another program with a connection from ' || coalesce(host(client_addr), 'this machine')
           || ' (process ' || pid || ' of PostgreSQL)'
    from pg_stat_activity
    where datname = current_database() and application_name = 'swh-sched-runner' and pid <> pg_backend_pid()
      and pid not in (select backend_pid from session)
  ) as program;
  if living is not null then
    raise exception using
      errcode = 'object_in_use',
      message = 'programs of the release before are at work, stop them first: ' || living;
  end if;
end
$$;

alter table dispatch_owner rename to dispatcher_session;
alter sequence dispatch_owner_id_seq rename to dispatcher_session_id_seq;
alter table dispatcher_session rename constraint dispatch_owner_pkey to dispatcher_session_pkey;
comment on table dispatcher_session is 'Sessions of services that dispatch; each lives as long as it holds its advisory lock';
comment on column dispatcher_session.id is 'Identifier of the session, and the key of its advisory lock';
comment on column dispatcher_session.backend_pid is 'PostgreSQL process of the session';
comment on column dispatcher_session.service is 'Service that opened it: runner, visits, or recovery';

alter table dispatch_batch rename column owner to session_id;
alter table dispatch_batch rename constraint dispatch_batch_owner_fkey to dispatch_batch_session_id_fkey;
alter index dispatch_batch_owner_idx rename to dispatch_batch_session_id_idx;
comment on table dispatch_batch is 'The outbox: messages that the broker has not all confirmed yet; a row goes when it has';
comment on column dispatch_batch.session_id is 'Dispatcher session that may send it; changed by compare-and-set alone';
comment on column dispatch_batch.queue is 'Queue that it is sent to';

alter table dispatch_queue rename column filled_by to published_by;
alter table dispatch_queue rename column filled to published;
comment on table dispatch_queue is 'Pause of a queue, and what its last lease found';
comment on column dispatch_queue.published_by is 'Dispatcher session that published to it last; it may be gone';
comment on column dispatch_queue.published is 'When the broker last confirmed a message to it';
comment on column dispatch_queue.depth is 'Messages ready in it then, as the lease counted';

alter table event_set_aside rename to rejected_event;
alter sequence event_set_aside_id_seq rename to rejected_event_id_seq;
alter table rejected_event rename constraint event_set_aside_pkey to rejected_event_pkey;
comment on table rejected_event is 'Events that could not be read or applied, kept for people';
comment on column rejected_event.received is 'When it was rejected';

alter index task_run_moment_idx rename to task_run_time_idx;

-- PostgreSQL 18 names the constraints that forbid null, too.
do $$
declare
  found record;
begin
  for found in
    select cast(cast(c.conrelid as regclass) as text) as of_table, c.conname as old_name,
           cast(cast(c.conrelid as regclass) as text) || '_' || a.attname || '_not_null' as new_name
    from pg_constraint c
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    where c.contype = 'n' and c.conrelid in (
      cast('dispatcher_session' as regclass), cast('dispatch_batch' as regclass), cast('rejected_event' as regclass)
    )
  loop
    if found.old_name <> found.new_name then
      execute 'alter table ' || found.of_table || ' rename constraint ' || quote_ident(found.old_name)
              || ' to ' || quote_ident(found.new_name);
    end if;
  end loop;
end
$$;
