/* lost.pml: may a run be judged lost? Rules 0 to 6 of "Lost runs".
 *
 * One run X, whose batch is closed: its message is in the queue. Two workers consume the queue. Workers are killed, frozen,
 * cut off, shut down warmly and coldly, retry, end without an event; the broker delivers messages again; events wait in a
 * worker, then in the broker, then they are recorded; they may be lost. One rescuer judges.
 * Two assertions at each verdict "lost":
 *   !ALIVE        nobody executes X or has its message, nor does the broker
 *   !END_LATE    X did not end with an event that is still on its way
 * The mark is abstract here (mark.pml has it): when it has passed, what a worker had published or buffered before is
 * recorded or lost for ever.
 */

/* ---- what the fleet is like ------------------------------------------------------------------------------------- */
#ifndef LATE
#define LATE 0          /* late acknowledgement */
#endif
#ifndef SOLO
#define SOLO 0          /* solo pool: blocked while it works; acknowledges after the task */
#endif
#ifndef BACKLOG
#define BACKLOG 0       /* other messages are always ready in the queue */
#endif
#ifndef HOLD
#define HOLD 1          /* the rescuer holds the lease of a queue that is never empty until it has looked, so that it drains */
#endif
#ifndef BACKEND
#define BACKEND 0       /* a result backend: an end stores its result before its event is sent */
#endif
#ifndef HANG
#define HANG 0          /* X never ends by itself */
#endif
#ifndef SAME_NAME
#define SAME_NAME 0     /* worker 1 is the next life of worker 0's host name */
#endif

/* ---- what may go wrong, how often ------------------------------------------------------------------------------- */
#ifndef KILL
#define KILL 0
#endif
#ifndef FREEZE
#define FREEZE 0        /* SIGSTOP, SIGCONT later */
#endif
#ifndef CUT
#define CUT 0           /* a connection is closed from outside, the process lives and connects again */
#endif
#ifndef MUTE
#define MUTE 0          /* a connection carries nothing any more; the broker lets it time out; the network comes back later */
#endif
#ifndef WARM
#define WARM 0          /* warm shutdown of worker 0 */
#endif
#ifndef COLD
#define COLD 0          /* cold shutdown of worker 0 */
#endif
#ifndef RETRY
#define RETRY 0         /* the task retries, or is rejected with requeue */
#endif
#ifndef IGNORE
#define IGNORE 0        /* the task ends without an end event */
#endif
#ifndef BLOCK
#define BLOCK 1         /* a solo worker is busy for so long that its connection times out */
#endif
#ifndef LOSE
#define LOSE 0          /* an event is lost on its way: 1 any, see LOSE_ONLY */
#endif
#ifndef LOSE_ONLY
#define LOSE_ONLY 99    /* only events of this kind are lost */
#endif

/* ---- assumptions: 1 takes one away ------------------------------------------------------------------------------- */
#ifndef CUT_LONG
#define CUT_LONG 0      /* a live worker may stay away for longer than rule 2b waits */
#endif
#ifndef MUTE_LONG
#define MUTE_LONG 0     /* ... may be silent for longer than rescuer.silent_seconds */
#endif
#ifndef LEAVE_LONG
#define LEAVE_LONG 0    /* ... may work on for longer than rescuer.leaving_seconds */
#endif
#ifndef TWO_OF_A_NAME
#define TWO_OF_A_NAME 0 /* the next life of a name may start while the last one is only cut off */
#endif
#ifndef OUTLAST
#define OUTLAST 0       /* an execution may take longer than max_run_seconds and its margin */
#endif
#ifndef EVENT_LATE
#define EVENT_LATE 0    /* an event may leave its worker later than a flush interval */
#endif

/* ---- the rules ---------------------------------------------------------------------------------------------------- */
#ifndef RULE0
#define RULE0 1         /* 1: evidence, flush interval, mark, verdict; 2: mark, evidence, verdict; 0: no mark */
#endif
#ifndef RECHECK
#define RECHECK 1       /* the verdict's transaction looks at the run again */
#endif
#ifndef RECHECK_LIFE
#define RECHECK_LIFE 1  /* ... and at the life: is it still over? 0: as it was worded before */
#endif
#ifndef REASK
#define REASK 2         /* every life that was asked answers once more after the flush interval: 2 again without X; 1 whatever it says;
                           0 it is not asked, as it was worded before */
