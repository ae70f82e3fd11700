/* record.pml: what an end does to its run and task, whoever applies it, in whatever order; locks.
 *
 * One oneshot task with RETRIES retries. Each run's true story: it succeeds or fails; the database hears of it by up to two
 * events (task-succeeded or task-failed, and task-result), each perhaps twice, in any order, or not at all; a rescuer may
 * judge an open run lost. Two listeners and two rescuers apply ends through one statement, a runner opens the next run when
 * the task is due, an operator may disable the task. Steps of the statement: lock tasks in order of id, lock runs, look,
 * write, commit.
 */

/* ---- parameters ------------------------------------------------------------------------------------------------- */
#ifndef RUNS
#define RUNS 2
#endif
#ifndef RETRIES
#define RETRIES 1
#endif
#ifndef DISABLE
#define DISABLE 0       /* an operator disables the task (which clears task.run_id) */
#endif
#ifndef RECHECK
#define RECHECK 1       /* a verdict looks at the run again under the lock */
#endif
#ifndef SAVED
#define SAVED 1         /* a correction computes from what the first end saved; 0: from the moved values */
#endif
#ifndef FOLLOWS
#define FOLLOWS 1       /* an end moves its task only where task.run_id is that run */
#endif
#ifndef RANKS
#define RANKS 1         /* of two ends the higher evidence stays; 0: the last one */
#endif
#ifndef ACK_FIRST
#define ACK_FIRST 0     /* the listener acknowledges before it commits */
#endif
#ifndef LOST_EVENTS
#define LOST_EVENTS 0   /* the broker may lose events */
#endif
#ifndef KILL
#define KILL 1          /* a listener dies between commit and acknowledgement (or before commit): the event comes again */
#endif

#ifndef BACKEND
#define BACKEND 0       /* rule 1: a rescuer may read the result that a result backend has, from the end of the execution on */
#endif
#ifndef CONTRADICT
#define CONTRADICT 0    /* the stock event says the opposite of the result (a second execution, a hard time limit) */
#endif
#ifndef WITHDRAW
#define WITHDRAW 0      /* the run of a disabled task is not sent again and ends as failed, with this evidence, though it was sent before */
#endif

#define DUE 0
#define FLIGHT 1
#define COMPLETED 2
#define DISABLED 3
#define SUCCESS 1
#define FAILURE 2
#define LOSS 3
#define NO_RUN 9

byte task = DUE, retries = RETRIES, follows = NO_RUN;
bit  by_operator;
byte runs;                          /* opened so far */
byte outcome[RUNS], rank[RUNS];     /* of the run, as the database has it; 0: open */
byte saved[RUNS];                   /* retries before its first end; 9: none */
byte truth[RUNS];                   /* SUCCESS or FAILURE: what it really does */
byte copies[2*RUNS];                /* events on their way: 2r: stock event, 2r+1: task-result */
bit  applied[2*RUNS];               /* committed at least once */
bit  gone[2*RUNS];                  /* acknowledged */
bit  told[RUNS];                    /* its events were sent */
byte moves[RUNS];                   /* how often a failure of that run has taken a retry, net of corrections */
bit  by_result[RUNS];               /* a result was applied */
byte kills = KILL, operators = DISABLE;
bit  lock_task;

/* The statement. Evidence: 4 task-result, 3 failed, 2 succeeded, 1 lost. */
inline apply(r, what, e) { d_step {
  if
  /* The first result is the truth: nothing changes it. */
  :: rank[r] == 0 || (RANKS && e > rank[r]) || (!RANKS && e != rank[r]) ->
     if
     :: (!FOLLOWS || follows == r) && (rank[r] == 0 || saved[r] != 9) &&
        (task != DISABLED || (rank[r] != 0 && !by_operator && (outcome[r] == LOSS || outcome[r] == FAILURE) && saved[r] == 0)) ->
        if :: saved[r] == 9 -> saved[r] = retries :: SAVED && saved[r] != 9 -> retries = saved[r] :: else fi;
        if
        :: what == SUCCESS -> task = COMPLETED
        :: what != SUCCESS && retries > 0 -> retries--; task = DUE
        :: what != SUCCESS && retries == 0 -> task = DISABLED
        fi
     :: else
     fi;
     assert(!by_result[r]);
     if :: e == 4 -> by_result[r] = 1 :: else fi;
     outcome[r] = what; rank[r] = e
  :: else
  fi
} }

