/* The words of a pollDesc (netpoll.c): prepare, commit, event, expire, shut, kick, pd_leave.
 *
 * Bound: CONF=1: one G waits at one word; two edges, a deadline in the past set once by somebody else,
 * perhaps one shut; CONF=2: one edge, the deadline, a kick and a deadline of the G itself (wait_deadline,
 * pd_leave); CONF=3: two words and two Gs, of which G 0 goes from word 0 to word 1 while G 1 comes to
 * word 0; an edge at word 0; two deadlines of G 0, the second may be left over from the first.
 * CONF=4, 5, 6: one G that waits for both directions, word 0 is rg, word 1 is wg, or for reading alone, in any
 * order; CONF=4: an edge at each, a deadline of writing; CONF=5: an edge of writing, a kick of writing, a deadline of
 * the G itself; CONF=6: an edge of writing, a deadline of reading, perhaps a shut.
 *
 * G reads until there is nothing, then waits. After a timeout of the pollDesc it clears the deadline
 * and waits again without a read, as a reader may that knows its socket to be drained: rt_pd_check
 * puts back what the wait may have used up. After a deadline of its own it has to read first, as
 * host/net/sock.c does: nobody puts READY back for it (MUTATE_9). A G that waits for both tries only what the answer
 * names, also after its own deadline.
 *
 * Checked: a G is readied only while it waits, and never found at a word where another stands; at
 * the end a G that is still parked has nothing to read, no deadline that has come, no shut, no kick
 * since it began to wait.
 */
#ifndef CONF
#define CONF 1
#endif
#if CONF >= 3
#define NW 2
#else
#define NW 1
#endif

#define NIL 0
#define READY 1
#define WAIT(g) (2 + (g))
#define G0 4
#define WAIT_BOTH 6 /* G 0 + PD_WAIT + PD_BOTH */
#define G_BOTH 7    /* G 0 + PD_BOTH */
#define BOTH 8      /* PD_BOTH */
#define NONE 255

mtype = { RUNNING, WAITING, RUNNABLE, GONE };
mtype = { AGAIN, PARK, TIMEOUT, CLOSED };

byte word[NW];              /* rg */
byte gword[2] = NONE;       /* g->word */
mtype status[2] = RUNNING;
byte at[2];                 /* ghost: the word that G uses */
bit first_left;             /* G 0 has left word 0 for word 1 */
byte data[NW];              /* in the socket */
bit edge[NW];               /* told to epoll, not polled yet */
bit due[NW];                /* the pollDesc's deadline is set and past */
bit gdue[2];                /* the G's own */
bit out[NW] = 1, gout[2] = 1; /* their timers stand in no heap: index is 0 */
bit shut, shut_pend;
bit kicked;                 /* ghost: since G's latest return from a wait */
bit both;                   /* ghost: G 0 waits for both directions */

/* rt_ready; event_ready does the same and leaves the queueing to the poller */
inline ready(g) {
    atomic { assert(status[g] == WAITING); status[g] = RUNNABLE }
}

/* unblock_both(pd), and rt_ready of who was taken out */
inline unblock_both() {
    old = word[0];
    do
#ifdef MUTATE_14 /* leaves a G that is about to wait */
    :: old == WAIT_BOTH -> break
#endif
    :: old != WAIT_BOTH && old != G_BOTH -> break
    :: else ->
        atomic {
            if
#ifdef MUTATE_12 /* takes it out by a store */
            :: true -> word[0] = NIL; ok = 1
#else
            :: word[0] == old -> word[0] = NIL; ok = 1
            :: else -> old = word[0]; ok = 0
#endif
            fi
        }
        if
        :: ok && old == G_BOTH -> ready(0); break
        :: ok && old != G_BOTH -> break
        :: !ok
        fi
    od
}

/* unblock(pd, mode, leave), and rt_ready of who was taken out */
inline unblock(q, leave) {
    old = word[q];
    do
    :: old == READY -> old = NIL; break
    :: old == NIL && leave == NIL -> break
#ifdef MUTATE_5 /* a deadline or shut that finds WAIT leaves it */
    :: (old == WAIT(0) || old == WAIT(1)) && leave == NIL -> old = NIL; break
#endif
    :: else ->
        to = (old == G0 || old == G0 + 1 -> NIL : leave);
#ifdef MUTATE_6 /* an event that nobody waits for is not kept */
        to = NIL;
#endif
#ifdef MUTATE_11 /* an event that takes out a G which waits for both is not kept */
        to = (old == G_BOTH -> NIL : to);
#endif
        atomic {
            if
#ifdef MUTATE_3 /* moves the word by a store */
            :: true -> word[q] = to; ok = 1
#else
            :: word[q] == old -> word[q] = to; ok = 1
            :: else -> old = word[q]; ok = 0
#endif
            fi
        }
        if
        :: ok && (old == G0 || old == G0 + 1) -> ready(old - G0); break
        :: ok && old == G_BOTH -> ready(0); break
        :: ok && old == BOTH -> unblock_both(); break
        :: ok && old < G0 || ok && old == WAIT_BOTH -> break
        :: !ok
        fi
    od;
    atomic { old = NIL; to = 0; ok = 0 }
}

