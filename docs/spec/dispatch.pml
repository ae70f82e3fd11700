/* dispatch.pml: grab, outbox, lease, publish, confirm, close, take over.
 *
 * Runners (processes) grab due tasks into an outbox in PostgreSQL and publish them to queues of a broker. Everything may
 * die at every point. See README.md for what is left out.
 *
 * One numbered task has one run, so "task t", "run t" and "message t" share the number t. A batch is the set of runs of
 * one queue that one session has in the outbox; it may be closed run by run (what is confirmed goes, the rest stays).
 */

/* ---- parameters ------------------------------------------------------------------------------------------------- */
#ifndef NR
#define NR 2            /* runners */
#endif
#ifndef NS
#define NS 4            /* dispatcher sessions that may exist at one time; ids are used again when all trace is gone */
#endif
#ifndef NT
#define NT 2            /* tasks, all due */
#endif
#ifndef NQ
#define NQ 1            /* queues; tasks 0 .. NT-2 go to queue 0, the last one to queue NQ-1 */
#endif
#ifndef BOUND0
#define BOUND0 1        /* max_queue_length of queue 0; that of the other one is 1 */
#endif
#ifndef CRASHES
#define CRASHES 1       /* SIGKILL of a runner, between any two steps */
#endif
#ifndef CUTS
#define CUTS 1          /* a runner's broker connection ends while the process lives (cut, time-out, a pause, no confirms) */
#endif
#ifndef PGLOSS
#define PGLOSS 0        /* a runner's session in PostgreSQL ends while the process lives */
#endif
#ifndef COMMITS
#define COMMITS 0       /* the answer to a grab's commit is lost: the runner does not know that it happened */
#endif
#ifndef BROKER
#define BROKER 0        /* crash and restart of the broker */
#endif
#ifndef WORKER
#define WORKER 0        /* a worker hands a message back (it dies, or its connection ends) */
#endif
#ifndef DISABLE
#define DISABLE 0       /* an operator disables a task */
#endif

#define Q(t)     ((t) < NT-1 -> 0 : NQ-1)
#define BOUND(q) ((q) == 0 -> BOUND0 : 1)

/* ---- PostgreSQL ------------------------------------------------------------------------------------------------- */
bit  flight[NT];        /* task is next_run_scheduled: grabbed */
bit  disabled[NT];      /* by an operator */
byte outbox[NT];        /* session of the batch with this run; 0: no open batch */
bit  ended[NT];         /* the run started or ended, and the database knows */
bit  pg[NS+1];          /* the session in PostgreSQL lives */
byte lock[NS+1];        /* advisory lock of a session: held by that session (0: free) */
byte turn[NS+1];        /* advisory lock for taking over from a session: one successor at a time tries */

/* ---- the broker ------------------------------------------------------------------------------------------------- */
bit  conn[NS+1];        /* the publishing connection lives, as the broker sees it */
byte exclusive[NS+1];   /* exclusive queue of a session: declared by the connection of that session (0: by nobody) */
byte lease[NQ];         /* exclusive queue that is the lease of a queue: likewise */
byte wire[NT];          /* message under way on the connection of that session */
bit  late[NT];          /* message under way on a connection that is gone: it may still arrive, for up to a second */
byte fresh[NT];         /* ready, published by a runner */
byte back[NT];          /* ready, handed back by a worker */
byte held[NT];          /* unacknowledged, at a worker */
byte memory[NT];        /* a copy is not on disk yet: session whose connection gets the confirm */
byte confirm[NT];       /* session to which the confirm was sent */

/* ---- what really happened --------------------------------------------------------------------------------------- */
byte state[NS+1];       /* 0: id is unused, 1: a process works as this session, 2: no process does any more */
byte taking[NS+1];      /* session that this session is about to take batches from */
byte second[NS+1];      /* bit per queue: wait a second before the first reading */
bit  stored[NT];        /* the message was on disk in the broker, or was delivered, at least once */
bit  worked[NT];        /* a worker ran it */
byte opened[NT];        /* run ids that were opened for the task */
byte crashes = CRASHES, cuts = CUTS, pgloss = PGLOSS, commits = COMMITS, brokers = BROKER, hand_backs = WORKER,
     operators = DISABLE;
hidden byte i, j, n;

#define DUE(t)        (!flight[t] && !disabled[t])
#define ALL_DONE      (all_done)
bit all_done;

