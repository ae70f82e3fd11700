/* move.pml: the event queue moves to a new name, since its arguments can't change.
 *
 * Two listeners of the new version start, one may stand by; a listener of the old version may still be at work. Workers send
 * two events at any time, and the rescuer sends a mark into the new queue. Properties: no event is lost; when the mark is
 * recorded, every event that was sent before it is recorded; live: the queue moves and the mark passes.
 */

/* ---- parameters ------------------------------------------------------------------------------------------------- */
#ifndef ORDER
#define ORDER 1
/* 1  bind the new queue, unbind the old one, read it to its end, delete it, then consume the new one
   2  unbind the old queue first, then bind the new one
   3  1, but the new queue is consumed from the beginning */
#endif
#ifndef DIES
#define DIES 1          /* a listener dies; the broker finds out later */
#endif
#ifndef LOCK
#define LOCK 1          /* one listener moves the queue at a time: a session advisory lock in PostgreSQL */
#endif
#ifndef ALONE
#define ALONE 1         /* the old queue is deleted when nothing is ready and it has no consumer but the one that deletes it; 0: when
                           nothing is ready */
#endif
#ifndef OLD
#define OLD 0           /* a listener of the old version runs: it declares and binds the old queue when it connects; 1: once; 2: again
                           when it has died */
#endif
#ifndef MARK_WAITS
#define MARK_WAITS 0    /* the rescuer sends no mark while the old queue exists */
#endif
#ifndef CANCEL
#define CANCEL 0        /* the old listener stops by a cancel, with messages in hand */
#endif

#define L 3             /* listeners: 0 and 1 new, 2 old */
#define NONE 0
#define READY 1
#define AT(l) (2+(l))
#define M 2             /* the mark */

byte in_old[2], in_new[3];          /* where the copy of an event is */
bit  sent[2], recorded[3];
bit  holds[6];                      /* holds[l*2+e]: the process has read e and will record it */
bit  old_exists = 1, old_bound = 1, new_bound, new_exists;
bit  up[L], conn[L], consumes[L];   /* process, connection as the broker sees it, consumer of the old queue */
byte lock = L;                      /* who holds it; L: nobody */
byte single = L;                    /* the active consumer of the new queue */
byte dies = DIES;
bit  owed[2];                       /* sent before the mark */
hidden byte i;

#define HELD(e) (up[0] && holds[e] || up[1] && holds[2+e] || up[2] && holds[4+e])
#define LOST(e) (sent[e] && !recorded[e] && in_old[e] == NONE && in_new[e] == NONE && !HELD(e))
#define NOTHING_LOST assert(!LOST(0) && !LOST(1))
#define OTHERS(l) (consumes[0] + consumes[1] + consumes[2] > consumes[l])

inline delete_old() { d_step { old_exists = 0; old_bound = 0; in_old[0] = NONE; in_old[1] = NONE; consumes[0] = 0; consumes[1] = 0;
  consumes[2] = 0; NOTHING_LOST } }

/* Reading the old queue: deliver; read, commit, acknowledge. */
#define TAKE(l, e)   :: atomic { up[l] && consumes[l] && in_old[e] == READY -> in_old[e] = AT(l); holds[(l)*2+e] = 1 }
#define WRITE(l, e)  :: atomic { up[l] && holds[(l)*2+e] -> holds[(l)*2+e] = 0; recorded[e] = 1; \
                          if :: in_old[e] == AT(l) && conn[l] -> in_old[e] = NONE :: else fi }