#endif
#ifndef RECONNECT_VOIDS
#define RECONNECT_VOIDS 1 /* a consumer of the queue that connected again since the evidence began makes it void; 0: as before */
#endif
#ifndef RULE2_LOOKS
#define RULE2_LOOKS 1   /* 1: rule 2 needs rule 3's look for the message; 2: not where X acknowledges early (unsound); 0: never */
#endif
#ifndef RULE5_LOOKS
#define RULE5_LOOKS 1   /* rule 5 needs rule 3's look: 1; 0: as it was worded before */
#endif
#ifndef COUNT_TWICE
#define COUNT_TWICE 1   /* consumer_count is compared at both declares: 1; 0: at the second one alone */
#endif
#ifndef INVENTORY
#define INVENTORY 0     /* how a queue that is not empty is looked at; 0: not at all. Others: who consumes and which lives are over
                           is looked up, all ready messages are read by basic.get and given back:
   1  until the answer is "empty", before the lives are asked and again after it
   2  the same once, after the lives were asked
   3  the same once, before the lives are asked
   4  as many messages as the queue had when the reading began, before and after
   5  1, but who consumes and which lives are over is looked up after the first reading */
#endif
#ifndef PAUSE
#ifdef LIVE
#define PAUSE 1         /* between two readings that found X a worker that has room takes it */
#else
#define PAUSE 0
#endif
#endif
#ifndef RULE1
#define RULE1 1         /* the result backend is asked: 1 first, and again between the mark and the verdict; 2 first alone;
                           3 after the verdict; 0 never */
#endif
#ifndef RULE4
#define RULE4 0         /* rule 4 applies: the run has a max_run_seconds */
#endif
#ifndef RULE4_LOOKS
#define RULE4_LOOKS 1   /* rule 4 needs rule 3's look, but for the execution on the life that started it: 1; 0: as it was worded before */
#endif
#ifndef OFFLINE_BARS
#define OFFLINE_BARS 1  /* 2b not after worker-offline */
#endif
#ifndef BY_CLOCK
#define BY_CLOCK 1      /* worker-online and -offline of a life are ordered by its own clock; 0: by arrival */
#endif
#ifndef LEFT_DISTINCT
#define LEFT_DISTINCT 1 /* 2c counts each run once, by events that this life signed: 1; 0: end events of whatever task, so that a
                           task with two of them, or one that another worker ends, stands in for X */
#endif
#ifndef SILENT_RULE
#define SILENT_RULE 1   /* 2d */
#endif

/* ---- which assertions --------------------------------------------------------------------------------------------- */
#ifndef CHECK_ALIVE
#define CHECK_ALIVE 1
#endif
#ifndef CHECK_LATE
#define CHECK_LATE 1
#endif

#define UP 1
#define FROZEN 2
#define DEAD 0
#define RESERVED 1
#define RUNNING 2
/* kinds of events */
#define RECEIVED 0
#define STARTED 1
#define ENDED 2
#define WAITS 3         /* task-retried, task-rejected with requeue, task-cancelled */
#define OFFLINE 4
#define ONLINE 5        /* connected again */
#define KINDS 6
#define EV(w, k) event[(w)*KINDS+(k)]
#define OLD(w, k) before[(w)*KINDS+(k)]

