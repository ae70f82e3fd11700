/* audit.pml: the event-loss audit. Are all executions that a life has begun known by their task-started?
 *
 * One life sends task-started (one for each execution that it begins) and heartbeats. Its Lamport clock counts both. A
 * heartbeat says how many executions were begun before it. Starts wait in the worker's buffer, then in the event queue, and
 * are recorded in order. Heartbeats go through a queue of their own, overtake starts, and may be lost. The audit takes the
 * first heartbeat as its base and compares a later one with the starts between the two clocks.
 * Properties: what the audit finds missing is what was lost, exactly (assertion); live: the last start is audited.
 */

/* ---- parameters ------------------------------------------------------------------------------------------------- */
#ifndef STARTS
#define STARTS 2
#endif
#ifndef BEATS
#define BEATS 4         /* heartbeats; the last two come after the last start */
#endif
#ifndef DROPS
#define DROPS 1         /* starts that are lost on their way */
#endif
#ifndef KILLS
#define KILLS 0         /* the listener dies between its commit and its acknowledgement: delivered again */
#endif
#ifndef COPIES
#define COPIES 0        /* a start is in the queue twice: a sender that sends again */
#endif
#ifndef LOST_BEATS
#define LOST_BEATS 0
#endif
#ifndef STOPS
#define STOPS 0         /* the worker is frozen or cut off: it sends nothing for a while, longer than a flush interval */
#endif
#ifndef THREADS
#define THREADS 0       /* a pool of threads: an execution is counted in one step, its start is sent in another */
#endif
#ifndef AT_REST
#define AT_REST 1       /* ... and only heartbeats with active = 0 count: 1; only the base may have others: 2; all count: 0 */
#endif
#ifndef INVERTED
#define INVERTED 0      /* starts leave the worker in another order than that of their clocks (threads) */
#endif
#ifndef LATE
#define LATE 0          /* the event queue is bound when the life is already at work. 1: before the queue of heartbeats; 2: after it */
#endif
#ifndef MOVE
#define MOVE 0          /* the event queue moves to a new name: 1: the old one is read to its end, then the new one; 2: both at a time */
#endif
#ifndef BASE
#define BASE 1          /* the count begins with the first heartbeat; 0: with the life's birth */
#endif
#ifndef BY_CLOCK
#define BY_CLOCK 1      /* starts below the heartbeat's clock are counted; 0: those that came before it */
#endif
#ifndef COUNT
#define COUNT 1         /* 1: distinct clocks, kept since the base; 2: two numbers, a start counts if its clock is above the highest one
                           so far, and a heartbeat that comes behind such a start is not compared; 3: 2, but it is; 0: every copy */
#endif
#ifndef WHEN
#define WHEN 2
/* 1  what is missing at two successive heartbeats, as they come
   2  the first of two successive heartbeats, when a mark has passed that was put after the second one
   3  a heartbeat, when a mark has passed that was put after a flush interval
   4  a heartbeat, when a start with a higher clock has been recorded */
#endif

#define LAST (STARTS + BEATS + 1)
#define BIT(c) (1 << (c))
#define BELOW(c) (BIT(c) - 1)
#define BETWEEN(a, c) (BELOW(c) & ~(BIT(a) | BELOW(a)))

byte clock, begun, between;         /* the life: between: counted and not sent yet (threads) */
byte beats = BEATS, drops = DROPS, kills = KILLS, copies = COPIES, lost_beats = LOST_BEATS, stops = STOPS;
bit  stopped;
int  buffer, old, new, twice;       /* sets of clocks: in the worker, in the event queue, in the new one, copies */
bit  bound_old = !LATE, bound_new;
int  lost;                          /* dropped though a queue was bound */
byte last_beat;                     /* clock of the last heartbeat sent */
byte beat, beat_count; bit beat_rest;                   /* a heartbeat in its queue; 0: none */
int  known;                         /* recorded clocks */
byte known_count, highest, high_count, beyond;
bit  based; byte base, base_count, base_known;
byte first, first_count, first_missing;                 /* the heartbeat before */
byte next, next_count;
bit  mark;                          /* a mark is in the queue, behind what was there */
int  before_mark;
bit  audited;                       /* all starts were audited */
hidden byte i, n, truth;

inline size(set) { n = 0; for (i : 1 .. LAST) { if :: (set) & BIT(i) -> n++ :: else fi } i = 0 }
inline put(c) {
  if :: bound_old -> old = old | BIT(c) :: else fi;
  if :: bound_new -> new = new | BIT(c) :: else fi
}
inline flush() { d_step {
  for (i : 1 .. LAST) { if :: buffer & BIT(i) -> put(i) :: else fi }
  buffer = 0; i = 0
} }

proctype Worker() {
end:
  do
  :: atomic { !stopped && !THREADS && begun < STARTS -> clock++; begun++; buffer = buffer | BIT(clock) }
  :: atomic { !stopped && THREADS && begun < STARTS -> begun++; between++ }
  :: atomic { !stopped && between -> between--; clock++; buffer = buffer | BIT(clock) }
  :: atomic { !stopped && buffer -> flush() }
  /* A heartbeat. What was in the buffer at the one before has been sent since. */
  :: atomic { !stopped && beats > 0 && (beats > 2 || begun == STARTS && !between) && beat == 0 && !(buffer & BELOW(last_beat)) ->
       beats--; clock++; last_beat = clock;
       if
       :: lost_beats > 0 && beats > 1 -> lost_beats--
       :: LATE == 1 && !bound_old
       :: !(LATE == 1 && !bound_old) -> beat = clock; beat_count = begun; beat_rest = !between
       fi }
  :: atomic { stops > 0 && !stopped -> stops--; stopped = 1 }
  :: atomic { stopped -> stopped = 0 }
  od
}