proctype New(byte l) {
start:
end:
  atomic { !up[l] && !conn[l] && lock != l -> up[l] = 1; conn[l] = 1 }
#if LOCK
end_lock:
  do
  :: atomic { !up[l] -> goto start }
  :: atomic { up[l] && lock == L -> lock = l; break }
  od;
#endif
  if
  :: ORDER == 2 && up[l] -> old_bound = 0; if :: atomic { up[l] -> new_exists = 1; new_bound = 1 } :: !up[l] fi
  :: ORDER != 2 && up[l] -> atomic { new_exists = 1; new_bound = 1 }; if :: atomic { up[l] -> old_bound = 0 } :: !up[l] fi
  :: !up[l]
  fi;
  atomic { if :: up[l] && old_exists -> consumes[l] = 1 :: else fi };
#if ORDER == 3
  goto both;
#endif
end_read:
  do
  :: atomic { !up[l] -> goto start }
  TAKE(l, 0) TAKE(l, 1)
  WRITE(l, 0) WRITE(l, 1)
  :: atomic { up[l] && old_exists && in_old[0] != READY && in_old[1] != READY && !holds[l*2] && !holds[l*2+1] &&
              (!ALONE || !OTHERS(l)) && !old_bound -> delete_old(); break }
  :: atomic { up[l] && !old_exists && !holds[l*2] && !holds[l*2+1] -> break }   /* 404: somebody else did */
  od;
both:
  atomic { if :: lock == l && up[l] -> lock = L :: else fi };
end_new:
  do
  :: atomic { !up[l] -> goto start }
#if ORDER == 3
  TAKE(l, 0) TAKE(l, 1)
  WRITE(l, 0) WRITE(l, 1)
#endif
  :: atomic { up[l] && conn[l] && single == L -> single = l }
  /* The single active consumer records in order: events, then the mark. */
  :: atomic { up[l] && single == l && in_new[0] == READY -> in_new[0] = NONE; recorded[0] = 1 }
  :: atomic { up[l] && single == l && in_new[1] == READY -> in_new[1] = NONE; recorded[1] = 1 }
  :: atomic { up[l] && single == l && in_new[M] == READY && !(in_new[0] == READY && owed[0]) && !(in_new[1] == READY && owed[1]) ->
       in_new[M] = NONE; recorded[M] = 1;
       assert((!owed[0] || recorded[0]) && (!owed[1] || recorded[1])) }
  od
}

proctype Old() {                    /* listener 2 */
  bit seen;
start:
end:
  atomic { !up[2] && !conn[2] && !(OLD == 1 && seen) -> seen = 1; up[2] = 1; conn[2] = 1; old_exists = 1; old_bound = 1; consumes[2] = 1 }
end_read:
  do
  :: atomic { !up[2] -> goto start }
  TAKE(2, 0) TAKE(2, 1)
  WRITE(2, 0) WRITE(2, 1)
  :: atomic { CANCEL && up[2] && consumes[2] -> consumes[2] = 0 }
  od
}

#define BACK(l, e) if :: in_old[e] == AT(l) -> in_old[e] = READY :: else fi; holds[(l)*2+e] = 0
proctype Faults() {
  byte l;
end:
  do
  :: atomic { dies > 0 -> (up[0] || up[1] || up[2]) ->
       if :: up[0] -> l = 0 :: up[1] -> l = 1 :: up[2] -> l = 2 fi;
       dies--; up[l] = 0; holds[l*2] = 0; holds[l*2+1] = 0; NOTHING_LOST; l = 0 }
#define NOTICE(y) \
  :: atomic { !up[y] && lock == y -> lock = L } \
  :: atomic { !up[y] && conn[y] -> conn[y] = 0; consumes[y] = 0; if :: single == y -> single = L :: else fi; BACK(y, 0); BACK(y, 1) }
  NOTICE(0) NOTICE(1) NOTICE(2)
  od
}

proctype Workers() {
end:
  do
#define SEND(e) \
  :: atomic { !sent[e] -> sent[e] = 1; if :: old_bound -> in_old[e] = READY :: else fi; \
       if :: new_bound -> in_new[e] = READY :: else fi; NOTHING_LOST }
  SEND(0) SEND(1)
  od
}

proctype Rescuer() {
end:
  atomic { new_exists && (!MARK_WAITS || !old_exists) -> in_new[M] = READY; owed[0] = sent[0]; owed[1] = sent[1] }
}

init { atomic {
  if :: OLD -> run Old() :: else fi;
  run New(0); run New(1); run Faults(); run Workers(); run Rescuer()
} }

#ifdef LIVE
bit tick; active proctype Idle() { do :: tick = 1 - tick od }     /* so that standing still is an endless run, too */
ltl the_mark_passes { <> recorded[2] }
#endif
