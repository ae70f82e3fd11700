-- name: prune_page
-- Of the next :rows runs in order of id, delete those that ended longer ago than they are kept; or count them (dry_run).
-- A run's task is neither locked nor waited for: it follows a run from its opening on, again one that it left only while
-- that is open, and a run that it doesn't follow moves it no more, whatever evidence comes. A run that somebody has locked, such as an end
-- that corrects it, is left for the next time. So nobody waits here, and several may do this at once.
-- reached: all of the page were opened after the oldest time that anything is kept, as are those behind it.
with page as materialized (
  select id, task, scheduled, ended from task_run where id > :after order by id limit :rows
), clock as materialized (
  select coalesce(cast(:now as timestamptz), now()) as now
), rule as materialized (
  select tt.type, clock.now - coalesce(cast(:older_than as interval), c.keep_runs) as kept_since
  from task_type tt
  cross join clock
  left join dispatch_type c on c.type = tt.type
  where (cast(:task_type as text) is null or tt.type = :task_type)
    and coalesce(cast(:older_than as interval), c.keep_runs) is not null
), horizon as materialized (
  select max(kept_since) as latest from rule
), expired as materialized (
  select p.id, rule.type
  from page p
  cross join lateral (  -- looked up one by one: the planner would else read all of task
    select type, run_id from task where id = p.task limit 1
  ) as t
  join rule on rule.type = t.type
  where p.ended < (select latest from horizon) and p.ended < rule.kept_since and t.run_id is distinct from p.id
), locked as materialized (
  select id from task_run
  where id = any(array(select id from expired where not cast(:dry_run as boolean)))
  order by id
  for update skip locked
), deleted as (
  delete from task_run where id = any(array(select id from locked)) returning id
), pruned as (
  select type, count(*) as runs
  from expired
  where :dry_run or id in (select id from deleted)
  group by type
)
select (select max(id) from page) as last,
       (select count(*) < :rows or horizon.latest is null or bool_and(coalesce(scheduled > horizon.latest, false))
        from page) as reached,
       (select coalesce(jsonb_object_agg(type, runs), '{}') from pruned) as pruned
from horizon;
