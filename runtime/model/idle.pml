/* The idle-P protocol of proc.c, procs.c, m.c and netpoll_epoll.c: who publishes work and who goes to sleep
 * must not miss each other.
 *
 * Bound: 2 Ps, 3 Ms, and what a configuration (-DCONF=n) says:
 *   1  M0 runs a G on P0 that readies two others, then ends or runs for ever; M1 is on P1, where an
 *      event comes at any moment; M2 sleeps on its note
 *   2  M0 readies one G and runs on for ever; a thread without a P readies another through the global
 *      queue; M1 and M2 as before, with the event
 *   3  M0 runs for ever on P0; M2 comes out of a system call without a P and takes P1 from M1, which
 *      may sit in its poller; a thread sets an earlier timer on P1; the event
 *   4  as 3, with a G from the global queue instead of the timer and the event
 *   5  M0 and M1 go idle, a thread without a P readies a G; M2 sleeps on its note
 *   6  as 5, but M0 is in the poller of P0, which is idle; and a thread takes P1 out (procs.c)
 *   7  P1 is taken out and may come in again; the event on P1; M0 and M1 go idle, M2 sleeps
 *
 * Checked when nothing can move any more (in `drain`): no work lies in a queue while a P is idle, even
 * with the other P busy for ever; no event or timer of an idle P lies unseen; each P is run by one M
 * or idle with an M in its poller, or out with an M that attends it: out only if it was asked to. Always: a P is taken only while nobody has it, n_spinning >= 0.
 *
 * Stores that a fence must make visible are modelled with a store buffer: runq_tail (pend), the 0 in
 * last_poll_ns (zero_pend), timer_next_ns (tn_pend); `drain` lets them out at any moment.
 *
 * Sections under sched.lock are one step each where readers without the lock see one store of them;
 * what p_evict does to the poller comes after the section, which only adds interleavings.
 */
#ifndef CONF
#define CONF 1
#endif
#define ITEMS (CONF == 1 -> 2 : (CONF == 2 -> 1 : 0))
#define RUNS_FOR_EVER (CONF == 2 || CONF == 3 || CONF == 4)

#define NP 2
#define NM 3
#define NONE 255

byte ring[NP];               /* Gs in P's ring that thieves can see */
byte pend[NP];               /* put there by the owner, still in its store buffer */
byte glob;                   /* sched.runq, n_runq */
bit in_idle[NP];             /* sched.idle_ps */
byte n_idle;                 /* sched.n_idle_ps */
byte n_spin;                 /* sched.n_spinning */
byte holder[NP] = NONE;      /* p->m */
byte poll_m[NP] = NONE;      /* p->poll_m */
byte n_in_poll[NP];          /* p->n_in_poll */
bit broken[NP], efd[NP];     /* poller: broken; the eventfd is readable */
bit ev[NP];                  /* an event that readies one G, not polled yet */
bit zero[NP], zero_pend[NP]; /* last_poll_ns == 0 */
bit tn[NP], tn_pend[NP];     /* timer_next_ns: a timer that comes soon (none, or one that comes in an
                              * hour: 0) */
byte next_p[NM] = NONE;      /* m->next_p */
bit to_spin[NM];             /* m->to_spin */
bit asleep[NM];              /* sched.idle_ms */
bit leaves[NP], out[NP];     /* p->leaves; status P_OUT */
byte n_in = NP;              /* sched.n_in */
bit resized = 1;             /* nobody is about to take a P out, or to bring one in */
bit woken[NM];               /* m->park */

/* full_fence; also in every lock acquisition and read-modify-write */
#define FENCE(p) ring[p] = ring[p] + pend[p]; pend[p] = 0

/* p_idle_get, sched.lock held */
inline idle_get(wanted, got) {
    if
    :: wanted != NONE && in_idle[wanted] -> got = wanted
    :: else ->
        if
        :: in_idle[0] -> got = 0
        :: in_idle[1] -> got = 1
        :: !in_idle[0] && !in_idle[1] -> got = NONE
        fi
    fi;
    if
    :: got != NONE -> in_idle[got] = 0; n_idle--
    :: else
    fi
}

