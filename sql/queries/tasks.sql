-- name: lock_creation
-- Let creators of equal tasks pass one after the other. 64 slots: enough that strangers seldom meet, few enough
-- that a call with 100,000 tasks takes 64 locks. Taken in order, so that no two calls wait for each other.
select pg_advisory_xact_lock(:lock_class, slot)
from (
  select distinct cast(abs(jsonb_hash_extended(cast(arguments as jsonb), 0) % 64) as int) as slot
  from unnest(cast(:arguments as text[])) as arguments
  order by slot
) as slots;

-- name: create_tasks
-- Insert the tasks that have no twin, once each; answer the id of every input's task in the order of the input.
with input as materialized (
  select i.n, i.type, i.arguments, i.next_run, i.policy, i.status, i.priority,
         coalesce(i.retries_left, tt.num_retries, 0) as retries_left, tt.default_interval,
         jsonb_hash_extended(i.arguments, 0) as arguments_hash,
         i.status in ('next_run_not_scheduled', 'next_run_scheduled') as waiting,
         case when i.policy = 'oneshot' then i.next_run end as oneshot_next_run
  from (
    select n, type, cast(arguments as jsonb) as arguments, next_run, policy, status, priority, retries_left
    from unnest(cast(:types as text[]), cast(:arguments as text[]), cast(:next_runs as timestamptz[]),
                cast(:policies as task_policy[]), cast(:statuses as task_status[]), cast(:priorities as task_priority[]),
                cast(:retries_left as bigint[]))
         with ordinality as u (type, arguments, next_run, policy, status, priority, retries_left, n)
  ) as i
  join task_type tt on tt.type = i.type
), numbered as materialized (
  select *, min(n) over (partition by arguments_hash, type, arguments, policy, priority, waiting,
                                      case when not waiting then status end, oneshot_next_run) as first
  from input
), twin as materialized (
  select i.n, min(t.id) as id
  from numbered i
  join task t on jsonb_hash_extended(t.arguments, 0) = i.arguments_hash and t.type = i.type
             and t.arguments = i.arguments and t.policy = i.policy and t.priority is not distinct from i.priority
             and case when i.waiting then t.status in ('next_run_not_scheduled', 'next_run_scheduled')
                      else t.status = i.status end
             and (i.policy = 'recurring' or t.next_run = i.next_run)
  where i.n = i.first
  group by i.n
), chosen as materialized (
  select i.*, twin.id is null as is_new, coalesce(twin.id, nextval('task_id_seq')) as id
  from (select * from numbered where n = first order by n) as i
  left join twin on twin.n = i.n
), inserted as (
  insert into task (id, type, arguments, next_run, current_interval, status, policy, retries_left, priority)
  select id, type, arguments, next_run, default_interval, status, policy, retries_left, priority
  from chosen
  where is_new
  order by n
)
select chosen.id
from numbered
join chosen on chosen.n = numbered.first
order by numbered.n;

-- name: get_tasks_in_order
-- The tasks of these ids, as often and in the order that they are named.
select t.type, t.arguments, t.next_run, t.policy, t.status, t.retries_left, t.priority, t.id, t.current_interval
from unnest(cast(:ids as bigint[])) with ordinality as wanted (id, n)
join task t on t.id = wanted.id
order by wanted.n;

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
-- Take what peek_ready would show. Whoever comes at the same moment skips what is locked and gets the next ones.
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