byte ready;             /* copies of X's message ready in the queue */
byte proc[2];
bit  conn[2];           /* the worker's connection, as the broker sees it: pidbox and consumer */
bit  net[2];            /* its network works */
bit  leaving[2];        /* warm shutdown under way */
bit  unacked[2];        /* X's message is delivered on that connection */
bit  socket[2];         /* ... and not read yet */
byte has[2];            /* what the process has of X */
bit  silent[2];         /* its connection timed out, and was not closed */
byte event[12];         /* 0 none, 1 in the worker, 2 in the broker */
bit  before[12];        /* it was there when the evidence had been taken */
/* the database */
bit  db_started, db_waits, db_ended, moved, off[2], db_end_of[2];
byte db_worker;
bit  hold;              /* no runner fills the queue; its bound makes it empty some time later */
#define BUSY (BACKLOG && !hold)
bit  reconnected;       /* a consumer of the queue connected again since the evidence began */
bit  lost, stored;      /* stored: the result backend has a result of X */
byte mine;              /* copies of X's message that the rescuer has read, unacknowledged */
byte kills = KILL, freezes = FREEZE, cuts = CUT, mutes = MUTE, warms = WARM, colds = COLD, retries = RETRY, ignores = IGNORE,
     losses = LOSE, blocks = BLOCK;
hidden byte i;

#define BLOCKED(w)   (SOLO && has[w] == RUNNING)
#define ALIVE         (ready || mine || has[0] || has[1] || socket[0] || socket[1])
#define END_LATE     (EV(0, ENDED) || EV(1, ENDED))
#define CONSUMERS    (conn[0] + conn[1])

inline emit(w, k) { EV(w, k) = 1; OLD(w, k) = 0 }
inline disconnect(w) { d_step {         /* the broker sees the connection gone: unacknowledged messages are ready again */
  conn[w] = 0; socket[w] = 0;
  if :: unacked[w] -> unacked[w] = 0; ready++ :: else fi
} }
inline die(w) { d_step {
  proc[w] = DEAD; has[w] = 0; leaving[w] = 0;
  for (i : 0 .. KINDS-1) { if :: EV(w, i) == 1 -> EV(w, i) = 0 :: else fi }     /* what it had not sent is lost */
  i = 0
} }

#define SEND(k) :: atomic { EV(w, k) == 1 && proc[w] == UP && net[w] && !BLOCKED(w) -> EV(w, k) = 2 }