inline netpoll_break(q) {
    atomic {
        if
        :: broken[q] /* the one write is in flight or done */
        :: !broken[q] -> broken[q] = 1; efd[q] = 1
        fi
    }
}

/* p_evict; x: the M that has to leave. The break follows. */
inline evict(q, taker) {
    x = poll_m[q];
    poll_m[q] = NONE;
    if
    :: x == taker -> x = NONE
    :: else
    fi
}

inline evict_break(q) {
    if
    :: x != NONE -> x = NONE; netpoll_break(q)
    :: else
    fi
}

/* m_start(q, spin) */
inline m_start(q, spin) {
    atomic {
        x = poll_m[q];
        if
        :: x != NONE -> poll_m[q] = NONE; y = 1
        :: else ->
            if /* idle_ms; with none there, new_m would make one: wait for one to come */
            :: asleep[0] -> x = 0
            :: asleep[1] -> x = 1
            :: asleep[2] -> x = 2
            fi;
            asleep[x] = 0; y = 0
        fi;
        assert(next_p[x] == NONE);
        next_p[x] = q; to_spin[x] = spin
    }
    if
    :: y -> y = 0; x = NONE; netpoll_break(q)
    :: else -> atomic { assert(!woken[x]); woken[x] = 1; x = NONE } /* note_wake */
    fi
}

inline wakep() {
#ifndef MUTATE_1 /* wakep without its fence */
    if
    :: atomic { p != NONE -> FENCE(p) }
    :: p == NONE
    fi;
#endif
    if
    :: n_idle == 0
    :: n_idle != 0 ->
        if
        :: n_spin != 0 /* the load, or the CAS that fails */
        :: atomic { n_spin == 0 -> n_spin = 1 };
            atomic { /* sched.lock */
                idle_get(NONE, w);
                if
#ifndef MUTATE_7 /* n_spinning goes down after the lock is released */
                :: w == NONE -> n_spin--
#endif
                :: else
                fi
            }
            if
#ifdef MUTATE_7
            :: w == NONE -> n_spin--
#else
            :: w == NONE
#endif
            :: w != NONE -> m_start(w, 1); w = NONE
            fi
        fi
    fi
}

/* p_acquire */
inline acquire() {
    assert(holder[p] == NONE);
    holder[p] = me
}

/* regain(m, last, work, spin): p is NONE if there is none to have */
inline regain(last, work, spin) { /* spin 0: called by idle; there a P it still stands in will do */
    atomic {
        x = NONE;
        if
        :: next_p[me] != NONE -> p = next_p[me]; next_p[me] = NONE; spinning = to_spin[me]
        :: next_p[me] == NONE && (work || (!spin && in_idle[last] && poll_m[last] == me)) ->
            idle_get(last, p);
            if
            :: p != NONE -> n_spin = n_spin + spin; spinning = spin; evict(p, me)
            :: else
            fi
        :: else
        fi;
        if
        :: p != NONE && poll_m[last] == me -> poll_m[last] = NONE
        :: else
        fi
    }
    evict_break(p);
    if
    :: p != NONE -> acquire()
    :: else
    fi
}

inline leave_poller(q) {
    atomic { y = n_in_poll[q]; n_in_poll[q]--; }
#ifdef MUTATE_4 /* who leaves a poller does not pass the break on */
    y = 0
#else
    if
    :: y > 1 -> y = 0; netpoll_break(q)
    :: else -> y = 0
    fi
#endif
}

/* The loop's put for a G, on an M with a P between two Gs: nobody is woken if it is the only one. */
inline put_next() {
    pend[p]++;
    if
    :: ring[p] + pend[p] > 1 -> wakep()
    :: else
    fi
}

