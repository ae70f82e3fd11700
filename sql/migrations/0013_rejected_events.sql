-- Rejected events can be shown and replayed: the table says of each how long the message was, and where it came from.

alter table rejected_event
  add column size bigint,
  add column properties jsonb not null default '{}';
comment on column rejected_event.body is 'The message body: whole, or its first 64 KiB where it is longer than an event may be';
comment on column rejected_event.size is 'Bytes of the whole body; null in rows of before, which have its first 64 KiB';
comment on column rejected_event.properties is 'What the broker says of the message, and why it was dead-lettered; an object of texts';
