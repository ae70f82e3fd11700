/* leaving.pml: is a life over that said that it shuts down? Rule 2c of "Lost runs".
 *
 * One life executes runs, says worker-offline with the number n of those, and goes on. Run 0 is X, whose start is recorded
 * once X executes. A run that was handed to the pool may begin after worker-offline. The life is over when enough ends
 * that it signed after worker-offline are recorded. Its events are recorded in any order.
 * Two assertions at each verdict "lost" on X: the life does not execute X, and no end of X is on its way. Live: if X ended
 * without an event, the last of the others decides.
 */

/* ---- parameters ------------------------------------------------------------------------------------------------- */
#ifndef TWICE
#define TWICE 1         /* a run may send two ends (a hard time limit): 1 in one step, 2 at any two moments */
#endif
#ifndef OTHERS
#define OTHERS 1        /* late acks: another life sends an end of the same run */
#endif
#ifndef LOSE
#define LOSE 0          /* so many events are lost: starts, ends and worker-offline */
#endif
#ifndef LOSE_STARTS
#define LOSE_STARTS 0   /* ... starts after worker-offline as well */
#endif
#ifndef THREADS
#define THREADS 0       /* a pool of threads: a run is no longer counted as executing before its end is sent */
#endif

/* ---- the rule ---------------------------------------------------------------------------------------------------- */
#ifndef DISTINCT
#define DISTINCT 1      /* each run counts once */
#endif
#ifndef OWN
#define OWN 1           /* only ends that this life signed count */
#endif
#ifndef BY_CLOCK
#define BY_CLOCK 1      /* after worker-offline by the life's own clock: 1; by arrival: 0 */
#endif
#ifndef STARTS
#define STARTS 1        /* a run that began after worker-offline must end as well */
#endif
#ifndef UNCOUNTED
#define UNCOUNTED 1     /* if such a start is recorded before worker-offline, nothing is counted */
#endif
#ifndef MARK
#define MARK 1          /* what was sent before the evidence is recorded before the verdict */
#endif
#ifndef RECHECK
#define RECHECK 1       /* the verdict's transaction looks at run and life again */
#endif

#ifdef LIVE
#define ORDERED 1       /* what overtakes worker-offline is not counted, so that nothing is found before leaving_seconds */
#else
#define ORDERED 0
#endif

#define RUNS 3
#define X 0
/* where a run is */
#define NONE 0
#define HANDED 1        /* to the pool, which has not begun it */
#define RUNNING 2
#define ENDING 3        /* not counted any more, its end not sent */
#define DONE 4

byte run_is[RUNS];
bit left;
byte n;
/* events on their way, by run: starts after worker-offline; ends before it, after it, of another life */
byte starts[RUNS], early[RUNS], late[RUNS], foreign[RUNS];
bit offline;
bit old_starts[RUNS], old_early[RUNS], old_late[RUNS], old_offline; /* sent before the evidence */
byte losses = LOSE;
bit twice[RUNS], others[RUNS];
/* the database */
bit db_offline, uncounted, x_started, x_ended, lost;
bit moved;              /* a start of the life was recorded since the evidence */
byte db_n, db_starts, db_ends;
bit db_ended[RUNS];

inline ends(r, copies) {
  if
  :: left -> late[r] = late[r] + copies
  :: else -> early[r] = early[r] + copies
  fi }

proctype Life() {
end:
  do
  :: atomic { !left ->                                  /* warm shutdown: worker-offline with active = n */
       left = 1; n = (run_is[0] == RUNNING) + (run_is[1] == RUNNING) + (run_is[2] == RUNNING); offline = 1 }
#define STEPS(r) \
  :: atomic { run_is[r] == HANDED -> run_is[r] = RUNNING; \
       if :: left -> starts[r] = 1 :: else -> if :: r == X -> x_started = 1 :: else fi fi } \
  :: atomic { run_is[r] == RUNNING && !THREADS -> run_is[r] = DONE; \
       if :: ends(r, 1) :: TWICE == 1 && r == 1 -> ends(r, 2) fi } \
  :: atomic { run_is[r] == RUNNING && THREADS -> run_is[r] = ENDING } \
  :: atomic { run_is[r] == ENDING -> run_is[r] = DONE; ends(r, 1) } \
  :: atomic { run_is[r] == DONE && TWICE == 2 && !twice[r] && r == 1 -> twice[r] = 1; ends(r, 1) } \
  :: atomic { run_is[r] != NONE && OTHERS && !others[r] && r == 1 -> others[r] = 1; foreign[r] = 1 }
  STEPS(0) STEPS(1) STEPS(2)
  od
}

