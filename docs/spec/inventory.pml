/* inventory.pml: reading all ready messages of a busy queue and giving them back.
 *
 * lost.pml has the order of the steps of one rescuer. This model has what else touches the queue: two rescuers, a runner
 * that publishes up to the limit, a worker, foreign publishers, the death of each connection, delivery counts.
 * X is the message of the run in question; the other messages are counted.
 * Asking the lives is one step here, together with the answer "empty".
 */

/* ---- parameters ------------------------------------------------------------------------------------------------- */
#ifndef DIES
#define DIES 1          /* a rescuer's connection ends while it holds messages */
#endif
#ifndef BACK
#define BACK 0          /* the worker hands X back (it dies, or its connection ends) */
#endif
#ifndef FOREIGN
#define FOREIGN 0       /* messages from other publishers, Celery's own retries among them; 9: without end */
#endif
#ifndef RUNNER
#define RUNNER 1        /* a runner publishes as well */
#endif
#ifndef LIMIT
#define LIMIT 0         /* the queue's delivery limit; 0: none */
#endif
#ifndef LEASE
#define LEASE 1         /* messages are read under the lease of the queue */
#endif
#ifndef LEASE_EMPTY
#define LEASE_EMPTY 1   /* the other look, ready = 0 by passive declare, is under the lease as well */
#endif
#ifndef ONE_CONNECTION
#define ONE_CONNECTION 1 /* the lease is on the connection that reads: they end together, within a second; 0: apart */
#endif
#ifndef SECOND
#define SECOND 1        /* a rescuer that has the lease waits a second before it looks */
#endif
#ifndef SECOND_RUNNER
#define SECOND_RUNNER 0 /* a runner does so, too */
#endif
#ifndef GIVE_FIRST
#define GIVE_FIRST 1    /* the messages are ready again before the lease is released */
#endif
#ifndef SKIP_LIMITED
#define SKIP_LIMITED 1  /* a queue with a delivery limit is never read */
#endif
#ifndef BUDGET
#define BUDGET 3        /* so many messages are read at most, then the look ends undecided; 0: no such number */
#endif
#ifndef CHECK_BOUND
#define CHECK_BOUND 0   /* no message that a rescuer gives back lifts the queue above its limit */
#endif

#define BOUND 2
#define MOST 3          /* larger counts are kept as this one */
#define NOBODY 9
#define THE_RUNNER 2

byte x_ready, o_ready = 1;          /* X, other messages: ready */
bit  x_held[2]; byte o_held[2];     /* unacknowledged at rescuer r */
bit  x_worker, x_done;              /* X is with the worker; was executed and acknowledged */
byte count;                         /* X's delivery count: how often it came back */
byte worker_backs;                  /* ... from the worker */
bit  dropped;
byte lease = NOBODY;
bit  up[2];                         /* the rescuer's connection that reads */
bit  lease_up[2];                   /* the one that has its lease: the same, or another */
byte dies = DIES, backs = BACK, foreign = FOREIGN;
bit  looked;                        /* a look has come to its end */

#ifdef LIVE
#define OPEN 1
#else
#define OPEN (!x_done)  /* after that nothing matters any more */
#endif
#define READY (x_ready + o_ready)
#define PENDING(r) (!up[r] && (x_held[r] || o_held[r]))   /* the broker has not made them ready again yet: up to a second */

inline come_back() { d_step {       /* X is ready again, or its delivery count is too high */
  if :: LIMIT -> count++ :: else fi;
  if
  :: LIMIT && count > LIMIT ->
     dropped = 1;
     assert(worker_backs > LIMIT)   /* looks alone never drop a message, nor make it be dropped earlier */
  :: else -> x_ready = 1
  fi
} }
inline give_back(r) { atomic {
  if :: x_held[r] -> x_held[r] = 0; come_back() :: else fi;
  o_ready = (o_ready + o_held[r] > MOST -> MOST : o_ready + o_held[r]); o_held[r] = 0;
  assert(!CHECK_BOUND || READY <= BOUND)
} }

