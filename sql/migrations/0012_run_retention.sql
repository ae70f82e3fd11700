-- How long runs may take, and how long ended ones are kept.

alter table dispatch_type
  add column max_run_seconds float8 check (max_run_seconds > 0 and max_run_seconds < 'infinity'),
  add column keep_runs interval check (keep_runs >= interval '0' and keep_runs <= interval '365000 days');
comment on column dispatch_type.max_run_seconds is 'How long a run of it may take from its start; null for any time';
comment on column dispatch_type.keep_runs is 'Ended runs of it that are older are deleted, unless a task follows them; null keeps them';
comment on table dispatch_type is 'Controls of a task type: what holds it back, and what limits its runs; nulls, or no row, limit nothing';