proctype Worker(byte w) {
end:
  do
  /* delivery, reading, start, end */
  :: atomic { ready && conn[w] && !unacked[w] && has[w] == 0 && proc[w] != DEAD -> ready--; unacked[w] = 1; socket[w] = 1 }
  :: atomic { socket[w] && proc[w] == UP && net[w] -> socket[w] = 0; has[w] = RESERVED; emit(w, RECEIVED) }
  :: atomic { has[w] == RESERVED && proc[w] == UP && !leaving[w] ->
       has[w] = RUNNING; emit(w, STARTED);
       if :: !LATE && !SOLO && net[w] && conn[w] -> unacked[w] = 0 :: else fi }
  :: atomic { has[w] == RUNNING && !HANG && (proc[w] == UP || proc[w] == FROZEN && !SOLO) ->
       has[w] = 0;
       if
       :: emit(w, ENDED); stored = BACKEND
       :: ignores > 0 -> ignores--
       :: retries > 0 && net[w] -> retries--; ready++; emit(w, WAITS)
       fi;
       if :: conn[w] && net[w] && unacked[w] && !socket[w] -> unacked[w] = 0 :: else fi }
  /* a prefetched message is dropped with its connection */
  :: atomic { has[w] == RESERVED && !conn[w] && proc[w] == UP -> has[w] = 0 }
  /* events leave the worker, and are recorded */
  SEND(RECEIVED) SEND(STARTED) SEND(ENDED) SEND(WAITS) SEND(OFFLINE) SEND(ONLINE)
  /* kill, freeze, cut, mute */
  :: atomic { kills > 0 && proc[w] == UP -> kills--; die(w); silent[w] = 0 }
  :: atomic { proc[w] == DEAD && conn[w] -> disconnect(w) }
  :: atomic { freezes > 0 && proc[w] == UP && conn[w] -> freezes--; proc[w] = FROZEN }
  :: atomic { proc[w] == FROZEN -> proc[w] = UP }
  :: atomic { cuts > 0 && conn[w] && proc[w] == UP && net[w] -> cuts--; net[w] = 0; silent[w] = 0; disconnect(w) }
  :: atomic { mutes > 0 && conn[w] && proc[w] == UP && net[w] -> mutes--; net[w] = 0 }
  :: atomic { conn[w] && (proc[w] == FROZEN || proc[w] == UP && !net[w]) -> silent[w] = 1; disconnect(w) }
  :: atomic { conn[w] && BLOCKED(w) && blocks > 0 -> blocks--; silent[w] = 1; disconnect(w) }
  :: atomic { !net[w] && proc[w] == UP -> net[w] = 1 }
  :: atomic { proc[w] == UP && net[w] && !conn[w] && !leaving[w] && !BLOCKED(w) && !(SAME_NAME && conn[1-w]) &&
              !(SAME_NAME && w == 0 && proc[1] != DEAD) -> conn[w] = 1; emit(w, ONLINE) }
  /* shutdowns of worker 0 */
  :: atomic { w == 0 && warms > 0 && proc[w] == UP && conn[w] && net[w] && !SOLO -> warms--;
       leaving[w] = 1; emit(w, OFFLINE); silent[w] = 0; if :: has[w] == RESERVED -> has[w] = 0 :: else fi; disconnect(w) }
  :: atomic { leaving[w] && proc[w] == UP && has[w] == 0 && EV(w, ENDED) != 1 && EV(w, OFFLINE) != 1 && EV(w, WAITS) != 1 &&
              EV(w, STARTED) != 1 -> die(w) }
  :: atomic { w == 0 && colds > 0 && proc[w] == UP && conn[w] && net[w] && has[w] == RUNNING && EV(w, STARTED) != 1 -> colds--;
       has[w] = 0; EV(w, WAITS) = 2; EV(w, OFFLINE) = 2; silent[w] = 0; die(w); disconnect(w) }
  /* the next life of the name */
  :: atomic { SAME_NAME && w == 1 && proc[1] == DEAD && kills == 0 && !conn[0] && (proc[0] == DEAD || TWO_OF_A_NAME) ->
       proc[1] = UP; conn[1] = 1; kills = 9 }
  od
}

#define RECORD(w, k) \
  :: atomic { EV(w, k) == 2 -> EV(w, k) = 0; OLD(w, k) = 0; \
       if \
       :: k == RECEIVED -> moved = 1 \
       :: k == STARTED && !db_ended -> moved = 1; db_started = 1; db_waits = 0; db_worker = w \
       :: k == STARTED && db_ended -> skip \
       :: k == ENDED -> moved = 1; db_ended = 1; db_end_of[w] = 1 \
       :: k == WAITS -> moved = 1; db_waits = 1; db_end_of[w] = 1 \
       :: k == OFFLINE -> off[w] = 1 \
       :: k == ONLINE -> if :: !BY_CLOCK -> off[w] = 0 :: else fi; if :: RECONNECT_VOIDS -> reconnected = 1 :: else fi \
       fi } \
  :: atomic { losses > 0 && EV(w, k) == 2 && (LOSE_ONLY == 99 || LOSE_ONLY == k) -> losses--; EV(w, k) = 0; OLD(w, k) = 0 }

proctype Listener() {
end:
  do
  RECORD(0, RECEIVED) RECORD(0, STARTED) RECORD(0, ENDED) RECORD(0, WAITS) RECORD(0, OFFLINE) RECORD(0, ONLINE)
  RECORD(1, RECEIVED) RECORD(1, STARTED) RECORD(1, ENDED) RECORD(1, WAITS) RECORD(1, ONLINE)
  od
}

/* A life is over: rule 2. Where an assumption about time holds, the rule's waiting time outlasts a live worker's absence. */
#define CLOSED(w) (!conn[w] && !silent[w] && (!OFFLINE_BARS || !off[w]) && \
                   (CUT_LONG || proc[w] == DEAD || leaving[w]))
