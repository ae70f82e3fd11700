-- name: has_database
-- Whether the private server has the scheduler's database.
select exists (select from pg_database where datname = 'scheduler')

-- name: create_database
-- Make the scheduler's database on a private server; outside a transaction.
create database scheduler
