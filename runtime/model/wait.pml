/* The ticket word of wait.c: one wait, many wakers, one winner.
 *
 * Bound: one G that opens ROUNDS waits one after the other, each with a deadline (past already, or one
 * step ahead) or without; its timer. CONF=1: two waits, two wakers with one call each of rt_wake, for
 * the latest ticket or the one before. CONF=2: three waits, one waker, one rt_interrupt.
 *
 * Checked: exactly one waker wins a ticket and it closes that one; the G is readied only while it
 * waits; it gets the winner's code; RT_TIMEOUT only when the deadline of this very wait has come; at
 * the end a G that is still parked was woken by nobody and has no deadline that has come.
 */
#ifndef CONF
#define CONF 1
#endif
#define ROUNDS (CONF + 1)
#define END 2

mtype = { CLOSED, OPEN, PARKED };        /* phases */
mtype = { NONE, WOKEN, CANCELED, TIMEOUT }; /* codes */
mtype = { RUNNING, WAITING, RUNNABLE };  /* g->status */

/* The word: changed and read in one step. */
byte ticket;
mtype phase = CLOSED;
mtype code = NONE;

mtype status = RUNNING;
byte until;               /* g->timer.until: 0 or a time */
bit armed;                /* the timer holds a setting that has not fired */
byte now = 1;             /* rt_nanotime */
byte winners[ROUNDS + 1]; /* ghost: who closed each ticket */
mtype won[ROUNDS + 1];    /* ghost: with what */

/* rt_ready: g_set_status throws at a state that is not waiting */
inline rt_ready() {
    atomic { assert(status == WAITING); status = RUNNABLE }
}

/* close_wait(g, w, c): w is wt, wp. want: the ticket of rt_wake, 0 in others */
inline close_wait(c, want) {
    do
    :: wp == CLOSED -> break
    :: else ->
#ifdef MUTATE_6 /* closes by a store */
        atomic { ticket = wt; phase = CLOSED; code = c; ok = 1 }
#else
        atomic {
            if
            :: ticket == wt && phase == wp -> phase = CLOSED; code = c; ok = 1
            :: else -> ok = 0
            fi;
#endif
            if
            :: ok -> winners[wt]++; won[wt] = c;
                assert(winners[wt] == 1 && (want == 0 || want == wt))
            :: else
            fi
#ifndef MUTATE_6
        }
#endif
        if
#ifdef MUTATE_3 /* readies the G of an open wait too */
        :: ok -> rt_ready(); break
#else
        :: ok && wp == PARKED -> rt_ready(); break
        :: ok && wp == OPEN -> break
#endif
        :: !ok && ticket != wt -> break /* the CAS brought the word that stands there now */
        :: !ok && ticket == wt -> wp = phase
        fi
    od;
    atomic { ok = 0; wp = CLOSED; wt = 0 }
}

#define LOAD_W atomic { wt = ticket; wp = phase }

active proctype G() {
    byte r = 0, dl = 0;
    mtype seen = NONE;
    do
    :: r == ROUNDS -> break
    :: r < ROUNDS ->
        r++;
        atomic { assert(phase == CLOSED); ticket++; phase = OPEN; code = NONE } /* rt_wait_open */
        /* rt_set_wait: rt_set_deadline, rt_set_park */
        if
        :: dl = 0
        :: dl = now; until = dl; armed = 1 /* past already */
        :: dl = now + 1; until = dl; armed = 1
        fi;
        /* g_leave, finish_step, commit_wait */
#ifdef MUTATE_5 /* commits before the state is waiting */
        atomic { seen = phase; if :: phase == OPEN -> phase = PARKED :: else fi }
        atomic { status = WAITING }
#else
        atomic { status = WAITING }
        seen = phase;
#ifdef MUTATE_1 /* parks by a store instead of a CAS */
        if
        :: seen == OPEN -> phase = PARKED
        :: else
        fi;
#else
        atomic {
            if
            :: seen == OPEN && phase == OPEN -> phase = PARKED
            :: else -> seen = CLOSED
            fi
        }
#endif
#endif
end_parked:
        if
        :: atomic { seen == OPEN && status == RUNNABLE -> status = RUNNING }
        :: atomic { seen == CLOSED -> assert(status == WAITING); status = RUNNING }
        fi;
        /* rt_wait_code */
        atomic {
            assert(phase == CLOSED && winners[ticket] == 1 && code == won[ticket]);
            assert(code != TIMEOUT || (dl != 0 && dl <= now));
            seen = NONE
        }
        if
        :: until != 0 -> until = 0
        :: else
        fi
    od
}

proctype waker() {
    byte n = 0, mine = 0, wt = 0;
    mtype wp = CLOSED;
    bit ok = 0;
    do
    :: n == 1 -> break
    :: n < 1 && ticket > 0 -> n++;
        atomic { /* a ticket that it was given at some time */
            if
            :: mine = ticket
            :: ticket > 1 -> mine = ticket - 1
            fi
        }
        /* rt_wake */
        LOAD_W;
        if
#ifdef MUTATE_2 /* rt_wake without comparing the ticket */
        :: true -> close_wait(WOKEN, mine)
#else
        :: wt == mine -> close_wait(WOKEN, mine)
        :: wt != mine -> atomic { wt = 0; wp = CLOSED }
#endif
        fi;
        mine = 0
    od
}

proctype interrupter() {
    byte wt = 0;
    mtype wp = CLOSED;
    bit ok = 0;
    LOAD_W;
    close_wait(CANCELED, 0)
}

inline wait_deadline() {
#ifdef MUTATE_4 /* asks the timer before it reads the word */
    due = until != 0 && until <= now;
    LOAD_W;
#else
    LOAD_W;
    due = until != 0 && until <= now;
#endif
    if
    :: due -> due = 0; close_wait(TIMEOUT, 0)
    :: else -> atomic { wt = 0; wp = CLOSED }
    fi
}

/* timers_run: one call for each setting whose time has come, begun after it was set. */
active proctype timer() {
    byte wt = 0;
    mtype wp = CLOSED;
    bit ok = 0, due = 0;
end:
    do
    :: atomic { armed && until != 0 && until <= now -> armed = 0 }
        wait_deadline()
    od
}

active proctype clock() {
    do
    :: now < END -> now++
    :: now == END -> break
    od
}

active proctype watch() {
    timeout;
    assert(phase == CLOSED -> status == RUNNING :
        (status == WAITING && winners[ticket] == 0 && (until == 0 || until > now)))
}

init {
    atomic {
        run waker();
#if CONF == 1
        run waker()
#else
        run interrupter()
#endif
    }
}
