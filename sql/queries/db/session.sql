-- name: prepare
-- What a new connection of the pool is set to. The code counts on UTC and on read committed; timeouts that the role, the
-- database or the connection string sets are left alone, and the one in force is told. On large tables the planner guesses high enough to have a grab
-- compiled: 40 ms, each time anew, for a statement of 30. A transaction whose client was cut off in silence would keep its
-- locks from the one who tries again: it ends soon after its client has given up.
select set_config('jit', 'off', false), set_config('timezone', 'UTC', false),
       set_config('search_path', 'public, pg_temp', false),
       set_config('intervalstyle', 'postgres', false),
       set_config('default_transaction_isolation', 'read committed', false),
       case when current_setting('lock_timeout') = '0' then set_config('lock_timeout', :lock_timeout, false) end,
       case when current_setting('statement_timeout') = '0' then set_config('statement_timeout', :statement_timeout, false) end,
       case when current_setting('idle_in_transaction_session_timeout') = '0'
            then set_config('idle_in_transaction_session_timeout', :idle_timeout, false) end,
       extract(epoch from cast(current_setting('statement_timeout') as interval)) as statement_timeout_seconds;

-- name: pin
-- Our names mean our tables, whatever the role, the database or a pooler says: the default finds a schema named like the
-- role first. Goes before the first statement of each transaction, on the same trip.
set local search_path = public, pg_temp;

-- name: pin_session
-- The same for a script of several transactions.
set search_path = public, pg_temp;

-- name: lift_timeouts
-- For work that may take hours: upgrades wait for each other, and build indexes.
select set_config('lock_timeout', '0', false), set_config('statement_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '0', false);

-- name: set_for_now
-- Set a parameter until the transaction ends or somebody sets it again.
select set_config(:name, :value, true);

-- name: begin
-- On a connection of the caller's in autocommit mode: a call is a transaction.
begin;
set local search_path = public, pg_temp;

-- name: commit
-- The end of that transaction.
commit;

-- name: rollback
-- Its end where something went wrong.
rollback;

-- name: open_savepoint
-- On a connection of the caller's with an open transaction: a call can be taken back alone.
-- Answers the caller's search_path, to be put back. Read before it is set: a plain select has no defined order.
savepoint swh_sched_runner;
with before as materialized (select current_setting('search_path') as search_path)
select search_path, set_config('search_path', 'public, pg_temp', true) from before;

-- name: release_savepoint
-- The call is part of the caller's transaction from now on, which goes on with its own search_path.
select set_config('search_path', :search_path, true);
release savepoint swh_sched_runner;

-- name: return_to_savepoint
-- The call is taken back, the caller's transaction goes on.
rollback to savepoint swh_sched_runner;
release savepoint swh_sched_runner;