proctype M(byte me) {
    byte p = NONE;    /* m->p */
    byte last = NONE; /* the P whose poller it is in */
    byte w = NONE, x = NONE, y = 0, i = 0;
    bit spinning = 0, was = 0, due = 0, ready = 0;

    if /* how it begins */
    :: me == 0 -> p = 0;
#if CONF == 6
        last = 0; p = NONE; goto idle
#elif CONF == 5 || CONF == 7
        goto find
#else
        goto running
#endif
    :: me == 1 -> p = 1; goto find
    :: me == 2 ->
#if CONF == 3 || CONF == 4
        goto exitsyscall
#else
        goto sleep
#endif
    fi;

running: /* a G that readies others: rt_ready, g_enqueue, put, wakep */
    do
    :: i < ITEMS -> i++; pend[p]++; wakep()
    :: i == ITEMS -> break
    od;
    i = 0;
    if
    :: !RUNS_FOR_EVER -> goto find
    :: goto forever
    fi;
forever: /* it does not end; its thread runs, the store buffer drains */
end_forever:
    false;

exitsyscall: /* rt_exitsyscall, which did not get its old P back */
    atomic {
        idle_get(NONE, p);
        if
        :: p != NONE -> evict(p, me)
        :: else
        fi
    }
    if
    :: p != NONE -> evict_break(p); acquire(); goto find /* its G ends */
    :: else
    fi;
    /* execute, as it sees that there is no P */
    atomic {
        glob++;
        idle_get(NONE, p);
        if
        :: p != NONE -> evict(p, me)
        :: else -> asleep[me] = 1; goto sleep
        fi
    }
    evict_break(p);
    acquire();

find: /* findrunnable. The first looks are one step: what comes between them is seen later. */
    atomic {
        if
        :: leaves[p] -> goto p_out
        :: else
        fi;
        if
        :: ring[p] + pend[p] > 0 -> FENCE(p); ring[p]--; goto execute /* runq_get */
        :: else
        fi;
        tn[p] = 0; /* timers_run; what it readies is left out */
        if /* every 61st time: what poll_own finds lies in the ring while a global G runs */
        :: ev[p] && glob > 0 -> ev[p] = 0; pend[p]++
        :: true
        fi;
        if
        :: glob > 0 -> /* global_get */
            FENCE(p);
            if
            :: glob > 1 -> glob = glob - 2; ring[p]++ /* half; seen with the lock's release */
            :: glob == 1 -> glob--
            fi;
            goto execute
        :: else
        fi;
        zero[p] = 0; /* poll_own */
        if
        :: ev[p] -> ev[p] = 0; goto execute /* put wakes nobody for the only one in the ring */
        :: else
        fi;
        i = n_in - n_idle; /* busy */
        if
        :: spinning -> i = 0; goto steal
        :: else
        fi
    }
    atomic { i = 2 * n_spin < i; /* spin? */
        if
        :: !i -> goto release
        :: else -> i = 0
        fi }
    atomic { n_spin++; spinning = 1 }
steal: /* steal_work: half of one or two is one; then expired timers of the other P */
    atomic {
        if
        :: ring[1 - p] > 0 -> ring[1 - p]--; FENCE(p); goto execute
        :: else
        fi;
        tn[1 - p] = 0
    }
release:
    atomic { /* sched.lock */
        FENCE(p);
        if
        :: glob > 0 -> glob--; goto execute
        :: else
        fi;
#ifndef MUTATE_9 /* an M makes its P idle without a look for the mark */
        if
        :: leaves[p] -> goto find
        :: else
        fi;
#endif
        assert(holder[p] == me);
        holder[p] = NONE; /* p_release */
        poll_m[p] = me;
        n_in_poll[p]++;
        assert(!in_idle[p]);
        in_idle[p] = 1; n_idle++; /* p_idle_put */
        last = p; p = NONE;
        was = spinning
    }
#ifdef MUTATE_3 /* looks again before n_spinning goes down */
    atomic { i = glob > 0 || ring[0] > 0 || ring[1] > 0 }
#endif
    if /* stop_spinning */
    :: atomic { spinning -> assert(n_spin > 0); n_spin--; spinning = 0 }
    :: !spinning
    fi;
#ifdef MUTATE_2 /* only who was spinning looks again */
    if
    :: !was -> goto idle
    :: else
    fi;
#endif
#ifndef MUTATE_3
    i = glob > 0 || ring[0] > 0 || ring[1] > 0; /* work_anywhere */
#endif
    regain(last, i, 1);
    i = 0; was = 0;
    if
    :: p != NONE -> leave_poller(last); last = NONE; goto find
    :: else
    fi;

idle:
    was = 0;
#ifdef MUTATE_5 /* idle stores last_poll_ns without a fence before it loads timer_next_ns */
    zero_pend[last] = 1;
#else
    zero[last] = 1;
#endif
    due = tn[last];
    /* epoll_wait; due: it has a time limit */
end_idle:
    if
    :: efd[last] -> efd[last] = 0; broken[last] = 0 /* take_break */
    :: atomic { ev[last] -> ev[last] = 0; ready = 1 }
    :: due
    fi;
    due = 0;
    atomic { zero_pend[last] = 0; zero[last] = 0 } /* last_poll_ns = now */
    leave_poller(last);
    regain(last, ready, 0);
    if
    :: p != NONE ->
        last = NONE;
        if
        :: ready -> ready = 0; put_next()
        :: else
        fi;
        goto find
    :: else
    fi;
    if
    :: ready -> ready = 0; glob++; wakep() /* inject without a P */
    :: else
    fi;
    atomic { /* sched.lock */
        if
        :: next_p[me] != NONE -> p = next_p[me]; next_p[me] = NONE; spinning = to_spin[me]
        :: else
        fi;
        if
        :: poll_m[last] == me -> poll_m[last] = NONE
        :: else
        fi;
        last = NONE;
        if
        :: p == NONE -> asleep[me] = 1
        :: else
        fi
    }
    if
    :: p != NONE -> acquire(); goto find
    :: else
    fi;

sleep: /* m_stop */
end_sleep:
    woken[me];
    atomic { woken[me] = 0; p = next_p[me]; next_p[me] = NONE; spinning = to_spin[me]; assert(p != NONE) }
    acquire();
    goto find;

p_out: /* the P is marked: its queue goes to the global one, the M attends its poller */
    atomic { i = ring[p] + pend[p]; ring[p] = 0; pend[p] = 0 } /* take_queue */
#ifdef MUTATE_10 /* wakep comes before the M stops spinning */
    wakep();
#endif
    if /* stop_spinning */
    :: atomic { spinning -> assert(n_spin > 0); n_spin--; spinning = 0 }
    :: !spinning
    fi;
    atomic { /* sched.lock */
        FENCE(p);
        glob = glob + i; i = 0;
        assert(leaves[p] || !out[p]);
        if
        :: leaves[p] ->
            assert(holder[p] == me && !in_idle[p]);
            holder[p] = NONE; out[p] = 1; n_in--;
            poll_m[p] = me;
            n_in_poll[p]++;
            last = p; p = NONE
        :: else
        fi
    }
#if !defined(MUTATE_8) && !defined(MUTATE_10) /* p_out without its wakep */
    wakep();
#endif
    if
    :: p != NONE -> goto find
    :: else
    fi;

attend: /* poll_until_next, without a P */
    zero[last] = 1;
    due = tn[last];
end_attend:
    if
    :: efd[last] -> efd[last] = 0; broken[last] = 0
    :: atomic { ev[last] -> ev[last] = 0; ready = 1 }
    :: due
    fi;
    due = 0;
    atomic { zero_pend[last] = 0; zero[last] = 0 }
#ifdef MUTATE_11 /* an M that attends takes whatever P is idle */
    regain(last, ready, 1);
#else
    regain(last, 0, 1);
#endif
    if
    :: p != NONE ->
        leave_poller(last);
        last = NONE;
        if
        :: ready -> ready = 0; put_next()
        :: else
        fi;
        goto find
    :: else
    fi;
    tn[last] = 0; /* timers_run; what it readies is left out */
    if
    :: ready -> ready = 0; glob++; wakep() /* inject without a P */
    :: else
    fi;
    goto attend;

execute:
    if
    :: spinning ->
        atomic { assert(n_spin > 0); n_spin--; spinning = 0 }
        wakep()
    :: else
    fi;
    if /* the G ends at once, or runs for ever */
    :: goto find
    :: goto forever
    fi
}

