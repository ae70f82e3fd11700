-- name: foreign_tables
-- Whether a scheduler's tables stand here without our version table.
select to_regclass('task_type') is not null or to_regclass('task') is not null or to_regclass('listers') is not null;

-- name: try_lock_upgrade
-- Keep other upgrades out; false while another one runs.
select pg_try_advisory_lock(:key);

-- name: unlock_upgrade
-- Let the next one in.
select pg_advisory_unlock(:key);

-- name: has_version
-- Whether the table is there that says which version the schema has.
select to_regclass(:table) is not null;

-- name: version
-- The version of the schema.
select version_num from swh_sched_runner_version;
