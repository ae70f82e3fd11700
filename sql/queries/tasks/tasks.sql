-- name: lock_creation
-- Let creators of equal tasks pass one after the other. 64 slots: enough that strangers seldom meet, few enough
-- that a call with 100,000 tasks takes 64 locks. Taken in order, so that no two calls wait for each other. And keep
-- runners awake, as hold_off does: a round trip less for each call.
select pg_advisory_xact_lock(:lock_class, slot), (select pg_advisory_xact_lock_shared(:sleep_lock, 0))
from (
  select distinct cast(abs(jsonb_hash_extended(cast(arguments as jsonb), 0) % 64) as int) as slot
  from unnest(string_to_array(:arguments, chr(10))) as arguments
  order by slot
) as slots;

-- name: lock_all_creation
-- The same for calls so large that they meet every slot anyway.
select pg_advisory_xact_lock(:lock_class, slot), (select pg_advisory_xact_lock_shared(:sleep_lock, 0))
from generate_series(0, 63) as slot;

-- name: create_tasks
-- Insert the tasks that do not exist yet, once each; answer each distinct task once, in order of first appearance. None whose
-- type is unknown, or has no interval for a recurring task: ``known`` counts the inputs that could be taken. Arguments come as lines of one text, which PostgreSQL reads more than twice as fast as an array of 100,000
-- literals. What a column does not say is as the first task has it: most calls differ in their arguments alone, and
-- then send nothing else.
with input as (
  select i.n, i.type, i.arguments, i.next_run, i.policy, i.status, i.priority,
         coalesce(i.retries_left, tt.num_retries, 0) as retries_left, tt.default_interval,
         jsonb_hash_extended(i.arguments, 0) as arguments_hash,
         i.status in ('next_run_not_scheduled', 'next_run_scheduled') as waiting,
         case when i.policy = 'oneshot' then i.next_run end as oneshot_next_run
  from (
    select n, coalesce(type, :type) as type, cast(arguments as jsonb) as arguments,
           coalesce(next_run, cast(:next_run as timestamptz)) as next_run,
           coalesce(policy, cast(:policy as task_policy)) as policy,
           coalesce(status, 'next_run_not_scheduled') as status, priority, retries_left
    from unnest(string_to_array(:arguments, chr(10)), cast(:types as text[]), cast(:next_runs as timestamptz[]),
                cast(:policies as task_policy[]), cast(:statuses as task_status[]), cast(:priorities as task_priority[]),
                cast(:retries_left as bigint[]))
         with ordinality as u (arguments, type, next_run, policy, status, priority, retries_left, n)
    offset 0  -- each line is parsed once
  ) as i
  join task_type tt on tt.type = i.type and (i.policy = 'oneshot' or tt.default_interval is not null)
), numbered as materialized (
  select *, min(n) over (partition by arguments_hash, type, arguments, policy, priority, waiting,
                                      case when not waiting then status end, oneshot_next_run) as first
  from input
), matched as materialized (  -- in order of the hash, as the index is
  select i.n, i.type, i.policy, i.priority, existing.id as existing,
         case when existing.id is null then i.arguments else existing.arguments end as arguments,
         case when existing.id is null then i.next_run else existing.next_run end as next_run,
         case when existing.id is null then i.status else existing.status end as status,
         case when existing.id is null then i.retries_left else existing.retries_left end as retries_left,
         case when existing.id is null then i.default_interval else existing.current_interval end as current_interval
  from numbered i
  left join lateral (
    select id, arguments, next_run, status, retries_left, current_interval
    from (  -- from one of the two indexes
      select * from task t
      where jsonb_hash_extended(t.arguments, 0) = i.arguments_hash and t.type = i.type
        and i.waiting and t.status in ('next_run_not_scheduled', 'next_run_scheduled')
      union all
      select * from task t
      where jsonb_hash_extended(t.arguments, 0) = i.arguments_hash and t.type = i.type
        and not i.waiting and t.status in ('completed', 'disabled') and t.status = i.status
      offset 0  -- by the arguments: never along the ids until one fits
    ) as t
    where t.arguments = i.arguments and t.policy = i.policy and t.priority is not distinct from i.priority
      and (i.policy = 'recurring' or t.next_run = i.next_run)
    order by id
    limit 1
  ) as existing on true
  where i.n = i.first
), chosen as materialized (
  select m.*, existing is null as is_new, coalesce(existing, nextval('task_id_seq')) as id
  from (select * from matched order by n) as m
), inserted as (
  insert into task (id, type, arguments, next_run, current_interval, status, policy, retries_left, priority)
  select id, type, arguments, next_run, current_interval, status, policy, retries_left, priority
  from chosen
  where is_new
)
select type, arguments, next_run, policy, status, retries_left, priority, id, current_interval, is_new,
       (select count(*) from numbered) as known