proctype Rescuer(byte r) {
  byte n;
end:
  do
  :: atomic { !LEASE_EMPTY && READY == 0 && up[r] && !x_worker && !x_done -> assert(!x_held[1-r]) }
  :: atomic { up[r] && lease_up[r] && (!LEASE || lease == NOBODY) && OPEN && !dropped ->
       if :: LEASE -> lease = r :: else fi }
     /* A second later, what a dead connection held is ready again. */
     if
     :: SECOND -> (!PENDING(0) && !PENDING(1)) || !up[r]
     :: !SECOND
     fi;
     if :: LIMIT && SKIP_LIMITED -> goto release :: else fi;
     n = 0;
     do
     :: atomic { up[r] && (!BUDGET || n < BUDGET) && x_ready -> x_ready = 0; x_held[r] = 1; if :: BUDGET -> n++ :: else fi }
     :: atomic { up[r] && (!BUDGET || n < BUDGET) && o_ready -> o_ready--; if :: o_held[r] < MOST -> o_held[r]++ :: else fi;
          if :: BUDGET -> n++ :: else fi }
     :: atomic { up[r] && BUDGET && n == BUDGET -> looked = 1; break }                /* undecided */
     :: atomic { up[r] && READY == 0 ->
          if
          :: !x_held[r] && !x_worker && !x_done && !dropped ->
             assert(!x_held[1-r])               /* "nobody has X": nor does anybody */
          :: else
          fi;
          looked = 1; break }
     :: atomic { !up[r] -> break }
     od;
     if :: !GIVE_FIRST && lease == r -> lease = NOBODY :: else fi;
     if :: up[r] -> give_back(r) :: else fi;
release:
     atomic { if :: lease == r && up[r] -> lease = NOBODY :: else fi }
     n = 0
  od
}

proctype Connections() {            /* each end of a connection, and what the broker makes of it: in any order */
  byte r;
end:
  do
  :: atomic { dies > 0 -> if :: up[0] -> r = 0 :: up[1] -> r = 1 fi;
       dies--;
       if
       :: up[r] = 0; if :: ONE_CONNECTION -> lease_up[r] = 0 :: else fi
       :: !ONE_CONNECTION -> lease_up[r] = 0
       fi }
  :: atomic { !lease_up[0] && lease == 0 -> lease = NOBODY }
  :: atomic { !lease_up[1] && lease == 1 -> lease = NOBODY }
  :: atomic { PENDING(0) -> give_back(0) }
  :: atomic { PENDING(1) -> give_back(1) }
  od
}

proctype Worker() {
end:
  do
  :: atomic { x_ready -> x_ready = 0; x_worker = 1 }
  :: atomic { o_ready && OPEN -> o_ready-- }
  :: atomic { x_worker -> x_worker = 0; x_done = 1 }
  :: atomic { x_worker && backs > 0 -> backs--; x_worker = 0; if :: LIMIT -> worker_backs++ :: else fi; come_back() }
  od
}

proctype Others() {
end:
  do
  :: atomic { foreign > 0 && o_ready < MOST -> o_ready++; if :: foreign != 9 -> foreign-- :: else fi }
  od
}

proctype Runner() {
end:
  do
  :: atomic { lease == NOBODY && READY < BOUND && OPEN -> lease = THE_RUNNER }
     if
     :: SECOND_RUNNER -> !PENDING(0) && !PENDING(1)
     :: !SECOND_RUNNER
     fi;
     atomic { if :: READY < BOUND -> o_ready = BOUND - x_ready :: else fi; lease = NOBODY }
  od
}

init {
  atomic {
    up[0] = 1; up[1] = 1; lease_up[0] = 1; lease_up[1] = 1;
    x_ready = 1;
    run Rescuer(0); run Rescuer(1); run Connections(); run Worker(); run Others();
    if :: RUNNER -> run Runner() :: else fi
  }
}

#ifdef LIVE
bit tick; active proctype Idle() { do :: tick = 1 - tick od }     /* so that standing still is an endless run, too */
ltl the_look_ends { <> looked }
#endif
