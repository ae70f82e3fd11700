-- The twin of a new task, again: of waiting tasks, and of those that are over. A grab writes a new version of its task,
-- and with it an entry at a random place of the index that finds it: in one of all tasks that is a page a task, read and
-- written whole, as soon as the index outgrows the memory; most tasks of a large table are over.
create index task_match_waiting_idx on task (jsonb_hash_extended(arguments, 0), type)
  where status in ('next_run_not_scheduled', 'next_run_scheduled');
create index task_match_over_idx on task (jsonb_hash_extended(arguments, 0), type)
  where status in ('completed', 'disabled');
drop index task_match_idx;