inline cut(x) { d_step {                         /* the broker sees the connection of session x gone */
  conn[x] = 0;
  for (i : 0 .. NQ-1) { if :: lease[i] == x -> lease[i] = 0 :: else fi }
  for (i : 1 .. NS)   { if :: exclusive[i] == x -> exclusive[i] = 0 :: else fi }
  for (i : 0 .. NT-1) {
    if :: wire[i] == x -> wire[i] = 0; late[i] = 1 :: else fi;
    if :: memory[i] == x -> memory[i] = NS+1 :: else fi;
    if :: confirm[i] == x -> confirm[i] = 0 :: else fi
  }
  i = 0
} }

inline end_session(x) { d_step {                 /* PostgreSQL sees the session x gone, with every lock that it held */
  pg[x] = 0;
  for (i : 1 .. NS) {
    if :: lock[i] == x -> lock[i] = 0 :: else fi;
    if :: turn[i] == x -> turn[i] = 0 :: else fi
  }
  i = 0
} }

inline ready_in(q, result) { d_step {            /* passive declare */
  result = 0;
  for (i : 0 .. NT-1) { if :: Q(i) == q -> result = result + fresh[i] + back[i] :: else fi }
  i = 0
} }

inline fresh_in(q, result) { d_step {
  result = 0;
  for (i : 0 .. NT-1) { if :: Q(i) == q -> result = result + fresh[i] :: else fi }
  i = 0
} }

inline look() { d_step {                         /* is everything sent? For the liveness property. */
  n = 1;
  for (i : 0 .. NT-1) {
    if :: outbox[i] || !(stored[i] || disabled[i]) -> n = 0 :: else fi
  }
  all_done = n; n = 0; i = 0
} }

/* Conditions over tasks, written out so that they can be guards. */
#if NT == 2
#define ANY(p) (p(0) || p(1))
#elif NT == 3
#define ANY(p) (p(0) || p(1) || p(2))
#else
#define ANY(p) (p(0) || p(1) || p(2) || p(3))
#endif
#define TRY(t)       (outbox[t] && outbox[t] != s && (LOCK_FREE(outbox[t]) || CONN_FREE(outbox[t])) && TURN_FREE(outbox[t]))
#define OTHERS_Q(t)  (outbox[t] && outbox[t] != s && Q(t) == q)
#define MINE_Q(t)    (outbox[t] == s && Q(t) == q)
#define DUE_Q(t)     (DUE(t) && Q(t) == q)
#define LATE_Q(t)    (late[t] && Q(t) == q)
#define UNCONFIRMED(t) ((set & (1 << t)) && confirm[t] != s && outbox[t] == s)

#define OTHERS_0(t)  (outbox[t] && outbox[t] != s && Q(t) == 0)
#define WORK_0(t)    (Q(t) == 0 && (outbox[t] == s || DUE(t)))
#define OTHERS_1(t)  (outbox[t] && outbox[t] != s && Q(t) == 1)
#define WORK_1(t)    (Q(t) == 1 && (outbox[t] == s || DUE(t)))

#ifdef M_NO_LOOK_FIRST  /* variant: look for the batches of others only when the lease is held */
#define MAY_FILL(o, w) (ANY(w))
#else
#define MAY_FILL(o, w) (ANY(w) && !ANY(o))
#endif

#ifdef M_IGNORE_LOCK
#define LOCK_FREE(v) (true)
#else
#define LOCK_FREE(v) (lock[v] == 0)
#endif
#ifdef M_NO_TURN        /* as the rule was worded before: several successors try at the same time */
#define TURN_FREE(v) (true)
#define END_TURN(v)
#else
#define TURN_FREE(v) (turn[v] == 0)
#define END_TURN(v) if :: turn[v] == s -> turn[v] = 0 :: else fi
#endif
#ifdef M_IGNORE_CONNECTION
#define CONN_FREE(v) (true)
#else
#define CONN_FREE(v) (exclusive[v] == 0)
#endif

#if NT == 2
#define HAS_BATCH(x) (outbox[0] == x || outbox[1] == x)
#elif NT == 3
#define HAS_BATCH(x) (outbox[0] == x || outbox[1] == x || outbox[2] == x)
#else
#define HAS_BATCH(x) (outbox[0] == x || outbox[1] == x || outbox[2] == x || outbox[3] == x)
#endif
#if NS == 3
#define TAKEN(x) (taking[1] == x || taking[2] == x || taking[3] == x)
#else
#define TAKEN(x) (taking[1] == x || taking[2] == x || taking[3] == x || taking[4] == x)
#endif
/* An id is used (again) when no trace of its session is left. */
#define UNUSED(x) (state[x] != 1 && !conn[x] && !pg[x] && lock[x] == 0 && exclusive[x] == 0 && turn[x] == 0 && !TAKEN(x) && !HAS_BATCH(x))