#define LEFT(w)   (off[w] && !conn[w] && (LEAVE_LONG || db_end_of[w] || (has[w] != RUNNING && !EV(w, ENDED)) || !LEFT_DISTINCT))
#define SILENT(w) (SILENT_RULE && !conn[w] && silent[w] && !SOLO && (MUTE_LONG || proc[w] == DEAD))
#define TAKEN(w)  (SAME_NAME && w == 0 && proc[1] != DEAD)
/* Another task ended on it: with the old counting that is enough. */
#define OVER(w)   (CLOSED(w) || LEFT(w) || SILENT(w) || TAKEN(w) || (SAME_NAME && w == 1 && proc[1] == DEAD && !conn[1]))

#define ANY_OLD (OLD(0,0) || OLD(0,1) || OLD(0,2) || OLD(0,3) || OLD(0,4) || OLD(0,5) || OLD(1,5) || OLD(1,0) || OLD(1,1) || OLD(1,2) || OLD(1,3))
#define ANSWERS(w) (conn[w] && proc[w] == UP && net[w] && !BLOCKED(w) && !socket[w])
/* ... and says that it has not X. For rule 4 the execution that takes too long does not count. */
#define WITHOUT_X(w) (ANSWERS(w) && (has[w] == 0 || rule == 4 && w == db_worker && has[w] == RUNNING))
/* The execution that the database knows may still go on: rule 4's assumption is that it does not. A second one on the same
   life has sent another task-started. */
#define TIMED_OUT(w) (OUTLAST || has[w] != RUNNING || EV(w, STARTED))
#define ONCE_MORE(w) (REASK == 2 -> WITHOUT_X(w) : ANSWERS(w))
#define GONE(w)      (OVER(w) || rule == 4 && w == db_worker && !conn[w])
#define ASKED(w)   ((w) == 0 -> !o0 : !o1)
/* Which events are on their way now. What a worker holds leaves it within a flush interval, if it is not stopped; a life
   that answers once more after that interval has sent it. */
inline take_note() { d_step {
  for (i : 0 .. 11) {
    before[i] = (event[i] == 2 || (event[i] == 1 && !EVENT_LATE && proc[i/KINDS] != DEAD &&
                 ((REASK && ASKED(i/KINDS)) || (net[i/KINDS] && proc[i/KINDS] == UP && !BLOCKED(i/KINDS)))))
  }
  i = 0
} }

inline read_all() {
  do
  :: atomic { ready > 0 -> ready--; mine++ }                          /* basic.get: X, or another message */
  :: atomic { ready == 0 || INVENTORY == 4 -> break }                 /* "empty": all that was ready is in hand */
  od;
  if
  :: atomic { mine > 0 -> ready = ready + mine; mine = 0; goto end_found } /* X is among it; all is given back */
  :: else                                                             /* the others are given back */
  fi
}

