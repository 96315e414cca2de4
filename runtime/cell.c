/* Cells: Gs that belong together and run one at a time.
 *
 * A VM is one lua_State, so its Gs may run on any M but never two at once. A cell is that rule and
 * nothing more: a mailbox of ready Gs, and a G of its own, the driver, a native G whose body is the
 * loop that runs them. A cell with ready Gs is queued, stolen and time-shared as its driver is; the
 * scheduler needs no second kind of thing in its queues.
 *
 * The mailbox has many producers and one consumer. Its word is IDLE (the driver waits, or is about
 * to), or the latest posted G, linked to the earlier ones (NULL: none).
 *
 *   - who posts pushes by CAS; if what it replaced was IDLE, it readies the driver. Only one can
 *     replace IDLE, so the driver is readied once.
 *   - the driver takes the whole list by one exchange and reverses it: posts come out in order.
 *     Nothing is ever popped singly, so a G that comes back meanwhile (ABA) does no harm.
 *   - when there is nothing, the driver parks with a commit that moves NULL to IDLE; if somebody
 *     posted before, that fails and the driver runs on.
 *
 * The push is a release and the exchange an acquire, so the G's owner passes from poster to driver.
 *
 * What a G of the cell itself readies, or a G that yields, goes to the driver's own list without any
 * atomic step. The mailbox is looked at before each G, so its Gs are served between those; after
 * CELL_SLICE Gs, or when sysmon says so, the loop lets the M look after others.
 *
 * The driver's stack is the loop stack. It may be exchanged for a fresh one while a G holds the old
 * (the issue on waiting anywhere): all loops are the same, so nothing but the driver's context
 * changes.
 */
#include "impl.h"

#include "trace.h"

#include <stdlib.h>

struct rt_cell {
    rt_g *driver;
    _Atomic(rt_g *) mailbox; /* atomic: IDLE, NULL or the latest post */
    g_list ready;            /* the M that runs the loop */
    void *data;
};

static rt_g idle_mark;
#define IDLE (&idle_mark)

void *rt_cell_data(rt_cell *c) {
    return c->data;
}

rt_cell *rt_current_cell(void) {
    rt_m *m = rt_getm();
    return m ? m->cell : NULL;
}

rt_g *cell_driver(rt_cell *c) {
    return c->driver;
}

/* A G of the running cell goes to the end of its list. */
void cell_requeue(rt_cell *c, rt_g *g) {
    g_list_push(&c->ready, g);
}

void cell_post(rt_cell *c, rt_g *g) {
    rt_m *m = rt_getm();
    if (m && m->cell == c) {
        cell_requeue(c, g);
        return;
    }
    rt_g *old = atomic_load_explicit(&c->mailbox, memory_order_relaxed);
    do
        g->schedlink = old == IDLE ? NULL : old;
    while (!atomic_compare_exchange_weak_explicit(&c->mailbox, &old, g, memory_order_acq_rel,
                                                  memory_order_relaxed));
    if (old == IDLE) rt_ready(c->driver);
}

static void take_mail(rt_cell *c) {
    if (!atomic_load_explicit(&c->mailbox, memory_order_relaxed)) return;
    rt_g *g = atomic_exchange_explicit(&c->mailbox, NULL, memory_order_acquire);
    rt_g *first = NULL;
    while (g) {
        rt_g *next = g->schedlink;
        g->schedlink = first;
        first = g;
        g = next;
    }
    while (first) {
        rt_g *next = first->schedlink;
        g_list_push(&c->ready, first);
        first = next;
    }
}

static bool commit_idle(rt_g *driver, void *arg) {
    (void)driver;
    rt_cell *c = arg;
    rt_g *none = NULL;
    return atomic_compare_exchange_strong_explicit(&c->mailbox, &none, IDLE, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* Runs one G of the cell until it leaves. */
static void run(rt_cell *c, rt_g *g) {
    g_set_status(g, G_RUNNABLE, G_RUNNING);
    rt_step step;
    do {
        rt_getm()->curg = g;
        TRACE(TRACE_START, rt_getm()->p, g, 0);
        step = g->step(g);
    } while (finish_step(g, step, c));
    rt_getm()->curg = c->driver;
}

static void loop(void *arg) {
    rt_cell *c = arg;
    for (int left = CELL_SLICE;;) {
        take_mail(c);
        rt_g *g = g_list_pop(&c->ready);
        if (!g) {
            rt_set_park(c->driver, commit_idle, c, RT_WAIT_CELL);
            g_leave(c->driver, RT_PARK);
            left = CELL_SLICE;
            continue;
        }
        run(c, g);
        rt_p *p = rt_getm()->p;
        if (--left <= 0 || atomic_load_explicit(&p->yield_now, memory_order_relaxed)) {
            atomic_store_explicit(&p->yield_now, false, memory_order_relaxed);
            g_leave(c->driver, RT_YIELD);
            left = CELL_SLICE;
        }
    }
}

rt_cell *rt_cell_new(void *data) {
    rt_cell *c = calloc(1, sizeof *c);
    if (!c) rt_throw("out of memory for a cell");
    c->data = data;
    c->driver = new_native(loop, c, RT_CELL_STACK);
    c->driver->site = __builtin_return_address(0);
    c->driver->drives = c;
    atomic_store(&c->mailbox, IDLE);
    g_set_status(c->driver, G_IDLE, G_WAITING);
    return c;
}
