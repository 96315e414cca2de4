/* Gs: how they are made and how they end.
 *
 * Gs come and go faster than malloc likes, and other code keeps pointers to them: tickets, watchers, dumps. So Gs are
 * made in blocks that are never given back, and a dead G waits in a free list for its next life. A stale pointer always
 * points to a G. The G's id, which is never used again, or its ticket tells that the G lives anew.
 *
 * Each P has two lists of dead Gs that need no lock, one of Gs with a stack and one of Gs without. A full list gives
 * half to the global list of its kind, an empty one takes as many from there (gfree_lock). A native G of the usual
 * stack size keeps its stack when it dies. sysmon gives the pages of such stacks in the global list back
 * (stack_scavenge). A native G is made from a G with a stack, if need be from the global list. Else Gs that begin on
 * one P and end on another would give ever more Gs a stack, since each G keeps its stack.
 *
 * The last G_RESERVE dead Gs of the global list are for rt_new_step_sure: for work that has to be done without memory,
 * since it gives memory back.
 */
#include "impl.h"

#include <stdlib.h>
#include <string.h>

enum { G_RESERVE = 256 }; /* dead Gs of the global list that rt_new_step_sure alone gets */

__attribute__((cold, noinline)) void g_bad_status(const rt_g *g, uint32_t now, g_status from,
                                                  g_status to) {
    rt_throw("G %lld: state %u, asked to go from %d to %d", (long long)rt_id(g), now, from, to);
}

void init_gs(void) {
    atomic_store(&sched.next_id, 0); /* the runtime's own G; the main G is 1 */
}

/* gfree_lock held. Adds a block of new Gs to the global list. False: no memory. */
static bool add_block(void) {
    if (sched.n_blocks == sched.blocks_cap) {
        uint32_t cap = sched.blocks_cap ? sched.blocks_cap * 2 : 64;
        rt_g **blocks = realloc(sched.blocks, cap * sizeof *blocks);
        if (!blocks) return false;
        sched.blocks = blocks;
        sched.blocks_cap = cap;
    }
    rt_g *gs = aligned_alloc(CACHE_LINE, G_BLOCK * ((sizeof *gs + CACHE_LINE - 1) & -CACHE_LINE));
    if (!gs) return false;
    memset(gs, 0, G_BLOCK * sizeof *gs);
    for (int i = 0; i < G_BLOCK; i++) {
        atomic_store_explicit(&gs[i].status, G_DEAD, memory_order_relaxed);
        g_list_push(&sched.gfree, &gs[i]);
    }
    sched.blocks[sched.n_blocks++] = gs;
    return true;
}

/* gfree_lock held. Takes a G from the global list, and some more for p's own list; `rest` of them stay. */
static rt_g *refill(g_list *global, g_list *own, int rest) {
    rt_g *g = g_list_pop(global);
    for (int i = 0; own && i < GFREE_MAX / 2 && global->n > rest; i++)
        g_list_push(own, g_list_pop(global));
    return g;
}

/* gfree_lock held. Takes a G without a stack. NULL: no memory. */
static rt_g *take_global(g_list *own, bool sure) {
    while (sched.gfree.n <= G_RESERVE && add_block())
        ;
    if (sched.gfree.n <= G_RESERVE && !sure) return NULL;
    return refill(&sched.gfree, own, G_RESERVE);
}

/* Takes a dead G and moves it to idle. NULL: no memory. sure: from the reserve if need be. with_stack: rather a G that
 * kept its stack, of STACK_NATIVE bytes, if need be from the global list: see the essay. */
static rt_g *take_g(bool with_stack, bool sure) {
    rt_m *m = rt_getm();
    rt_p *p = m ? m->p : NULL;
    rt_g *g = NULL;
    if (p) g = g_list_pop(with_stack ? &p->stack_gfree : &p->gfree);
    if (!g) {
        rt_lock_acquire(&sched.gfree_lock);
        if (with_stack) g = refill(&sched.stack_gfree, p ? &p->stack_gfree : NULL, 0);
        if (!g && with_stack && p) g = g_list_pop(&p->gfree);
        if (!g) g = take_global(p ? &p->gfree : NULL, sure);
        rt_lock_release(&sched.gfree_lock);
        if (!g) return NULL;
    }
    g_set_status(g, G_DEAD, G_IDLE);
    g->trimmed = false;
    if (!g->timer.fn) rt_timer_init(&g->timer, wait_deadline, g);
    atomic_store_explicit(&g->id,
                          atomic_fetch_add_explicit(&sched.next_id, 1, memory_order_relaxed),
                          memory_order_relaxed);
    return g;
}