/* rt_pd_check */
inline check(q) {
    if
    :: shut -> r = CLOSED
    :: else ->
        if
        :: due[q] -> r = TIMEOUT;
#ifndef MUTATE_7 /* a timeout does not make the next wait try first */
            atomic {
                if
                :: word[q] == NIL -> word[q] = READY
                :: else
                fi
            }
#endif
        :: else -> r = AGAIN
        fi
    fi
}

/* missed(t) */
inline missed(gone, is_due) {
    if
    :: gone ->
        if
        :: is_due -> r = TIMEOUT
        :: else
        fi
    :: else
    fi
}

/* The look of rt_pd_prepare when WAIT stands there. */
inline look_again(q, g) {
    if
    :: shut -> r = CLOSED
    :: else -> r = AGAIN; missed(out[q], due[q]); missed(gout[g], gdue[g])
    fi
}

proctype G(bit me) {
    byte w = 0, old = 0;
    mtype r = AGAIN;
    if
    :: me == 1 -> first_left /* one reader at a time */
    :: else
    fi;

read:
    if
    :: data[w] > 0 -> data[w]--; goto read
    :: data[w] == 0
    fi;

wait: /* rt_pd_prepare */
    old = word[w];
    if
    :: old == READY ->
        check(w);
        if
        :: r != AGAIN -> goto result
        :: else
        fi;
        atomic { /* CAS READY to NIL */
            if
            :: word[w] == READY -> word[w] = NIL; goto result
            :: else -> old = word[w]
            fi
        }
    :: else
    fi;
    gword[me] = w;
    assert(old == NIL); /* else: two Gs wait */
    atomic { /* CAS NIL to WAIT(me) */
        if
        :: word[w] == NIL -> word[w] = WAIT(me)
        :: else -> old = word[w]
        fi
    }
    if
    :: old != NIL ->
        assert(old == READY);
        old = NIL;
        word[w] = NIL;
        goto result
    :: else
    fi;
#ifndef MUTATE_1 /* does not look again */
    look_again(w, me);
    if
    :: r != AGAIN ->
#ifdef MUTATE_8 /* forgets an event that came in between */
        word[w] = NIL;
#else
        word[w] = READY;
#endif
        goto result
    :: else
    fi;
#endif
    /* finish_step, commit_pd */
    atomic { assert(status[me] == RUNNING); status[me] = WAITING }
    atomic {
        if
#ifdef MUTATE_4 /* commits without comparing */
        :: true -> word[w] = G0 + me; r = PARK
#else
        :: word[w] == WAIT(me) -> word[w] = G0 + me; r = PARK
        :: else -> r = AGAIN
#endif
        fi
    }
end_parked:
    if
    :: atomic { r == PARK && status[me] == RUNNABLE -> status[me] = RUNNING }
    :: atomic { r == AGAIN -> assert(status[me] == WAITING); status[me] = RUNNING }
    fi;
    r = AGAIN;
    if /* rt_pd_wait uses READY up; step Gs do not */
    :: atomic {
        if
        :: word[w] == READY -> word[w] = NIL
        :: else
        fi }
    :: skip
    fi;
    check(w);

result: /* readiness, or the G's own deadline: either way it tries to read */
    old = NIL;
    if
    :: r == CLOSED -> status[me] = GONE; goto end_gone
    :: r == TIMEOUT ->
        r = AGAIN;
        due[w] = 0; /* rt_pd_set_deadline(pd, mode, 0) */
        gdue[me] = 0; /* rt_set_deadline(g, 0) */
        kicked = 0
    :: r == AGAIN ->
        kicked = 0;
        if
        :: gdue[me] -> gdue[me] = 0;
#ifdef MUTATE_9 /* waits again without a read after a deadline of its own, too */
            goto wait
#endif
        :: else
        fi;
        goto moved
    fi;
    goto wait;
moved:
#if CONF == 3
    if
    :: me == 0 && w == 0 -> atomic { w = 1; at[me] = 1; first_left = 1 }
    :: else
    fi;
#endif
    goto read;
end_gone:
    false
}