proctype Broker() {
end:
  do
  :: atomic { drops > 0 && buffer -> drops--;
       for (i : 1 .. LAST) { if :: buffer & BIT(i) -> n = i :: else fi }
       buffer = buffer & ~BIT(n);
       if :: bound_old || bound_new -> lost = lost | BIT(n) :: else fi; i = 0; n = 0 }
  :: atomic { copies > 0 && old && !twice -> copies--; twice = old }
  :: atomic { LATE && !bound_old && !MOVE -> bound_old = 1 }
  :: atomic { MOVE && bound_old && !bound_new -> bound_new = 1 }
  :: atomic { MOVE && bound_old && bound_new -> bound_old = 0 }
  od
}

inline record(set) { d_step {       /* the oldest message of a queue */
  n = 0;
  for (i : 1 .. LAST) { if :: (n == 0 || INVERTED) && (set & BIT(i)) -> n = i :: else fi }
  known = known | BIT(n); known_count++;
  if
  :: n > highest && first && n > first -> highest = n; beyond++
  :: n > highest && !(first && n > first) -> highest = n; high_count++
  :: else
  fi;
  if
  :: kills > 0 && n % 2 -> kills--              /* it comes again */
  :: else -> set = set & ~BIT(n); before_mark = before_mark & ~BIT(n)
  fi;
  i = 0; n = 0
} }

proctype Listener() {
end:
  do
  :: atomic { old -> record(old) }
  :: atomic { new && (MOVE == 2 || !old && !bound_old) -> record(new) }
  :: atomic { twice -> record(twice) }
  od
}

/* What the audit finds missing of a heartbeat with clock c that said k executions. */
inline missing(c, k, result) { d_step {
#if !BY_CLOCK
  n = known_count - base_known;
#elif COUNT == 1
  size(known & BETWEEN(base, c));
#elif COUNT >= 2
  n = high_count - base_known;
#else
  n = known_count - base_known;
#endif
  result = (k - base_count > n -> k - base_count - n : 0);
  n = 0
} }
inline judge(c, k, result) { d_step {
  size(lost & BETWEEN(base, c)); truth = n; n = 0;
  assert(result == truth);
  if :: k == STARTS -> audited = 1 :: else fi;
  truth = 0
} }

proctype Audit() {
  byte found;
end:
  do
  :: atomic { beat && COUNT == 2 && highest > beat -> beat = 0 }
  :: atomic { beat && !based && !(COUNT == 2 && highest > beat) && (!THREADS || AT_REST != 1 || beat_rest) ->
       based = 1;
       if :: BASE -> base = beat; base_count = beat_count :: else fi;
       if
       :: BASE && COUNT >= 2 -> if :: highest < base -> highest = base :: else fi; base_known = high_count
       :: BASE && COUNT == 0 -> base_known = known_count
       :: BASE && COUNT == 1 && !BY_CLOCK -> base_known = known_count
       :: else
       fi;
       if :: base_count == STARTS -> audited = 1 :: else fi;    /* nothing is left to audit */
       beat = 0 }
  :: atomic { beat && THREADS && !beat_rest && (AT_REST == 1 || AT_REST == 2 && based) -> beat = 0 }
#if WHEN == 1
  :: atomic { beat && based && !(THREADS && AT_REST && !beat_rest) && !(COUNT == 2 && highest > beat) ->
       missing(beat, beat_count, found);
       if
       :: first && first_missing && found -> judge(beat, beat_count, found)
       :: else -> if :: beat_count == STARTS && !found -> audited = 1 :: else fi
       fi;
       first = beat; first_missing = found; found = 0; beat = 0 }
#else
  :: atomic { beat && based && !(THREADS && AT_REST && !beat_rest) && !(COUNT == 2 && highest > beat) && !mark ->
       if
       :: first == 0 || WHEN == 4 -> first = beat; first_count = beat_count
       :: first && WHEN != 4 -> mark = 1; next = beat; next_count = beat_count
       fi;
#if WHEN == 2
       if :: mark -> before_mark = (MOVE == 2 -> new : old | new | twice) :: else fi;
#endif
       beat = 0 }
#if WHEN == 3
  :: atomic { first && !mark -> mark = 1; before_mark = old | new | twice }     /* a flush interval later */
#endif
#if WHEN == 4
  :: atomic { first && highest > first -> missing(first, first_count, found); judge(first, first_count, found);
       found = 0; first = 0; first_count = 0 }
#else
  :: atomic { mark && !before_mark ->                           /* the mark has passed */
       missing(first, first_count, found); judge(first, first_count, found);
       found = 0; mark = 0; first = next; first_count = next_count; next = 0; next_count = 0;
       if
       :: COUNT == 2 && first && highest > first -> first = 0; first_count = 0
       :: else
       fi;
       high_count = high_count + beyond; beyond = 0 }
#endif
#endif
  od
}

init { atomic { run Worker(); run Broker(); run Listener(); run Audit() } }

#ifdef LIVE
bit tick; active proctype Idle() { do :: tick = 1 - tick od }     /* so that standing still is an endless run, too */
ltl all_starts_are_audited { <> audited }
#endif
