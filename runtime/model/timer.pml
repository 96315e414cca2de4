/* Lazy timers (timer.c): the owner's rt_timer_set against timers_run of two Ps.
 *
 * Bound: one timer, two heaps. CONF=1: one owner with three settings, each from either P; times 1 .. 3.
 * CONF=2: two callers of rt_pd_set_deadline (netpoll.c), each on a P of its own, with two settings
 * and one; they store without a lock and insert under the pollDesc's; times 1 .. 2.
 *
 * Checked: the timer stands in at most one heap, home says which; fn is called only for a time that
 * has come, and not more often than the timer was set; when time is over, the last setting has had a
 * call of fn that began after it; and between two settings the heap comes up no later than the timer.
 *
 * Both sides of the Dekker have a store buffer: until (owner), index = 0 (timers_run).
 * That of until and key (follow) has none: both are stored with a fence. */
#ifndef CONF
#define CONF 1
#endif
#if CONF == 1
#define SETS 3
#define END 3
#else
#define SETS (2 - me)
#define END 2
#endif
#define NONE 255

byte now;
byte until, key;
bit index;         /* != 0 */
byte home = NONE;
bit heap[2];       /* it stands in the heap of this P */
bit lock[2];       /* timer_lock */
bit pd_lock;
byte until_pend = NONE;
bit index_pend;
byte setting;      /* ghost: so many callers are in the midst of rt_timer_set */
byte set, calls;   /* ghost: settings that are not 0, calls of fn */
bit served;        /* ghost: fn was called after the last setting and found it due */

/* A lock's exchange lets the store buffer of its processor out: until is the owner's, and index = 0
 * is stored with the lock held. */
#define ACQUIRE(l) atomic { !l -> l = 1 }
#define RELEASE(l) atomic { if :: index_pend -> index_pend = 0; index = 0 :: else fi; l = 0 }
#define OWNER_FLUSH atomic { if :: until_pend != NONE -> until = until_pend; until_pend = NONE :: else fi }

inline insert(q, k) {
    key = k;
    atomic { assert(!heap[0] && !heap[1] && home == q); heap[q] = 1; index = 1; index_pend = 0 }
}

/* timer_move_later. A clearing has no fence: its owner looks at nothing after it, so one that lies in the store buffer
 * is one that comes later. */
inline store_until() {
#ifdef MUTATE_1 /* until is stored without a fence before index is loaded */
    OWNER_FLUSH;
    atomic { until_pend = v; served = 0; setting++ }
#else
    atomic { until = v; served = 0; setting++ }
#endif
    done = v == 0;
    if
    :: !done && index -> done = key <= v
    :: else
    fi
}

inline rt_timer_set() {
    store_until();
    if
    :: done
    :: else ->
        h = home;
        if
        :: h == NONE -> home = here; h = here
        :: else
        fi;
#ifdef MUTATE_5 /* goes to its own heap without the lock of the old one */
        if
        :: !index -> home = here; h = here
        :: else
        fi;
#endif
        ACQUIRE(lock[h]);
#ifdef MUTATE_1
        OWNER_FLUSH;
#endif
        if
        :: index ->
            assert(heap[h]);
            if
            :: key > v -> key = v /* rekey */
            :: else
            fi
        :: else ->
            if
            :: h != here ->
                home = here;
                RELEASE(lock[h]);
                h = here;
                ACQUIRE(lock[h])
            :: else
            fi;
            insert(h, v)
        fi;
        RELEASE(lock[h])
    fi
}

proctype owner(bit me) {
    byte n = 0, v = 0, here = 0, h = 0;
    bit done = 0;
    do
    :: n == SETS -> break
    :: n < SETS ->
        n++;
        atomic {
            if
            :: v = 0
            :: v = 1; set++
            :: v = 2; set++
#if CONF == 1
            :: v = 3; set++
#endif
            fi;
#if CONF == 1
            if
            :: here = 0
            :: here = 1
            fi
#else
            here = me
#endif
        }
#if CONF == 1
        rt_timer_set();
#else /* rt_pd_set_deadline */
        store_until();
        if
        :: done
        :: else ->
            ACQUIRE(pd_lock);
            rt_timer_set();
            RELEASE(pd_lock)
        fi;
#endif
        atomic { v = 0; h = 0; here = 0; done = 0; setting-- }
    od
}

/* timers_run(p), again and again; on p's M or a thief's. */
proctype timers_run(byte p) {
    byte u = 0, again = 0, t = 0;
end:
    do
    :: atomic { heap[p] && key <= now -> t = now } /* timer_next_ns, rt_nanotime */
        ACQUIRE(lock[p]);
        atomic { assert(setting || !heap[p] || until == 0 || key <= until) }
        do
        :: heap[p] && key <= t ->
            u = until;
            if
#ifndef MUTATE_4 /* fires what was moved later */
            :: u > t -> /* follow */
                key = u; /* rekey */
#ifndef MUTATE_6 /* does not look again for what was set meanwhile */
                again = until;
                do
                :: again != 0 && again < key -> key = again; again = until
                :: else -> break
                od
#endif
#endif
            :: else ->
                heap[p] = 0; /* remove_first */
#ifdef MUTATE_2 /* index = 0 without a fence before until is loaded again */
                index_pend = 1;
#else
                index = 0;
#endif
                again = until;
                if
#ifndef MUTATE_3 /* does not look again */
                :: again != u && again != 0 -> insert(p, again)
#endif
                :: else ->
                    if
                    :: u != 0 -> /* fn */
                        RELEASE(lock[p]);
                        atomic { /* it looks at what it finds */
                            calls++;
                            assert(u <= now && calls <= set * (CONF == 1 -> 1 : 2));
                            if
                            :: until != 0 && until <= now -> served = 1
                            :: else
                            fi
                        }
                        ACQUIRE(lock[p])
                    :: else
                    fi
                fi
            fi
        :: else -> break
        od;
        RELEASE(lock[p]);
        atomic { u = 0; again = 0; t = 0 }
    od
}

active proctype drain() {
end:
    do
    :: atomic { until_pend != NONE -> until = until_pend; until_pend = NONE }
    :: atomic { index_pend -> index_pend = 0; index = 0 }
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
    assert(now == END && (until == 0 || served));
    assert(!heap[0] && !heap[1] && !index)
}

init {
    atomic {
        run owner(0);
#if CONF == 2
        run owner(1);
#endif
        run timers_run(0); run timers_run(1)
    }
}
