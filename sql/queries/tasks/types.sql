-- name: create_task_type
-- Create a task type unless it exists; max_queue_length takes the column's default.
insert into task_type (type, description, backend_name, default_interval, min_interval, max_interval, backoff_factor,
                       num_retries, retry_delay)
values (:type, :description, :backend_name, cast(:default_interval as interval), cast(:min_interval as interval),
        cast(:max_interval as interval), cast(:backoff_factor as double precision), cast(:num_retries as bigint),
        cast(:retry_delay as interval))
on conflict (type) do nothing
returning type;

-- name: set_max_queue_length
-- Bound the queue of a task type; null is unbounded.
update task_type set max_queue_length = cast(:max_queue_length as bigint) where type = :type;

-- name: get_task_types
-- The task types of these names, or all, in order of name.
select type, description, backend_name, default_interval, min_interval, max_interval, backoff_factor, max_queue_length,
       num_retries, retry_delay
from task_type
where cast(:names as text[]) is null or type = any(cast(:names as text[]))
order by type;
