-- name: take_listener_lock
-- Become the one listener of an event queue, until the session ends; false while another one is.
select pg_try_advisory_lock(:lock_class, hashtext(:queue));

-- name: check_listener_lock
-- Any answer will do: a session that answers holds its lock.
select true;

-- name: listener_lock_is_held
-- Whether a session holds the lock of an event queue. Two keys of an advisory lock are shown as oids, without a sign.
select exists (
  select from pg_locks
  where locktype = 'advisory' and granted and pid = :backend_pid and objsubid = 2
    and database = (select oid from pg_database where datname = current_database())
    and cast(classid as bigint) = :lock_class
    and cast(objid as bigint) = cast(hashtext(:queue) as bigint) & 4294967295
);
