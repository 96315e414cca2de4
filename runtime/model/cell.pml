/* The mailbox of cell.c: many posters, one driver, many Ms.
 *
 * Bound: N Gs of one cell, each posted ROUNDS times by a poster of its own (CONF=1: 3 Gs, once; CONF=2:
 * 2 Gs, 3 times); 2 Ms; on each M one G may yield once; the loop may give its M to others after any G.
 *
 * Checked: the driver is readied only while it waits; one M at a time runs the cell; a G runs only
 * after it was posted, once for each post; at the end no G is left in the mailbox or the list.
 */
#ifndef CONF
#define CONF 1
#endif
#if CONF == 1
#define N 3
#define ROUNDS 1
#else
#define N 2
#define ROUNDS 3
#endif
#define IDLE 255

mtype = { RUNNING, WAITING, RUNNABLE };

byte mailbox = IDLE;            /* IDLE, 0 or the latest post */
byte link[N + 1];               /* g->schedlink */
chan ready = [N] of { byte };   /* c->ready */
mtype status[N + 1] = WAITING;  /* of the Gs; 0: the driver */
byte queued;                    /* the driver in run queues */
byte running;                   /* ghost: Ms that run the cell */
byte runs[N + 1];               /* ghost: ended waits of each G */

#define SET(g, from, to) atomic { assert(status[g] == from); status[g] = to }

/* rt_ready of a G that waits, then cell_post, from outside of the cell */
proctype poster(byte g) {
    byte n = 0, old = 0;
    do
    :: n == ROUNDS -> break
    :: n < ROUNDS && status[g] == WAITING && runs[g] == n ->
        n++;
        SET(g, WAITING, RUNNABLE);
        old = mailbox;
        do
        :: link[g] = (old == IDLE -> 0 : old);
            atomic {
                if
#ifdef MUTATE_5 /* pushes by a store */
                :: true -> mailbox = g; break
#else
                :: mailbox == old -> mailbox = g; break
                :: else -> old = mailbox
#endif
                fi
            }
        od;
        if
#ifdef MUTATE_2 /* readies the driver when the mailbox is merely empty */
        :: old == IDLE || old == 0 ->
#else
        :: old == IDLE ->
#endif
            SET(0, WAITING, RUNNABLE);
            queued++
        :: else
        fi;
        old = 0
    od
}

proctype M() {
    byte g = 0, first = 0, next = 0;
    bit ok = 0, yielded = 0;
end_find:
    atomic { queued > 0 -> queued-- } /* findrunnable */
    SET(0, RUNNABLE, RUNNING);        /* execute */
    running++;
    assert(running == 1);

loop: /* take_mail */
    if
    :: mailbox == 0 -> goto pop
    :: else
    fi;
#ifdef MUTATE_3 /* takes the list by a load and a store */
    g = mailbox;
    mailbox = 0;
#else
    atomic { g = mailbox; mailbox = 0 }
#endif
    atomic {
        assert(g != IDLE);
        do /* reverse */
        :: g != 0 -> next = link[g]; link[g] = first; first = g; g = next
        :: g == 0 -> break
        od;
        do
        :: first != 0 -> ready!first; first = link[first]
        :: first == 0 -> break
        od;
        next = 0
    }
pop:
    if
    :: ready?g
    :: empty(ready) -> goto idle
    fi;
    /* run: one G until it leaves */
    SET(g, RUNNABLE, RUNNING);
    if
    :: !yielded -> yielded = 1; /* RT_YIELD: cell_requeue */
        SET(g, RUNNING, RUNNABLE);
        ready!g
    :: atomic { runs[g]++; assert(status[g] == RUNNING); status[g] = WAITING } /* RT_PARK */
    fi;
    g = 0;
    if
    :: goto loop
    :: /* the slice is used up: g_leave(driver, RT_YIELD), finish_step, g_enqueue */
        running--;
        SET(0, RUNNING, RUNNABLE);
        queued++;
        goto end_find
    fi;

idle: /* g_leave(driver, RT_PARK), finish_step, commit_idle */
    running--; /* the loop's stack is left */
#ifndef MUTATE_4
    SET(0, RUNNING, WAITING);
#endif
    atomic {
        if
#ifdef MUTATE_1 /* commits without comparing */
        :: true -> mailbox = IDLE; ok = 1
#else
        :: mailbox == 0 -> mailbox = IDLE; ok = 1
        :: else -> ok = 0
#endif
        fi
    }
#ifdef MUTATE_4 /* commits before the state is waiting */
    SET(0, RUNNING, WAITING);
#endif
    if
    :: ok -> ok = 0; goto end_find
    :: else
    fi;
    SET(0, WAITING, RUNNING);
    running++;
    assert(running == 1);
    goto loop
}

active proctype watch() {
    timeout;
    assert(runs[1] == ROUNDS && runs[2] == ROUNDS && runs[N] == ROUNDS);
    assert(mailbox == IDLE && empty(ready) && queued == 0 && status[0] == WAITING)
}

init {
    atomic {
        run poster(1); run poster(2);
#if N == 3
        run poster(3);
#endif
        run M(); run M()
    }
}