void bury(rt_g *g) {
    g_set_status(g, G_RUNNING, G_DEAD);
    rt_stack s = g->ctx.stack;
    rt_context_destroy(&g->ctx);
    if (s.hi - s.lo > STACK_NATIVE) {
        stack_free(s);
        g->ctx.stack = (rt_stack){0};
    }
    g->step = NULL;
    g->cell = g->drives = NULL;
    g->system = g->fresh = false;
    rt_p *p = rt_getm()->p;
    bool has_stack = g->ctx.stack.lo != NULL;
    g_list *l = has_stack ? &p->stack_gfree : &p->gfree;
    g_list_push_front(l, g); /* the next G to begin finds this one in the cache */
    if (l->n < GFREE_MAX) return;
    g_list half = {0};
    while (l->n > GFREE_MAX / 2)
        g_list_push(&half, g_list_pop(l));
    rt_lock_acquire(&sched.gfree_lock);
    g_list *global = has_stack ? &sched.stack_gfree : &sched.gfree;
    while (half.head)
        g_list_push(global, g_list_pop(&half));
    rt_lock_release(&sched.gfree_lock);
}

void g_give_lists(rt_p *p) {
    rt_lock_acquire(&sched.gfree_lock);
    for (rt_g *g; (g = g_list_pop(&p->gfree));)
        g_list_push(&sched.gfree, g);
    for (rt_g *g; (g = g_list_pop(&p->stack_gfree));)
        g_list_push(&sched.stack_gfree, g);
    rt_lock_release(&sched.gfree_lock);
}

/* Gives a G back that was taken, cannot be used and has no stack. */
static void give_back(rt_g *g) {
    rt_lock_acquire(&sched.gfree_lock);
    atomic_store_explicit(&g->status, G_DEAD, memory_order_release);
    g_list_push(&sched.gfree, g);
    rt_lock_release(&sched.gfree_lock);
}

rt_g *new_native(void (*fn)(void *), void *arg, size_t stack_size) {
    bool usual = stack_size <= STACK_NATIVE;
    rt_g *g = take_g(usual, false);
    if (!g) return NULL;
    rt_stack s = g->ctx.stack;
    if (!s.lo) s = stack_alloc(usual ? STACK_NATIVE : stack_size);
    if (!s.lo) {
        give_back(g);
        return NULL;
    }
    g->fn = fn;
    g->arg = arg;
    rt_context_make(&g->ctx, s, native_main, g);
    return g;
}

static rt_g *start_native(rt_g *g, void *site) {
    if (!g) return NULL;
    g->site = site;
    g_set_status(g, G_IDLE, G_RUNNABLE);
    g_enqueue(g);
    return g;
}

rt_g *rt_make(void (*fn)(void *), void *arg, size_t stack_size) {
    rt_g *g = new_native(fn, arg, stack_size);
    if (g) g->site = __builtin_return_address(0);
    return g;
}

rt_g *rt_go(void (*fn)(void *), void *arg) {
    return start_native(new_native(fn, arg, STACK_NATIVE), __builtin_return_address(0));
}

rt_g *rt_go_stack(void (*fn)(void *), void *arg, size_t stack_size) {
    return start_native(new_native(fn, arg, stack_size), __builtin_return_address(0));
}

static rt_g *begin_step(rt_g *g, rt_step_fn step, rt_cell *cell, void *site) {
    if (!g) return NULL;
    g->site = site;
    g->step = step;
    g->cell = cell;
    g_set_status(g, G_IDLE, G_WAITING);
    return g;
}

rt_g *rt_new_step(rt_step_fn step, rt_cell *cell) {
    return begin_step(take_g(false, false), step, cell, __builtin_return_address(0));
}

rt_g *rt_new_step_sure(rt_step_fn step, rt_cell *cell) {
    rt_g *g = begin_step(take_g(false, true), step, cell, __builtin_return_address(0));
    if (!g) rt_throw("out of memory for a G, and all %d of the reserve are in use", G_RESERVE);
    return g;
}

void rt_set_step(rt_g *g, rt_step_fn step, rt_cell *cell) {
    g->fresh = cell && cell != g->cell;
    g->step = step;
    g->cell = cell;
}
