/* Cells: Gs that belong together and run one at a time.
 *
 * A VM is one lua_State, so its Gs may run on any M but never two at once. A cell is this rule and nothing more: a
 * mailbox of ready Gs, and a native G of its own, the driver, whose body is the loop that runs the cell's Gs. A cell
 * with ready Gs is queued, stolen and time-shared as its driver is, so the scheduler's queues hold nothing but Gs.
 *
 * The mailbox has many producers and one consumer. Its word is IDLE (the driver waits, or is about to), or the latest
 * posted G, linked to the earlier ones (NULL: none).
 *
 *   - A poster pushes its G by CAS. If the push replaced IDLE, the poster readies the driver. Only one push can replace
 *     IDLE, so the driver is readied once.
 *   - The driver takes the whole list by one exchange and reverses it, so posts come out in order. No G is ever popped
 *     singly, so a G that comes back meanwhile (ABA) does no harm.
 *   - If there is no G, the driver parks with a commit that moves NULL to IDLE. If a G was posted before, the commit
 *     fails and the driver runs on.
 *
 * The push is a release and the exchange an acquire, so ownership of the G passes from poster to driver.
 *
 * A G that yields, and a G that another G of the cell readies, go to the driver's own list without any atomic step. The
 * loop looks at the mailbox before each G, so posted Gs take turns with the Gs of this list. After CELL_SLICE Gs, or
 * when sysmon says so, the loop lets the M run other Gs.
 *
 * Leaving the stack. A G may have to wait in the middle of its step, with C frames below it that know nothing of
 * waiting (a sort that calls a comparator). Then the loop's stack stays with the G as it is, and the cell goes on with
 * another stack, a spare or a fresh one (rt_leave_stack). When the G is ready, the loop that takes the G switches to
 * the stack that the G holds. The loop frame on this stack becomes the cell's loop, and the stack that the switch came
 * from is spare. All loops are the same, so any of their frames may go on; only the driver's context is exchanged. The
 * commit of a G that left its stack is done by the loop that goes on, when the G's stack is at rest, as everywhere.
 *
 * A G that was given to the cell but has not begun there (rt_set_step) may begin in another cell just as well. It waits
 * in a list of its own, `fresh`, so that it can be taken back if the cell gets stuck.
 *
 * Being away. While the cell's M runs foreign code (syscall.c: rt_enterforeign), sysmon may take its P. From then until
 * this M is back, the cell is away: its Gs do not move. But sysmon takes out the Gs that have not begun, posted ones,
 * too, and puts them into the global queue. `away`, and `fresh` while `away` is set, belong to sched.lock, which the M
 * takes on its way back.
 *
 * Shuffling, for tests. A cell with a seed (rt_cell_shuffle) takes its ready Gs in a random order, which the seed
 * repeats, from the first SHUFFLE_MAX in the list. Only the Gs of one step function are drawn, the owner's Gs proper.
 * Other Gs (a collector's G, say) come when a clock or another thread says so, so they must neither be drawn nor draw a
 * number. A G that is ready alone draws no number either.
 *
 * A dropped cell (rt_cell_drop) runs its Gs' steps as ever; the owner makes these steps end. A stack that a G holds is
 * given back instead of being switched to.
 *
 * rt_reserve_stack gets the stack to go on with before it is needed, when the caller can still report a lack of memory.
 * A G that has begun to wait cannot take this back.
 *
 * Rejected: a stack per G (a waiting Lua G would cost 10 kB and not 3); to copy the frames out (C keeps pointers into
 * its stack).
 */
#include "impl.h"

#include "trace.h"

#include <stdlib.h>
#include <time.h>

enum {
    SPARES = 4,       /* stacks that a cell keeps for the next Gs that leave their stacks */
    SHUFFLE_MAX = 64, /* Gs from which one is drawn */
};

/* A stack whose loop rests. The struct lies on this stack. */
typedef struct spare {
    rt_context ctx;
    struct spare *next;
} spare;