#define DONE      v = 0; q = 0; cap = 0; set = 0; t = 0; goto end_work

/* A runner may be killed here. */
#define MAY_DIE  if :: skip :: crashes > 0 -> crashes--; goto died fi

proctype Runner() {
  byte s, v, q, cap, set, t;

start:
  set = 0;
  /* A new dispatcher session: its lock in PostgreSQL, its connection with its exclusive queue. */
  atomic {
    if
    :: UNUSED(1) -> s = 1
    :: !UNUSED(1) && UNUSED(2) -> s = 2
    :: !UNUSED(1) && !UNUSED(2) && UNUSED(3) -> s = 3
#if NS > 3
    :: !UNUSED(1) && !UNUSED(2) && !UNUSED(3) && UNUSED(4) -> s = 4
#endif
    fi;
    state[s] = 1; pg[s] = 1; lock[s] = s; conn[s] = 1; exclusive[s] = s
  }

end_work:                               /* waiting here for ever, with nothing to do, is fine */
  atomic {
    if
    :: !pg[s] || !conn[s] -> goto give_up
    :: pg[s] && conn[s] && ANY(TRY) ->  /* a batch whose session may be gone */
       for (i : 0 .. NT-1) { if :: TRY(i) -> v = outbox[i] :: else fi }
       i = 0; taking[s] = v;
#ifndef M_NO_TURN
       turn[v] = s;
#endif
       goto take_over
    :: pg[s] && conn[s] && MAY_FILL(OTHERS_0, WORK_0) && lease[0] == 0 -> q = 0
#if NQ > 1
    :: pg[s] && conn[s] && MAY_FILL(OTHERS_1, WORK_1) && lease[1] == 0 -> q = 1
#endif
    fi
  }
  /* The lease: declare its exclusive queue. */
  atomic {
    if
    :: !conn[s] -> goto give_up
    :: conn[s] && lease[q] == 0 -> lease[q] = s; goto fill
    :: conn[s] && lease[q] != 0 -> DONE
    fi
  }

take_over:
  /* The session's lock first. */
  atomic {
    MAY_DIE;
    if
    :: !pg[s] -> goto give_up
    :: pg[s] && LOCK_FREE(v) -> if :: lock[v] == 0 -> lock[v] = s :: else fi
    :: pg[s] && !LOCK_FREE(v) ->
       if
       :: conn[s] && CONN_FREE(v) -> exclusive[v] = s; goto only_connection_gone
       :: else -> END_TURN(v); taking[s] = 0; DONE
       fi
    fi
  }
  /* Then the exclusive queue. */
  atomic {
    MAY_DIE;
    if
    :: !conn[s] -> goto give_up
    :: conn[s] && CONN_FREE(v) -> exclusive[v] = s
    :: conn[s] && !CONN_FREE(v) ->         /* its connection lives */
       if :: lock[v] == s -> lock[v] = 0 :: else fi;
       END_TURN(v); taking[s] = 0;
       DONE
    fi
  }
  /* Both: compare-and-set of the batch's session. */
  atomic {
    MAY_DIE;
    for (i : 0 .. NT-1) {
      if :: outbox[i] == v -> outbox[i] = s; second[s] = second[s] | (1 << Q(i)) :: else fi
    }
    i = 0;
    if :: exclusive[v] == s -> exclusive[v] = 0 :: else fi;
    if :: lock[v] == s -> lock[v] = 0 :: else fi;
    END_TURN(v); taking[s] = 0;
    DONE
  }
only_connection_gone:                   /* end the session in PostgreSQL that holds the lock, try again later */
  atomic {
    MAY_DIE;
    n = lock[v];
#ifndef M_END_HOLDER                    /* as the rule was worded before: whoever holds the lock */
    if :: n != v -> n = 0 :: else fi;   /* it names the server process that the session registered */
#endif
    assert(n == 0 || n == v);           /* never the session of another successor */
    if :: n -> end_session(n) :: else fi;
    if :: exclusive[v] == s -> exclusive[v] = 0 :: else fi;
    END_TURN(v); taking[s] = 0; n = 0;
    DONE
  }

fill:
  /* Under the lease: a batch of another session on this queue? Its session, or the one that takes it over, comes first. */
  atomic {
    MAY_DIE;
#ifndef M_NO_LOOK_UNDER_LEASE
    if
    :: ANY(OTHERS_Q) -> if :: lease[q] == s -> lease[q] = 0 :: else fi; DONE
    :: else
    fi;
#endif
    /* The capacity: bound less ready. */
#ifndef M_NO_SECOND
    if
    :: second[s] & (1 << q) ->          /* a successor waits until what its predecessor sent has arrived */
       !ANY(LATE_Q) -> second[s] = second[s] & ~(1 << q)
    :: else
    fi;
#endif
    if :: !conn[s] -> goto give_up :: else fi;
    ready_in(q, cap);
    if :: cap >= BOUND(q) -> cap = 0 :: else -> cap = BOUND(q) - cap fi;
    i = 0
  }
  atomic {
    MAY_DIE;
    if
    :: !pg[s] -> goto give_up
    :: pg[s] && ANY(MINE_Q) ->
       /* First what is open: send again, within the bound, what neither started nor ended. */
       for (i : 0 .. NT-1) {
         if
         :: outbox[i] == s && Q(i) == q && ended[i] -> outbox[i] = 0
         :: outbox[i] == s && Q(i) == q && !ended[i] && disabled[i] ->
            /* withdrawn: not sent, ends as failed with that reason */
#ifdef C_WITHDRAWN
            assert(!(wire[i] || late[i] || fresh[i] || back[i] || held[i] || worked[i]));
#endif
            outbox[i] = 0; ended[i] = 1
         :: outbox[i] == s && Q(i) == q && !ended[i] && !disabled[i] ->
            if :: cap > 0 -> cap--; set = set | (1 << i) :: else fi
         :: else
         fi
       }
       i = 0; look()
    :: pg[s] && !ANY(MINE_Q) ->
       /* Then a grab: one statement takes tasks, opens their runs and writes the batch. */
       for (i : 0 .. NT-1) {
         if
         :: cap > 0 && !flight[i] && !disabled[i] && Q(i) == q ->
            assert(opened[i] == 0);     /* never two run ids for one task */
            flight[i] = 1; opened[i]++; cap--; set = set | (1 << i);
#ifndef M_NO_OUTBOX
            outbox[i] = s
#endif
         :: else
         fi
       }
       i = 0;
       if
       :: skip
       :: commits > 0 && set -> commits--; set = 0     /* committed, but the runner was told of an error */
       fi
    fi;
    t = 0
  }
  if
  :: atomic { set == 0 -> if :: lease[q] == s -> lease[q] = 0 :: else fi; DONE }
  :: else
  fi;

publish:
  atomic {
    if
    :: t == NT -> goto confirms
    :: t < NT && !(set & (1 << t)) -> t++; goto publish
    :: t < NT && (set & (1 << t)) ->
       MAY_DIE;
#ifndef M_NO_SESSION_LOOK
       if :: !pg[s] -> goto give_up :: else fi;        /* looks at its session before each chunk */
#endif
       if
       :: !conn[s] -> goto give_up
       :: else -> wire[t] = s; confirm[t] = 0; t++
       fi
    fi
  }
  goto publish;

confirms:
#ifdef M_CLOSE_EARLY
  goto close;
#endif
#ifdef M_RELEASE_EARLY
  atomic { if :: lease[q] == s -> lease[q] = 0 :: else fi }
#endif
  atomic {
    if
    :: !ANY(UNCONFIRMED) -> t = 0
    :: !conn[s] || !pg[s] -> goto give_up       /* unknown: the batch stays open */
    :: crashes > 0 -> crashes--; goto died
    fi
  }
close:
  atomic {
    MAY_DIE;
    for (i : 0 .. NT-1) {
      if
      :: (set & (1 << i)) && outbox[i] == s ->
         assert(stored[i] || ended[i]); /* no batch is closed with an unconfirmed message */
         outbox[i] = 0
      :: else
      fi;
      if :: confirm[i] == s -> confirm[i] = 0 :: else fi
    }
    look();
    if :: lease[q] == s -> lease[q] = 0 :: else fi;
    set = 0; DONE
  }

give_up:                                /* this session is over for the process; it comes back as another */
#ifdef M_GIVE_BACK
  atomic {
    for (i : 0 .. NT-1) {
      if :: outbox[i] == s && (set & (1 << i)) -> outbox[i] = 0; flight[i] = 0 :: else fi
    }
    i = 0
  }
#endif
died:
  atomic { taking[s] = 0; second[s] = 0; state[s] = 2; v = 0; q = 0; cap = 0; set = 0; t = 0; s = 0; goto start }
}

