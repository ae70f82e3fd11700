-- name: groups
-- The longest due, or first to become due, of each task type, without and with a priority; an index probe each. And
-- what holds a group back: that its type is paused, has as many tasks in flight as it may (their count stops there),
-- or has no token; less than a tenth of a second's worth is not worth a batch. Each row also has the queues that are paused: a round trip less for each look.
select tt.type as task_type, tt.backend_name, l.max_queue_length, grouped.priority,
       cast(case when grouped.next_run = '-infinity' then 0  -- from infinity nothing can be subtracted
            else extract(epoch from grouped.next_run - coalesce(cast(:now as timestamptz), now())) end as float8)
         as due_in_seconds,
       c.paused is not null as paused,
       case when c.max_in_flight is null then false
            else c.max_in_flight <= (select tasks from count_in_flight(tt.type, c.max_in_flight)) end as at_cap,
       case when c.rate_limit is not null then
         greatest(0.0, (greatest(1.0, c.rate_limit / 10) - tokens_at(c, clock_timestamp())) / c.rate_limit) end
         as token_in_seconds,
       array(select queue from dispatch_queue where paused is not null) as paused_queues
from task_type tt
join queue_limit l on l.queue = tt.backend_name
left join dispatch_type c on c.type = tt.type
cross join lateral (
  select false as priority,
         (select next_run from task t
          where t.type = tt.type and t.status = 'next_run_not_scheduled' and t.priority is null
          order by t.next_run limit 1) as next_run
  union all
  select true, min(first.next_run)
  from unnest(enum_range(cast(null as task_priority))) as p (priority)
  cross join lateral (select next_run from task t
                      where t.type = tt.type and t.status = 'next_run_not_scheduled' and t.priority = p.priority
                      order by t.next_run limit 1) as first
) as grouped
where grouped.next_run < 'infinity'
  and (cast(:task_types as text[]) is null or tt.type = any(cast(:task_types as text[])))
order by grouped.priority desc, tt.type;

-- name: paused_queues
-- Queues that nothing is sent to.
select queue from dispatch_queue where paused is not null;

-- name: lock_type
-- The controls of a task type, until the end of this transaction: one grab of a type with limits follows the other.
select c.paused is not null as paused, c.max_in_flight, c.rate_limit, clock_timestamp() as refilled,
       tokens_at(c, clock_timestamp()) as tokens
from dispatch_type c
where c.type = :task_type and (c.paused is not null or c.max_in_flight is not null or c.rate_limit is not null)
for no key update;

-- name: in_flight
-- How many tasks of a type are in flight, counted no further than the limit. A grab asks after lock_type, in a
-- statement of its own: it has to see what the last holder of that lock committed.
select tasks from count_in_flight(:task_type, :limit);

-- name: take_tokens
-- What a grab has used of the tokens that lock_type counted.
update dispatch_type set tokens = :tokens, refilled = :refilled where type = :task_type;

-- name: queue_state
-- What the last lease of a queue found, how long ago, and whether messages of another session may still be on their way.
select q.depth, q.drain_rate, cast(extract(epoch from clock_timestamp() - q.published) as float8) as seconds,
       exists (select from dispatch_batch where queue = :queue and session_id <> :session_id) as others_unconfirmed
from (values (1)) as one
left join dispatch_queue q on q.queue = :queue;

-- name: note_published
-- What the lease of a queue found.
insert into dispatch_queue (queue, published_by, published, depth, drain_rate)
values (:queue, :session_id, clock_timestamp(), :depth, :drain_rate)
on conflict (queue) do update
set published_by = excluded.published_by, published = excluded.published, depth = excluded.depth, drain_rate = excluded.drain_rate;