/* rt_ready from a thread without a P */
proctype ready_global() {
    byte p = NONE, w = NONE, x = NONE, y = 0;
    glob++;
    wakep()
}

proctype event(byte q) {
    ev[q] = 1
}

/* rt_timer_set from another thread: note_first, then last_poll_ns. */
proctype set_timer(byte q) {
#ifdef MUTATE_6 /* timer_next_ns is stored without a fence before last_poll_ns is loaded */
    tn_pend[q] = 1;
#else
    tn[q] = 1;
#endif
    if
    :: zero[q] -> netpoll_break(q)
    :: else
    fi
}

/* rt_set_procs: let_out; in a second call, if there is one, let_in. */
proctype set_procs(byte q) {
    byte x = NONE, y = 0;
    bit was = 0;
    atomic {
        leaves[q] = 1;
        was = in_idle[q];
        if
        :: was -> in_idle[q] = 0; n_idle--
        :: else
        fi
    }
    if
    :: was -> m_start(q, 0)
    :: else
    fi;
#if CONF == 7
    if
    :: goto done
    :: true
    fi;
    atomic {
        was = out[q];
        leaves[q] = 0;
        if
        :: was -> out[q] = 0; n_in++
        :: else
        fi
    }
    if
    :: was -> m_start(q, 0)
    :: else
    fi;
done:
#endif
    resized = 1
}