struct rt_cell {
    rt_g *driver;
    _Atomic(rt_g *) mailbox; /* atomic: IDLE, NULL or the latest post */
    g_list ready;            /* the M that runs the loop */
    g_list fresh;    /* the M that runs the loop; while away: sched.lock. Gs that have not begun */
    bool fresh_next; /* the M that runs the loop: `fresh` has its turn */
    rt_g *left;      /* that M: G that left its stack, wants `after`, not yet settled */
    rt_step after;   /* that M */
    spare *spares;   /* that M */
    int n_spares;    /* that M */
    rt_stack reserved;   /* that M: for the next G that leaves its stack, if no spare is left */
    rt_step_fn shuffled; /* that M: Gs of this step are taken at random; NULL: in order */
    uint64_t random;     /* that M: the generator's state */
    _Atomic bool dropped;
    rt_m *away;         /* sched.lock: the M that runs the cell and lost its P; NULL: not away */
    rt_cell *next_away; /* sched.lock */
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

char *const *rt_cell_stack(const rt_cell *c) {
    return &c->driver->ctx.stack.lo;
}

/* Puts g, of the running cell, at the end of its list. */
void cell_requeue(rt_cell *c, rt_g *g) {
    g_list_push(g->fresh ? &c->fresh : &c->ready, g);
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
        g_list_push(first->fresh ? &c->fresh : &c->ready, first);
        first = next;
    }
}