/* The broker, and what it and PostgreSQL notice. */
#if NT == 2
#define EACH(f) f(0) f(1)
#elif NT == 3
#define EACH(f) f(0) f(1) f(2)
#else
#define EACH(f) f(0) f(1) f(2) f(3)
#endif

#define CONFIRM(t, x) if :: x <= NS && conn[x] -> confirm[t] = x :: else fi
#if BROKER
#define ON_DISK(t, x) memory[t] = x
#define SYNC(t) :: atomic { memory[t] -> CONFIRM(t, memory[t]); memory[t] = 0; stored[t] = 1; look() }
#else
#define ON_DISK(t, x) CONFIRM(t, x); stored[t] = 1; look()
#define SYNC(t)
#endif
#define ARRIVE(t) \
  :: atomic { wire[t] || late[t] -> \
       if \
       :: wire[t] -> n = wire[t]; ON_DISK(t, n); wire[t] = 0; fresh[t]++ \
       :: late[t] -> ON_DISK(t, NS+1); late[t] = 0; fresh[t]++ \
       :: late[t] -> late[t] = 0 \
       fi; \
       fresh_in(Q(t), n); assert(n <= BOUND(Q(t))); n = 0 } \
  SYNC(t)

proctype Broker() {
end:
  do
  /* A message arrives (one from a connection that is gone: or never does); runners never lift a queue above its bound.
     Later it is on disk and confirmed. */
  EACH(ARRIVE)
  od
}