#if CONF >= 4
/* answer_both: r is CLOSED, TIMEOUT or AGAIN, then try[] says what may be ready. */
inline answer_both() {
#ifndef MUTATE_13 /* BOTH stays in wg */
    atomic {
        if
        :: word[1] == BOTH -> word[1] = NIL
        :: else
        fi
    }
#endif
    if
    :: shut -> r = CLOSED
    :: else ->
        if
        :: due[0] || due[1] -> r = TIMEOUT
        :: else ->
            r = AGAIN;
            atomic {
                if
                :: word[0] == READY -> word[0] = NIL; try[0] = 1
                :: else
                fi
            }
            atomic {
                if
                :: word[1] == READY -> word[1] = NIL; try[1] = 1
                :: else
                fi
            }
        fi
    fi
}

/* stand(pd, mode, who): fine says whether it stands there. */
inline stand(q, who) {
    atomic {
        if
        :: word[q] == NIL -> word[q] = who; fine = 1
        :: else -> assert(word[q] == READY); fine = 0
        fi
    }
}

/* One that waits for both directions, or for reading alone, as it likes, after it has done what it can. */
proctype B() {
    bit try[2] = 1, fine = 0, woken = 0;
    mtype r = AGAIN;

work:
    atomic {
        if
        :: try[0] -> data[0] = 0; try[0] = 0
        :: else
        fi
    }
    atomic {
        if
        :: try[1] -> data[1] = 0; try[1] = 0
        :: else
        fi
    }
    kicked = 0;
    if
    :: both = 1
    :: both = 0
    fi;
    if
    :: !both -> goto alone
    :: else
    fi;

wait: /* prepare_both */
    answer_both();
    if
    :: r != AGAIN || try[0] || try[1] -> goto result
    :: else
    fi;
    gword[0] = 0;
#ifdef MUTATE_10 /* wg before rg */
    stand(1, BOTH);
    if
    :: fine -> stand(0, WAIT_BOTH)
    :: else
    fi;
#else
    stand(0, WAIT_BOTH);
    if
    :: fine -> stand(1, BOTH)
    :: else
    fi;
#endif
#ifndef MUTATE_1 /* does not look again */
    if
    :: fine && shut -> fine = 0
    :: else
    fi;
    if
    :: fine && due[0] -> fine = 0
    :: else
    fi;
    if
    :: fine && due[1] -> fine = 0
    :: else
    fi;
    if
    :: fine && gdue[0] -> fine = 0
    :: else
    fi;
#endif
    if
    :: !fine ->
        atomic {
            if
            :: word[0] == WAIT_BOTH -> word[0] = NIL
            :: else
            fi
        }
        answer_both();
        goto result
    :: else
    fi;
    /* finish_step, commit_both */
    atomic { assert(status[0] == RUNNING); status[0] = WAITING }
    atomic {
        if
        :: word[0] == WAIT_BOTH -> word[0] = G_BOTH; woken = 0
        :: else -> woken = 1
        fi
    }
end_both:
    if
    :: atomic { !woken && status[0] == RUNNABLE -> status[0] = RUNNING }
    :: atomic { woken -> assert(status[0] == WAITING); status[0] = RUNNING }
    fi;
    answer_both();

result:
    if
    :: r == CLOSED -> status[0] = GONE; goto end_gone
    :: r == TIMEOUT -> due[0] = 0; due[1] = 0; gdue[0] = 0; kicked = 0
    :: r == AGAIN -> gdue[0] = 0; kicked = 0; goto work
    fi;
    if
    :: both -> goto wait
    :: !both
    fi;

alone: /* rt_pd_prepare of reading, as G has it */
    if
    :: word[0] == READY ->
        check(0);
        if
        :: r != AGAIN -> goto result
        :: else
        fi;
        atomic {
            if
            :: word[0] == READY -> word[0] = NIL; try[0] = 1
            :: else
            fi
        }
        if
        :: try[0] -> goto result
        :: else
        fi
    :: else
    fi;
    gword[0] = 0;
    stand(0, WAIT(0));
    if
    :: fine -> look_again(0, 0)
    :: else
    fi;
    if
    :: !fine || r != AGAIN -> word[0] = READY; try[0] = 1; goto result
    :: else
    fi;
    atomic { assert(status[0] == RUNNING); status[0] = WAITING }
    atomic {
        if
        :: word[0] == WAIT(0) -> word[0] = G0; woken = 0
        :: else -> woken = 1
        fi
    }
end_alone:
    if
    :: atomic { !woken && status[0] == RUNNABLE -> status[0] = RUNNING }
    :: atomic { woken -> assert(status[0] == WAITING); status[0] = RUNNING }
    fi;
    try[0] = 1;
    check(0);
    goto result;
end_gone:
    false
}
#endif