/* splitmix64 */
uint64_t rt_cell_random(rt_cell *c) {
    uint64_t z = c->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

void rt_cell_shuffle(rt_cell *c, uint64_t seed, rt_step_fn step) {
    c->random = seed;
    c->shuffled = step;
}

/* Takes the G behind `before` out of l; NULL: the first. */
static rt_g *take_behind(g_list *l, rt_g *before) {
    if (!before) return g_list_pop(l);
    rt_g *g = before->schedlink;
    before->schedlink = g->schedlink;
    if (l->tail == g) l->tail = before;
    l->n--;
    g->schedlink = NULL;
    return g;
}

/* Takes the first G that is not shuffled, else a random one. */
__attribute__((noinline, cold)) static rt_g *take_any(rt_cell *c, g_list *l) {
    uint32_t n = 0;
    rt_g *before = NULL;
    for (rt_g *g = l->head; g && n < SHUFFLE_MAX; before = g, g = g->schedlink, n++)
        if (g->step != c->shuffled) return take_behind(l, before);
    if (n == 0) return NULL;
    before = NULL;
    for (uint32_t k = n > 1 ? (uint32_t)(rt_cell_random(c) % n) : 0; k > 0; k--)
        before = before ? before->schedlink : l->head;
    return take_behind(l, before);
}

static rt_g *take_of(rt_cell *c, g_list *l) {
    return __builtin_expect(c->shuffled != NULL, 0) ? take_any(c, l) : g_list_pop(l);
}

/* Takes the next G to run: in turns a G that goes on and a G that begins. NULL: none is ready. */
static rt_g *take(rt_cell *c) {
    take_mail(c);
    c->fresh_next = !c->fresh_next;
    rt_g *g = take_of(c, c->fresh_next ? &c->fresh : &c->ready);
    return g ? g : take_of(c, c->fresh_next ? &c->ready : &c->fresh);
}

bool rt_others_ready(void) {
    rt_m *m = rt_getm();
    rt_cell *c = m->cell;
    return c->ready.head || c->fresh.head ||
           atomic_load_explicit(&c->mailbox, memory_order_relaxed) || !runq_empty(m->p) ||
           atomic_load_explicit(&sched.n_runq, memory_order_relaxed) > 0;
}

static bool commit_idle(rt_g *driver, void *arg) {
    (void)driver;
    rt_cell *c = arg;
    rt_g *none = NULL;
    return atomic_compare_exchange_strong_explicit(&c->mailbox, &none, IDLE, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* ---- stacks ---- */

static void loop(void *arg);

bool rt_reserve_stack(rt_cell *c) {
    if (c->spares || c->reserved.lo) return true;
    c->reserved = stack_alloc(RT_CELL_STACK);
    return c->reserved.lo;
}

void rt_leave_stack(rt_step step) {
    while (!rt_reserve_stack(rt_getm()->cell))
        nanosleep(&(struct timespec){.tv_nsec = 10 * NS_PER_MS}, NULL);
    rt_m *m = rt_getm();
    rt_cell *c = m->cell;
    rt_g *g = m->curg, *driver = c->driver;
    c->left = g;
    c->after = step;
    g->ctx = driver->ctx;
    spare *s = c->spares;
    if (s) {
        c->spares = s->next;
        c->n_spares--;
        driver->ctx = s->ctx;
    } else {
        rt_context_make(&driver->ctx, c->reserved, loop, c);
        c->reserved = (rt_stack){0};
    }
    atomic_fetch_add_explicit(&sched.n_held, 1, memory_order_relaxed);
    rt_context_switch(&g->ctx, &driver->ctx);
    /* g runs again, perhaps on another thread: enter_held has made this stack the driver's. */
    g->ctx = (rt_context){0};
    atomic_fetch_sub_explicit(&sched.n_held, 1, memory_order_relaxed);
}

void rt_trim_stacks(void) {
    enum { STAYS = 64 << 10 }; /* what is in use all the time */
    rt_cell *c = rt_getm()->cell;
    rt_stack s = c->driver->ctx.stack;
    char *here = __builtin_frame_address(0);
    if (here - s.lo > STAYS) stack_trim(s, here - STAYS);
    for (spare *at = c->spares; at; at = at->next)
        if ((char *)at->ctx.sp - at->ctx.stack.lo > STAYS)
            stack_trim(at->ctx.stack, (char *)at->ctx.sp - STAYS);
}

static void free_context(rt_context *ctx) {
    rt_stack s = ctx->stack;
    rt_context_destroy(ctx);
    stack_free(s);
    *ctx = (rt_context){0};
}

static bool holds_stack(const rt_g *g) {
    return g->ctx.stack.lo != NULL;
}

/* Switches to the stack that g holds. Returns when the cell needs the present stack again. */
static void enter_held(rt_cell *c, rt_g *g) {
    if (c->n_spares == SPARES) {
        spare *s = c->spares; /* lies on the stack that is freed: its frames hold nothing */
        rt_context ctx = s->ctx;
        c->spares = s->next;
        c->n_spares--;
        free_context(&ctx);
    }
    spare here = {c->driver->ctx, c->spares};
    c->spares = &here;
    c->n_spares++;
    c->driver->ctx = g->ctx;
    rt_context_switch(&here.ctx, &c->driver->ctx);
}

/* ---- the loop ---- */

/* Runs *g until it leaves its step and returns what it wants. *g may be another G then: if *g held a stack, the cell
 * went on there, and comes back here when a G has left that stack. */
static rt_step run(rt_cell *c, rt_g **g) {
    rt_m *m = rt_getm();
    m->curg = *g;
    TRACE(TRACE_START, m->p, *g, 0);
    if (!holds_stack(*g)) return (*g)->step(*g);
    if (atomic_load_explicit(&c->dropped, memory_order_relaxed)) {
        free_context(&(*g)->ctx);
        atomic_fetch_sub_explicit(&sched.n_held, 1, memory_order_relaxed);
        return (*g)->step(*g);
    }
    enter_held(c, *g);
    *g = c->left;
    c->left = NULL;
    return c->after;
}

/* Does what g, which left with `step`, wants. Runs g on while its commit refuses. */
static void settle(rt_cell *c, rt_g *g, rt_step step) {
    while (finish_step(g, step, c))
        step = run(c, &g);
    rt_getm()->curg = c->driver;
}

static void loop(void *arg) {
    rt_cell *c = arg;
    if (c->left) { /* this stack replaces the one that c->left holds */
        rt_g *left = c->left;
        c->left = NULL;
        settle(c, left, c->after);
    }
    for (int turns = CELL_SLICE;;) {
        rt_g *g = take(c);
        if (!g) {
            rt_set_park(c->driver, commit_idle, c, RT_WAIT_CELL);
            g_leave(c->driver, RT_PARK);
            turns = CELL_SLICE;
            continue;
        }
        g->fresh = false;
        g_set_status(g, G_RUNNABLE, G_RUNNING);
        rt_step step = run(c, &g); /* run may change g */
        settle(c, g, step);
        rt_p *p = rt_getm()->p;
        if (--turns <= 0 || atomic_load_explicit(&p->yield_now, memory_order_relaxed)) {
            atomic_store_explicit(&p->yield_now, false, memory_order_relaxed);
            g_leave(c->driver, RT_YIELD);
            turns = CELL_SLICE;
        }
    }
}

/* ---- being away; sched.lock held ---- */

/* Moves the Gs that have not begun into l. */
static void take_back(rt_cell *c, g_list *l) {
    for (rt_g *g; (g = g_list_pop(&c->fresh));)
        g_list_push(l, g);
    rt_g *g = atomic_exchange_explicit(&c->mailbox, NULL, memory_order_acquire);
    rt_g *kept = NULL;
    while (g) { /* latest first */
        rt_g *next = g->schedlink;
        if (g->fresh) {
            g_list_push(l, g);
        } else {
            g->schedlink = kept;
            kept = g;
        }
        g = next;
    }
    while (kept) { /* posted anew, earliest first; other posts may come in between */
        rt_g *next = kept->schedlink;
        rt_g *old = atomic_load_explicit(&c->mailbox, memory_order_relaxed);
        do
            kept->schedlink = old;
        while (!atomic_compare_exchange_weak_explicit(&c->mailbox, &old, kept, memory_order_acq_rel,
                                                      memory_order_relaxed));
        kept = next;
    }
}

static void set_free(g_list *l) {
    for (rt_g *g = l->head; g; g = g->schedlink)
        g->cell = NULL;
    global_put(l);
}

void cell_away(rt_cell *c, rt_m *m) {
    c->away = m;
    c->next_away = sched.away;
    sched.away = c;
    g_list l = {0};
    take_back(c, &l);
    set_free(&l);
}

void cell_back(rt_cell *c) {
    if (!c->away) return;
    c->away = NULL;
    rt_cell **at = &sched.away;
    while (*at != c)
        at = &(*at)->next_away;
    *at = c->next_away;
}

bool cell_relieve(void) {
    g_list l = {0};
    for (rt_cell *c = sched.away; c; c = c->next_away) {
        rt_g *posted = atomic_load_explicit(&c->mailbox, memory_order_relaxed);
        if (posted) take_back(c, &l);
    }
    bool any = l.head != NULL;
    set_free(&l);
    return any;
}

int32_t cells_away(void) {
    int32_t n = 0;
    for (rt_cell *c = sched.away; c; c = c->next_away)
        n++;
    return n;
}

void rt_cell_drop(rt_cell *c, bool dropped) {
    atomic_store_explicit(&c->dropped, dropped, memory_order_relaxed);
}

bool rt_cell_is_away(rt_cell *c) {
    rt_lock_acquire(&sched.lock);
    bool away = c->away;
    rt_lock_release(&sched.lock);
    return away;
}

int rt_cell_thread(rt_cell *c) {
    rt_lock_acquire(&sched.lock);
    int tid = c->away ? (int)c->away->tid : 0;
    rt_lock_release(&sched.lock);
    return tid;
}

bool rt_cell_inspect(rt_cell *c, bool (*fn)(void *arg), void *arg) {
    rt_lock_acquire(&sched.lock);
    rt_m *m = c->away;
    if (m && fn(arg)) m_interrupt(m);
    rt_lock_release(&sched.lock);
    return m != NULL;
}

/* ---- */

rt_cell *rt_cell_new(void *data) {
    rt_cell *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->data = data;
    c->driver = new_native(loop, c, RT_CELL_STACK);
    if (!c->driver) {
        free(c);
        return NULL;
    }
    c->driver->site = __builtin_return_address(0);
    c->driver->drives = c;
    atomic_store(&c->mailbox, IDLE);
    g_set_status(c->driver, G_IDLE, G_WAITING);
    return c;
}