#define NOTICE(y) \
  :: atomic { state[y] == 2 && conn[y] -> cut(y) } \
  :: atomic { state[y] == 2 && pg[y] -> end_session(y) }

proctype Notice() {                     /* what a process left behind is found out, in any order; ids become unused */
end:
  do
  NOTICE(1) NOTICE(2) NOTICE(3)
#if NS > 3
  NOTICE(4)
#endif
  od
}

#define WORK(t) \
  :: atomic { (fresh[t] || back[t]) && held[t] < 2 -> \
       if :: fresh[t] -> fresh[t]-- :: back[t] -> back[t]-- fi; held[t]++; stored[t] = 1; look() } \
  :: atomic { held[t] -> held[t]--; worked[t] = 1; ended[t] = 1; \
       if :: memory[t] && !fresh[t] && !back[t] && !held[t] -> \
                if :: memory[t] <= NS && conn[memory[t]] -> confirm[t] = memory[t] :: else fi; memory[t] = 0 :: else fi } \
  :: atomic { held[t] && hand_backs > 0 -> hand_backs--; held[t]--; back[t]++ }

proctype Workers() {
end:
  do
  /* Delivered; or done, acknowledged and its event recorded, all some time later; or handed back. */
  EACH(WORK)
  od
}

#define FAULT(y) \
  :: atomic { cuts > 0 && conn[y] && state[y] == 1 -> cuts--; cut(y) } \
  :: atomic { pgloss > 0 && pg[y] && state[y] == 1 -> pgloss--; end_session(y) }

proctype Faults() {
end:
  do
  FAULT(1) FAULT(2) FAULT(3)
#if BROKER
  :: atomic { brokers > 0 -> brokers--;
       for (j : 1 .. NS) { cut(j) }                 /* every connection ends, nothing stays under way */
       for (j : 0 .. NT-1) {
         wire[j] = 0; late[j] = 0;
         back[j] = back[j] + held[j]; held[j] = 0;  /* unacknowledged: ready again */
         if
         :: memory[j] && fresh[j] -> fresh[j]--     /* not on disk: may be gone, or not */
         :: memory[j] && !fresh[j] && back[j] -> back[j]--
         :: skip
         fi;
         memory[j] = 0
       }
       i = 0; j = 0 }
#endif
#if DISABLE
  :: atomic { operators > 0 -> operators--; disabled[0] = 1; look() }
#endif
  od
}

init {
  atomic {
    run Broker(); run Notice(); run Workers(); run Faults(); run Runner();
#if NR > 1
    run Runner();
#endif
  }
}

#ifdef LIVE
bit tick; active proctype Idle() { do :: tick = 1 - tick od }     /* so that standing still is an endless run, too */
ltl everything_is_sent { <> [] all_done }
#endif