from chosen
order by n;

-- name: set_status
-- An operator's decision: runs that are open no longer move these tasks. Locks in order of id.
with locked as materialized (
  select id from task where id = any(cast(:ids as bigint[])) order by id for no key update
)
update task
set status = cast(:status as task_status), next_run = coalesce(cast(:next_run as timestamptz), next_run), run_id = null
where id = any(array(select id from locked));

-- name: search_tasks
-- Tasks that meet all given conditions, in order of id.
select type, arguments, next_run, policy, status, retries_left, priority, id, current_interval
from task
where (cast(:ids as bigint[]) is null or id = any(cast(:ids as bigint[])))
  and (cast(:task_type as text) is null or type = :task_type)
  and (cast(:status as text) is null or status = cast(:status as task_status))
  and (cast(:priority as text) is null or priority = cast(:priority as task_priority))
  and (cast(:policy as text) is null or policy = cast(:policy as task_policy))
  and (cast(:before as timestamptz) is null or next_run <= :before)
  and (cast(:after as timestamptz) is null or next_run >= :after)
order by id
limit cast(:limit as bigint);

-- name: peek_ready
-- Due tasks without priority, the longest due first.
select type, arguments, next_run, policy, status, retries_left, priority, id, current_interval
from task
where type = :task_type and status = 'next_run_not_scheduled' and priority is null
  and next_run <= coalesce(cast(:now as timestamptz), now())
order by next_run, id
limit cast(:num_tasks as bigint);

-- name: peek_ready_priority
-- Due tasks with a priority, the highest first, then the longest due.
select type, arguments, next_run, policy, status, retries_left, priority, id, current_interval
from task
where type = :task_type and status = 'next_run_not_scheduled' and priority is not null
  and next_run <= coalesce(cast(:now as timestamptz), now())
order by priority, next_run, id
limit cast(:num_tasks as bigint);

-- name: grab_ready
-- Take what peek_ready would show. Whoever comes at the same time skips what is locked and gets the next ones.
with ready as materialized (  -- materialized: the limit must hold before the update
  select id
  from task
  where type = :task_type and status = 'next_run_not_scheduled' and priority is null
    and next_run <= coalesce(cast(:now as timestamptz), now())
  order by next_run, id
  limit cast(:num_tasks as bigint)
  for no key update skip locked
), grabbed as (
  update task
  set status = 'next_run_scheduled', run_id = null
  where id = any(array(select id from ready))
  returning type, arguments, next_run, policy, status, retries_left, priority, id, current_interval
)
select type, arguments, next_run, policy, status, retries_left, priority, id, current_interval
from grabbed
order by next_run, id;

-- name: grab_ready_priority
-- Take what peek_ready_priority would show.
with ready as materialized (
  select id
  from task
  where type = :task_type and status = 'next_run_not_scheduled' and priority is not null
    and next_run <= coalesce(cast(:now as timestamptz), now())
  order by priority, next_run, id
  limit cast(:num_tasks as bigint)
  for no key update skip locked
), grabbed as (
  update task
  set status = 'next_run_scheduled', run_id = null
  where id = any(array(select id from ready))
  returning type, arguments, next_run, policy, status, retries_left, priority, id, current_interval
)
select type, arguments, next_run, policy, status, retries_left, priority, id, current_interval
from grabbed
order by priority, next_run, id;
