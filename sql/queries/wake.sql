-- name: hold_off
-- From here to the end of this transaction no runner falls asleep: whoever makes a task due and whoever sleeps see
-- each other, in one order or the other. Takes a short wait at most, for the announcement of one that just did.
select pg_advisory_xact_lock_shared(:lock_class, 0);

-- name: wake
-- Notify sleeping runners, if one has announced that it sleeps beyond the timestamp when something is due. Without that
-- condition each commit would pass through the one lock of NOTIFY: 8,000 transactions a second became 3,300.
select pg_notify('swh_sched_runner', '')
where exists (select from dispatcher_session
              where sleeps_until > greatest(cast(:due as timestamptz), clock_timestamp()));

-- name: fall_asleep
-- Announce until when a runner sleeps, unless a transaction that may make tasks due is under way: it would not see the
-- announcement, and the runner not its tasks.
update dispatcher_session
set sleeps_until = clock_timestamp() + make_interval(secs => :seconds)
where id = :session_id and pg_try_advisory_xact_lock(:lock_class, 0)
returning true;

-- name: wake_up
-- From here on nobody needs to notify this runner.
update dispatcher_session set sleeps_until = null where id = :session_id;

-- name: listen
-- Hear of tasks that become due while this runner sleeps.
listen swh_sched_runner;

-- name: ask_for
-- Ask the sleeping runner that keeps the lease of a queue to release it.
select pg_notify('swh_sched_runner', :payload);
