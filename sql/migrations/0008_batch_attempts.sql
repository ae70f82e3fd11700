-- Batches that can't be sent are tried in turn, ever later, instead of in the order of their ids.

alter table dispatch_batch
  add column attempts int not null default 0,
  add column tried timestamptz;
comment on column dispatch_batch.attempts is 'How often the batch was sent again without a message confirmed';
comment on column dispatch_batch.tried is 'When it was sent again last; null before the first time, and after messages were confirmed';
