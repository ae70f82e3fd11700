-- Listeners and rescuers have a session as well, which shows them alive.

comment on table dispatcher_session is
  'Sessions of services; each lives as long as it holds its advisory lock, and those that dispatch have batches';
comment on column dispatcher_session.service is 'Service that opened it: runner, listener, visits, rescuer, or recovery';
