-- name: ledger
-- Messages that were promised and are not confirmed yet, of tasks and of visits, since when the oldest batch is open;
-- and events that nobody could read.
select count(*) as batches,
       coalesce(sum(coalesce(cardinality(runs), jsonb_array_length(visits))), 0) as messages,
       min(opened) as oldest,
       (select count(*) from event_set_aside) as set_aside
from dispatch_batch;

-- name: in_flight
-- Tasks in flight of each type. Reads task_scheduled_idx alone, so it costs what is in flight: 100,000 take 10 ms, with
-- their runs, to tell waiting from started, 500 ms.
select type, count(*) as tasks from task where status = 'next_run_scheduled' group by type order by type;