proctype Runner() {
end:
  do
  :: atomic { task == DUE && runs < RUNS && !lock_task ->
       assert(runs == 0 || rank[runs-1] != 0);          /* never two open runs of one task */
       task = FLIGHT; follows = runs; saved[runs] = 9;
       if :: truth[runs] = SUCCESS :: truth[runs] = FAILURE fi;
       runs++ }
  :: atomic { WITHDRAW && by_operator && runs > 0 && rank[runs-1] == 0 && !lock_task -> apply(runs-1, FAILURE, WITHDRAW) }
  od
}

/* An event's outcome and its evidence. */
#define SAYS(m) (CONTRADICT && (m) % 2 == 0 -> 3 - truth[(m)/2] : truth[(m)/2])
#define OF(m)   ((m) % 2 -> 4 : (SAYS(m) == FAILURE -> 3 : 2))

proctype Workers() {
end:
  do
  :: atomic { runs > 0 && !told[0] -> told[0] = 1; copies[0] = 1; if :: copies[1] = 1 :: skip fi }
#if RUNS > 1
  :: atomic { runs > 1 && !told[1] -> told[1] = 1; copies[2] = 1; if :: copies[3] = 1 :: skip fi }
#endif
#if LOST_EVENTS
  :: atomic { copies[0] -> copies[0]--; gone[0] = 1 }
#endif
  od
}

proctype Listener() {
  byte m = 99;
end:
  do
  :: atomic { m == 99 && copies[0] -> copies[0]--; m = 0 }
  :: atomic { m == 99 && copies[1] -> copies[1]--; m = 1 }
#if RUNS > 1
  :: atomic { m == 99 && copies[2] -> copies[2]--; m = 2 }
  :: atomic { m == 99 && copies[3] -> copies[3]--; m = 3 }
#endif
#if ACK_FIRST
  :: atomic { m != 99 -> gone[m] = 1 }
     if
     :: atomic { kills > 0 -> kills--; m = 99 }         /* dies before it commits: nothing comes again */
     :: atomic { !lock_task -> apply(m/2, SAYS(m), OF(m)); applied[m] = 1; m = 99 }
     fi
#else
  :: atomic { m != 99 && kills > 0 -> kills--; copies[m]++; m = 99 }
  :: atomic { m != 99 && !lock_task ->
       apply(m/2, SAYS(m), OF(m)); applied[m] = 1 }
     if
     :: atomic { kills > 0 -> kills--; copies[m]++; m = 99 }
     :: atomic { gone[m] = 1; m = 99 }
     fi
#endif
  od
}

proctype Rescuer() {                /* its evidence may be wrong here: any open run may be judged lost */
  byte r;
end:
  do
  :: atomic { runs > 0 && rank[runs-1] == 0 -> r = runs-1 }     /* chosen without a lock */
     atomic { !lock_task ->
       if
       :: RECHECK && rank[r] != 0
       :: else ->
          assert(rank[r] == 0);                         /* a verdict never ends a run that has ended */
          apply(r, LOSS, 1)
       fi; r = 0 }
  :: atomic { BACKEND && runs > 0 && told[runs-1] && !by_result[runs-1] && !lock_task -> apply(runs-1, truth[runs-1], 4) }
  od
}

proctype Operator() {
end:
  do
  :: atomic { operators > 0 && !lock_task -> operators--; task = DISABLED; by_operator = 1; follows = NO_RUN }
  od
}

/* When everything has been heard: the run is what it truly was, and the task is what that makes of it. */
#define STORY(r) (r < runs && told[r] && copies[2*r] == 0 && copies[2*r+1] == 0)
proctype Judge() {
  byte last, want; byte r, left;
end:
  atomic {
    timeout ->                      /* nothing moves any more */
    left = RETRIES; want = DUE;
    for (r : 0 .. RUNS-1) {
      if
      :: r < runs ->
#if !LOST_EVENTS
         assert(outcome[r] == truth[r] || CONTRADICT && !by_result[r])                 /* later evidence corrects a verdict */
#endif
      :: else
      fi
    }
    r = 0;
    last = runs - 1;
    if
    :: by_operator -> assert(task == DISABLED)          /* an operator's word stands */
    :: !by_operator && runs > 0 ->
       /* Earlier runs of the task each took one retry, or none were left; the last one decides. */
       left = RETRIES - (last <= RETRIES -> last : RETRIES);
       if
       :: outcome[last] == SUCCESS -> assert(task == COMPLETED); assert(retries == left)
       :: outcome[last] != SUCCESS && left > 0 -> assert(task == DUE || task == FLIGHT); assert(retries == left - 1)
       :: outcome[last] != SUCCESS && left == 0 -> assert(task == DISABLED); assert(retries == 0)
       fi
    :: else
    fi
  }
}

init {
  atomic {
    saved[0] = 9;
    run Runner(); run Workers(); run Listener(); run Listener(); run Rescuer(); run Rescuer(); run Operator(); run Judge()
  }
}