inline count(r) {
  if
  :: !DISTINCT -> db_ends++
  :: DISTINCT && !db_ended[r] -> db_ended[r] = 1; db_ends++
  :: else
  fi }

proctype Listener() {
end:
  do
  :: atomic { offline -> offline = 0; old_offline = 0; db_offline = 1; db_n = n }
  :: atomic { offline && losses > 0 -> losses--; offline = 0; old_offline = 0 }
#define RECORD(r) \
  :: atomic { starts[r] -> starts[r] = 0; old_starts[r] = 0; moved = 1; \
       if :: r == X -> x_started = 1 :: else fi; \
       if :: db_offline -> db_starts++ :: else -> uncounted = UNCOUNTED fi } \
  :: atomic { starts[r] && losses > 0 && LOSE_STARTS -> losses--; starts[r] = 0; old_starts[r] = 0 } \
  :: atomic { early[r] -> early[r]--; old_early[r] = 0; \
       if :: r == X -> x_ended = 1 :: else fi; \
       if :: db_offline && !BY_CLOCK -> count(r) :: else fi } \
  :: atomic { early[r] && losses > 0 -> losses--; early[r]--; old_early[r] = 0 } \
  :: atomic { late[r] && !(ORDERED && offline) -> late[r]--; old_late[r] = 0; \
       if :: r == X -> x_ended = 1 :: else fi; \
       if :: db_offline -> count(r) :: else fi } \
  :: atomic { late[r] && losses > 0 -> losses--; late[r]--; old_late[r] = 0 } \
  :: atomic { foreign[r] -> foreign[r] = 0; \
       if :: db_offline && !OWN -> count(r) :: else fi }
  RECORD(0) RECORD(1) RECORD(2)
  od
}

#define OVER (db_offline && !uncounted && db_ends >= db_n + (STARTS -> db_starts : 0))
#define OLD(r) (old_starts[r] || old_early[r] || old_late[r])

proctype Rescuer() {
end:
  do
  :: x_ended || lost -> break
  :: atomic { OVER && x_started && !x_ended && !lost ->
       moved = 0; old_offline = offline;
       old_starts[0] = (starts[0] > 0); old_early[0] = (early[0] > 0); old_late[0] = (late[0] > 0);
       old_starts[1] = (starts[1] > 0); old_early[1] = (early[1] > 0); old_late[1] = (late[1] > 0);
       old_starts[2] = (starts[2] > 0); old_early[2] = (early[2] > 0); old_late[2] = (late[2] > 0) }
end_mark:
     if
     :: atomic { !MARK || !(OLD(0) || OLD(1) || OLD(2) || old_offline) }
     fi;
     atomic {
       if
       :: RECHECK && (x_ended || moved)
       :: else ->
          assert(run_is[X] == DONE);                    /* it does not execute X */
          assert(!early[X] && !late[X] || x_ended);     /* no end of X is on its way */
          lost = 1
       fi }
  od
}

init {
  atomic {
#ifdef LIVE
    run_is[X] = DONE; x_started = 1;                    /* its end was lost */
    run_is[1] = RUNNING;
#else
    if
    :: run_is[X] = RUNNING; x_started = 1
    :: run_is[X] = HANDED
    :: run_is[X] = DONE; x_started = 1
    fi;
    if :: run_is[1] = RUNNING :: run_is[1] = HANDED fi;
    if :: run_is[2] = RUNNING :: run_is[2] = HANDED :: run_is[2] = NONE fi;
#endif
    run Life(); run Listener(); run Rescuer()
  }
}

#ifdef LIVE
bit tick; active proctype Idle() { do :: tick = 1 - tick od }     /* so that standing still is an endless run, too */
ltl x_is_judged { <> (x_ended || lost) }
#endif
