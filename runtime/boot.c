/* From main() to the first G: os, scheduler, Ps with their pollers, sysmon, main G, loop.
 *
 * The calling thread becomes m0 and takes P 0; the other Ps are idle until wakep starts an M for
 * them. */
#include "impl.h"

#include <stdlib.h>

enum { STACK_MAIN = 1 << 20 };

static struct {
    void (*fn)(void *);
    void *arg;
} main_call;

static void main_g(void *arg) {
    (void)arg;
    main_call.fn(main_call.arg);
    exit(0);
}

void rt_main(const rt_options *opts, void (*fn)(void *), void *arg) {
    os_raise_fd_limit();
    unwind_init();
    debugenv_init(getenv("LUNAPARK_DEBUG"));
    signal_init(opts->keep_signals);
    sched.deadlock_is_normal = opts->deadlock_is_normal;
    init_gs();
    procs_init(opts->procs > 0 ? opts->procs : 0);
    m_init_main();
    if (opts->seed) sched.m0.rand = opts->seed;
    p_acquire(&sched.m0, &sched.ps[0]);
    sysmon_start();
    signal_start();
    main_call.fn = fn;
    main_call.arg = arg;
    rt_g *g = new_native(main_g, NULL, STACK_MAIN);
    if (!g) debug_no_start("no memory for a stack of %d bytes", STACK_MAIN);
    g->site = __builtin_return_address(0);
    g_set_status(g, G_IDLE, G_RUNNABLE);
    g_enqueue(g);
    schedule_loop(&sched.m0);
    abort(); /* the loop has no end */
}
