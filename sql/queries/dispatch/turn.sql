-- name: take_turn
-- Become the one listener of an event queue, until the session ends; false while another one is.
select pg_try_advisory_lock(:lock_class, hashtext(:queue));

-- name: check_turn
-- Any answer will do: a session that answers holds its lock.
select true;