/* The processors' store buffers. */
proctype drain() {
    do
    :: atomic { pend[0] > 0 -> FENCE(0) }
    :: atomic { pend[1] > 0 -> FENCE(1) }
    :: atomic { zero_pend[0] -> zero_pend[0] = 0; zero[0] = 1 }
    :: atomic { zero_pend[1] -> zero_pend[1] = 0; zero[1] = 1 }
    :: atomic { tn_pend[1] -> tn_pend[1] = 0; tn[1] = 1 }
    :: atomic { timeout -> /* nothing else can move: everybody sleeps or runs for ever */
        assert(n_idle == 0 || ring[0] + ring[1] + glob == 0);
        assert(n_idle == 0 || n_spin == 0);
        assert(!in_idle[0] || (!ev[0] && !tn[0] && poll_m[0] != NONE));
        assert(!in_idle[1] || (!ev[1] && !tn[1] && poll_m[1] != NONE));
        assert(!out[1] || (!ev[1] && !tn[1] && poll_m[1] != NONE));
        assert(resized && !out[0]);
        assert(out[1] == leaves[1] || holder[1] != NONE); /* the M whose G never ends does not look */
        assert((in_idle[0] || holder[0] != NONE) && (in_idle[1] || holder[1] != NONE || out[1]));
        assert(n_in == NP - out[1]);
        break }
    od
}

init {
    atomic {
#if CONF == 6
        in_idle[0] = 1; n_idle = 1; poll_m[0] = 0; n_in_poll[0] = 1;
#else
        holder[0] = 0;
#endif
        holder[1] = 1;
#if CONF != 3 && CONF != 4
        asleep[2] = 1;
#endif
        run M(0); run M(1); run M(2);
#if CONF <= 3 || CONF == 7
        run event(1);
#endif
#if CONF == 2
        run ready_global();
#endif
#if CONF == 3
        run set_timer(1);
#endif
#if CONF == 4 || CONF == 5 || CONF == 6
        run ready_global();
#endif
#if CONF >= 6
        resized = 0;
        run set_procs(1);
#endif
        run drain()
    }
}