proctype Rescuer() {
  byte rule, answered, asked; bit o0, o1, again;
end_look:                               /* waiting here is: undecided */
  do
  :: db_ended || lost -> break
  :: atomic { BACKEND && (RULE1 == 1 || RULE1 == 2) && stored && !db_ended && !lost -> db_ended = 1; break }
  :: atomic { !db_ended && !lost && !(BACKEND && (RULE1 == 1 || RULE1 == 2) && stored) ->                     /* look at the run, choose the rule */
       moved = 0; reconnected = 0; answered = 0; o0 = 0; o1 = 0; again = 0;
       if
       :: db_started && !db_waits && OVER(db_worker) -> rule = 2
       :: db_started && !db_waits && !OVER(db_worker) && conn[db_worker] && proc[db_worker] == UP && !BLOCKED(db_worker) &&
          net[db_worker] && !has[db_worker] && !socket[db_worker] -> rule = 5
       :: !db_started || db_waits -> rule = 3
       :: RULE4 && db_started && !db_waits && TIMED_OUT(db_worker) -> rule = 4
       fi }
#if RULE0 == 2
       atomic { take_note() }
end_early_mark:
       !ANY_OLD;
#endif
evidence:
       if
       :: atomic { rule == 2 && (RULE2_LOOKS == 0 || RULE2_LOOKS == 2 && !LATE && !SOLO) -> o0 = 1; o1 = 1; goto mark }
       :: atomic { rule == 5 && !RULE5_LOOKS -> o0 = (db_worker != 0); o1 = (db_worker != 1); goto mark }
       :: atomic { rule == 4 && !RULE4_LOOKS -> o0 = 1; o1 = 1; goto mark }
       :: else
       fi;
#if INVENTORY
       if
       :: INVENTORY == 2 || INVENTORY == 5
       :: else -> atomic { o0 = GONE(0); o1 = GONE(1); asked = CONSUMERS }
       fi;
       if :: INVENTORY != 2 -> read_all() :: else fi;
       if
       :: INVENTORY == 2 || INVENTORY == 5 -> atomic { o0 = GONE(0); o1 = GONE(1); asked = CONSUMERS }
       :: else
       fi;
#else
       /* Rule 3. Passive declare: nothing ready; who consumes? */
       atomic {
         if
         :: ready == 0 && !BUSY -> o0 = GONE(0); o1 = GONE(1); asked = CONSUMERS
         :: else -> hold = HOLD; goto next
         fi }
#endif
       /* query_task to every life that is not over: an answer without X; a missing answer: undecided. It is read behind
          what was delivered before. */
       if
       :: o0
       :: atomic { !o0 && WITHOUT_X(0) -> answered++ }
       :: atomic { !o0 && !WITHOUT_X(0) -> goto next }
       fi;
       if
       :: o1
       :: atomic { !o1 && WITHOUT_X(1) -> answered++ }
       :: atomic { !o1 && !WITHOUT_X(1) -> goto next }
       fi;
#if INVENTORY
       if :: INVENTORY != 3 -> read_all() :: else fi;
#endif
       atomic {
         if
         :: (INVENTORY || ready == 0 && !BUSY) && CONSUMERS == answered && (!COUNT_TWICE || asked == answered)
         :: else -> goto next
         fi }
mark:
#if RULE0 == 1
       atomic { take_note() }
end_mark:                               /* the flush interval, then the mark */
       if
       :: atomic { !ANY_OLD && (!REASK || ((o0 || ONCE_MORE(0)) && (o1 || ONCE_MORE(1)))) }
       :: REASK && ((!o0 && !ONCE_MORE(0)) || (!o1 && !ONCE_MORE(1))) -> goto next
       fi;
#endif
       if
       :: atomic { rule == 5 && !again ->               /* twice */
            again = 1; answered = 0;
            if
            :: conn[db_worker] && proc[db_worker] == UP && net[db_worker] && !BLOCKED(db_worker) && !has[db_worker] &&
               !socket[db_worker] && !OVER(db_worker) -> goto evidence
            :: else -> goto next
            fi }
       :: else
       fi;
       if
       :: atomic { BACKEND && RULE1 == 1 && stored -> db_ended = 1; goto next }
       :: else
       fi;
       atomic {                         /* the verdict's transaction */
         if
         :: (RECHECK && moved) || db_ended || reconnected || (RECHECK_LIFE && rule == 2 && !OVER(db_worker)) -> goto next
         :: else ->
            assert(!ALIVE || !CHECK_ALIVE);
            assert(!END_LATE || !CHECK_LATE);
            assert(!stored);            /* a stored result is the truth */
            lost = 1
         fi }
       goto next;
end_found: if
       :: !PAUSE || !ready              /* workers that have room take what was given back before it is read again */
       fi;
next:  rule = 0
  od
}

init {
  atomic {
    ready = 1; proc[0] = UP; conn[0] = 1; net[0] = 1; net[1] = 1;
    if :: !SAME_NAME -> proc[1] = UP; conn[1] = 1 :: else fi;
    run Worker(0); run Worker(1); run Listener(); run Rescuer()
  }
}

#ifdef LIVE
bit tick; active proctype Idle() { do :: tick = 1 - tick od }     /* so that standing still is an endless run, too */
/* Every run ends, or is judged. */
ltl every_run_ends { <> (db_ended || lost) }
#endif