/* The peer, and the poller that tells. */
proctype peer(byte q; byte n) {
    do
    :: n > 0 -> atomic { n--; data[q]++; edge[q] = 1 }
    :: n == 0 -> break
    od
}

proctype poller(byte q) {
    byte old = 0, to = 0;
    bit ok = 0;
end:
    do
    :: atomic { edge[q] -> edge[q] = 0 }
        unblock(q, READY)
    od
}

/* rt_pd_set_deadline with a time in the past; then the timer: expire. */
proctype deadline(byte q) {
    byte old = 0, to = 0;
    bit ok = 0;
    due[q] = 1;
    out[q] = 0; /* into the heap */
#ifdef MUTATE_15 /* the timer leaves the heap when its function is over */
    if
    :: due[q] -> unblock(q, NIL)
    :: else
    fi;
    out[q] = 1
#else
    out[q] = 1; /* and out again: timers_run */
    if
    :: due[q] -> unblock(q, NIL)
    :: else
    fi
#endif
}

proctype shutter(byte q) {
    byte old = 0, to = 0;
    bit ok = 0;
    if /* or never */
    :: goto not_shut
    :: skip
    fi;
#ifdef MUTATE_2 /* shut is stored without a fence before the word is loaded */
    shut_pend = 1;
#else
    shut = 1;
#endif
    unblock(q, NIL);
not_shut:
    skip
}

proctype drain() {
end:
    do
    :: atomic { shut_pend -> shut_pend = 0; shut = 1 }
    od
}

proctype kick(byte q) {
    byte old = 0, to = 0;
    bit ok = 0;
    kicked = 1;
    unblock(q, READY)
}

/* The deadline of a G passes; wait_deadline finds it due (or found it so earlier): pd_leave. */
proctype own_deadline(bit g) {
    byte w = NONE, old = NIL;
    bit found = 0;
    gdue[g] = 1;
    gout[g] = 0;
    gout[g] = 1;
    if
    :: gdue[g] -> w = gword[g]
    :: else
    fi;
    if
    :: w != NONE ->
        old = word[w];
        do
        :: old != WAIT(g) && old != G0 + g && (g == 1 || old != WAIT_BOTH && old != G_BOTH) -> break
        :: else ->
            atomic {
                if
                :: word[w] == old -> word[w] = NIL; found = 1
                :: else -> old = word[w]
                fi
            }
            if
            :: found && (old == G0 + g || old == G_BOTH) -> ready(g); break
            :: found && (old == WAIT(g) || old == WAIT_BOTH) -> break
            :: !found
            fi
        od
    :: else
    fi
}

#if CONF >= 4
#define CONTENT(g) (status[g] == GONE || (status[g] == WAITING && word[0] == (both -> G_BOTH : G0) && \
    data[0] == 0 && !due[0] && !gdue[g] && !shut && (!both || data[1] == 0 && !due[1] && !kicked)))
#else
#define CONTENT(g) (status[g] == GONE || (status[g] == WAITING && word[at[g]] == G0 + g && \
    data[at[g]] == 0 && !due[at[g]] && !gdue[g] && !shut && !kicked))
#endif

active proctype watch() {
    timeout;
    assert(CONTENT(0));
#if CONF == 3
    assert(CONTENT(1) || !first_left)
#endif
}

init {
    atomic {
#if CONF >= 4
        run B(); run poller(1); run peer(1, 1);
#else
        run G(0);
#endif
        run poller(0);
#if CONF == 4
        run peer(0, 1); run deadline(1)
#elif CONF == 5
        run kick(1); run own_deadline(0)
#elif CONF == 6
        run deadline(0); run shutter(0); run drain()
#elif CONF == 1
        run peer(0, 2); run deadline(0); run shutter(0); run drain()
#elif CONF == 2
        run peer(0, 1); run deadline(0); run kick(0); run own_deadline(0)
#else
        run G(1); run peer(0, 1);
        run own_deadline(0); run own_deadline(0)
#endif
    }
}
