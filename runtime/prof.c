/* The CPU profiler: where threads were each time they had used another 1/hz s of CPU time.
 *
 * Each M's thread has a timer on its own CPU clock. A thread that sleeps is not sampled, and a thread that computes is
 * sampled evenly, whatever the other threads do. (A process-wide ITIMER_PROF hits the thread that the kernel likes.)
 * The timer's SIGPROF goes to its thread alone (SIGEV_THREAD_ID). Ms that begin later get their timers then. The kernel
 * looks at CPU timers at its ticks: with HZ of 250 and 1,000 samples a second asked for, four samples come as one
 * signal. The signal's si_overrun says so and is counted. Sysmon, which has no P, is not sampled.
 *
 * The handler unwinds (unwind.c) the stack that contains its stack pointer: the G's, the cell's or the M's own. The
 * handler claims the next slot of a fixed array by an atomic increment and writes the program counters there. A full
 * array drops the newest samples and counts them. The release store of its depth, last, publishes a sample.
 *
 * rt_prof_stop turns off the timers, waits for the handlers that are under way on other threads, and reads the
 * published samples. A handler counts itself in `in`, then asks `on`. rt_prof_stop clears `on`, then asks `in` (both
 * sequentially consistent). So either the handler takes no sample, or rt_prof_stop waits for it. Without the wait, a
 * late handler could write to a slot that the next profile has given to another handler. The array is never given back.
 *
 * Folding happens at the end. Each address becomes the start of its function, and stacks that are equal by functions
 * are added up. Each stack gets a line "outermost;...;innermost count", which flamegraph.pl and speedscope take. Code
 * made at run time has no names: its address appears as "0x7f12...", at the outer end of its stack. A program that runs
 * such code gives two functions to rt_prof_on_sample. The first puts numbers that stand for the code into the stack, in
 * the handler. The second names these numbers when the lines are written.
 *
 * Rejected: perf_event_open (not allowed in most containers); a hash table filled by the handler (smaller, but a
 * handler that waits for a bucket of the thread it interrupted waits for ever).
 */
#include "impl.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifndef sigev_notify_thread_id /* glibc 2.36 does not name it */
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { DEPTH = 62, HZ_DEFAULT = 100, HZ_MAX = 1000 };
#ifdef RT_TINY
enum { SAMPLES = 16 };
#else
enum { SAMPLES = 32 << 10 }; /* 16 MiB of address space, committed as they are used */
#endif

typedef struct sample {
    _Atomic uint32_t depth; /* 0: not published */
    uint32_t weight;
    uintptr_t pc[DEPTH]; /* innermost first */
} sample;

static int (*edit)(const void *context, uintptr_t *pcs, int n, int max);
static const char *(*name_of)(uintptr_t id);

static struct {
    rt_lock lock;
    bool running;       /* lock */
    bool folding;       /* lock: rt_prof_stop reads the samples */
    int hz;             /* lock */
    _Atomic bool on;    /* handlers take samples */
    _Atomic int32_t in; /* handlers under way */
    sample *samples;    /* made at the first start, never given back */
    _Atomic uint32_t n; /* slots claimed; may grow beyond SAMPLES */
    _Atomic int64_t dropped;
} prof;

/* ---- taking samples ---- */

static bool holds(rt_stack s, uintptr_t sp) {
    return sp >= (uintptr_t)s.lo && sp < (uintptr_t)s.hi;
}

/* The stack that contains sp, {0} if none does. All candidates are asked, since the thread may be between two
 * stacks. */
RT_PEEKS static rt_stack stack_of(rt_m *m, uintptr_t sp) {
    rt_g *g = m->curg;
    rt_g *left = m->left;
    rt_cell *c = m->cell;
    if (g && !g->step && holds(g->ctx.stack, sp)) return g->ctx.stack;
    if (left && holds(left->ctx.stack, sp)) return left->ctx.stack;
    if (c && holds(cell_driver(c)->ctx.stack, sp)) return cell_driver(c)->ctx.stack;
    if (holds(m->ctx.stack, sp)) return m->ctx.stack;
    return (rt_stack){0};
}

static uintptr_t sp_of(const void *context) {
    const mcontext_t *mc = &((const ucontext_t *)context)->uc_mcontext;
#if defined(__x86_64__)
    return (uintptr_t)mc->gregs[REG_RSP];
#else
    return mc->sp;
#endif
}

static void on_sample(int signo, siginfo_t *info, void *context) {
    (void)signo;
    int saved = errno;
    rt_m *m = rt_getm();
    atomic_fetch_add(&prof.in, 1);
    if (m && info->si_code == SI_TIMER && atomic_load(&prof.on)) {
        uint32_t weight = 1 + (uint32_t)(info->si_overrun > 0 ? info->si_overrun : 0);
        uint32_t i = atomic_fetch_add(&prof.n, 1);
        if (i < SAMPLES) {
            sample *s = &prof.samples[i];
            s->weight = weight;
            int depth = unwind(context, stack_of(m, sp_of(context)), s->pc, DEPTH);
            if (edit) depth = edit(context, s->pc, depth, DEPTH);
            atomic_store_explicit(&s->depth, (uint32_t)depth, memory_order_release);
        } else {
            atomic_store(&prof.n, SAMPLES); /* n must not wrap */
            atomic_fetch_add(&prof.dropped, weight);
        }
    }
    atomic_fetch_sub(&prof.in, 1);
    errno = saved;
}

/* ---- timers; prof.lock held ---- */

static int arm(rt_m *m) {
    int32_t tid = atomic_load(&m->tid);
    if (tid == 0 || m->has_prof_timer)
        return 0; /* tid 0: the thread's start arms it, or the thread has ended */
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    ev.sigev_notify_thread_id = tid;
    /* The CPU clock of the thread tid, as pthread_getcpuclockid makes it of a pthread_t. */
    clockid_t clock = (clockid_t)(~(unsigned)tid << 3 | 6);
    if (timer_create(clock, &ev, &m->prof_timer) < 0) return -errno;
    m->has_prof_timer = true;
    int64_t ns = NS_PER_SEC / prof.hz;
    struct itimerspec t = {.it_interval = {ns / NS_PER_SEC, ns % NS_PER_SEC}};
    t.it_value = t.it_interval;
    return timer_settime(m->prof_timer, 0, &t, NULL) < 0 ? -errno : 0;
}

static void disarm_all(void) {
    for (rt_m *m = atomic_load(&sched.all_ms); m; m = m->all_link)
        if (m->has_prof_timer) {
            timer_delete(m->prof_timer);
            m->has_prof_timer = false;
        }
}

/* The caller is m's thread and has set m->tid. Under the lock, so either rt_prof_start finds the tid, or this function
 * finds that the profiler runs. An error of arm is ignored: one unsampled thread is no reason to end. */
void prof_init_m(rt_m *m) {
    rt_lock_acquire(&prof.lock);
    if (prof.running) arm(m);
    rt_lock_release(&prof.lock);
}

/* Under the lock, so that no timer is armed for a thread that has ended. */
void prof_end_m(rt_m *m) {
    rt_lock_acquire(&prof.lock);
    if (m->has_prof_timer) timer_delete(m->prof_timer);
    m->has_prof_timer = false;
    atomic_store(&m->tid, 0);
    rt_lock_release(&prof.lock);
}

void rt_prof_on_sample(int (*edits)(const void *context, uintptr_t *pcs, int n, int max),
                       const char *(*names)(uintptr_t id)) {
    edit = edits;
    name_of = names;
}

/* Installs the handler, for good: a last SIGPROF may be on its way and would end the process. -EBUSY: the program has a
 * handler of its own. If ours replaced it, the program would put its own back later, while we count on ours. */
static int set_handler(void) {
    struct sigaction now,
        sa = {.sa_sigaction = on_sample, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    if (sigaction(SIGPROF, NULL, &now) < 0) return -errno;
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_sample) return 0;
    if (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN) return -EBUSY;
    sigfillset(&sa.sa_mask);
    return sigaction(SIGPROF, &sa, NULL) < 0 ? -errno : 0;
}

/* prof.lock held. Waits for handlers under way: each takes some microseconds of CPU time and waits for nothing. */
static void stop_sampling(void) {
    disarm_all();
    atomic_store(&prof.on, false);
    while (atomic_load(&prof.in) > 0)
        sched_yield();
}

static int set_up(void) {
    if (!prof.samples) {
        void *mem = mmap(NULL, sizeof(sample) * SAMPLES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mem == MAP_FAILED) return -errno;
        prof.samples = mem;
    }
    return set_handler();
}

int rt_prof_start(int hz) {
    if (hz < 0 || hz > HZ_MAX) return -EINVAL;
    rt_lock_acquire(&prof.lock);
    int err = prof.running || prof.folding ? -EBUSY : set_up();
    if (!err) {
        prof.hz = hz ? hz : HZ_DEFAULT;
        uint32_t used = atomic_load(&prof.n);
        for (uint32_t i = 0; i < used && i < SAMPLES; i++)
            atomic_store(&prof.samples[i].depth, 0);
        atomic_store(&prof.n, 0);
        atomic_store(&prof.dropped, 0);
        atomic_store(&prof.on, true);
        prof.running = true;
        for (rt_m *m = atomic_load(&sched.all_ms); m && !err; m = m->all_link)
            err = arm(m);
        if (err) {
            stop_sampling();
            prof.running = false;
        }
    }
    rt_lock_release(&prof.lock);
    return err;
}

/* ---- folding: prof.folding is set, prof.lock is free, since a thread that starts takes it (prof_init_m) ---- */

typedef struct name {
    uintptr_t pc, start; /* start: pc itself if the function is unknown */
} name;

static int by_pc(const void *a, const void *b) {
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return (x > y) - (x < y);
}

static bool is_named(uintptr_t pc) {
    return (pc & RT_PROF_NAMED) != 0;
}

/* An address inside the frame's function. The address of a calling frame is the one after the call, which may belong to
 * the next function. */
static uintptr_t inside(const sample *s, uint32_t i) {
    return is_named(s->pc[i]) ? s->pc[i] : s->pc[i] - (i > 0);
}

/* Makes each address the start of its function. Each distinct one is looked up once. */
static int to_functions(sample **all, uint32_t n) {
    size_t total = 0, distinct = 0;
    for (uint32_t i = 0; i < n; i++)
        total += all[i]->depth;
    uintptr_t *pcs = malloc((total + 1) * sizeof *pcs);
    name *names = malloc((total + 1) * sizeof *names);
    if (!pcs || !names) {
        free(pcs);
        free(names);
        return -ENOMEM;
    }
    total = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < all[i]->depth; k++)
            pcs[total++] = inside(all[i], k);
    qsort(pcs, total, sizeof *pcs, by_pc);
    for (size_t i = 0; i < total; i++) {
        if (distinct && names[distinct - 1].pc == pcs[i]) continue;
        rt_symbol s = {0};
        if (!is_named(pcs[i])) symbol_find((void *)pcs[i], &s); /* NOLINT: an address it is */
        names[distinct++] = (name){pcs[i], s.name ? s.start : pcs[i]};
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < all[i]->depth; k++) {
            uintptr_t pc = inside(all[i], k);
            all[i]->pc[k] = ((name *)bsearch(&pc, names, distinct, sizeof *names, by_pc))->start;
        }
    free(pcs);
    free(names);
    return 0;
}

static int by_stack(const void *a, const void *b) {
    const sample *x = *(sample *const *)a, *y = *(sample *const *)b;
    if (x->depth != y->depth) return x->depth < y->depth ? -1 : 1;
    return memcmp(x->pc, y->pc, x->depth * sizeof *x->pc);
}

/* A name may contain the separators: these become '?'. */
static void print_name(FILE *f, const char *s) {
    for (; *s; s++)
        fputc((unsigned char)*s < ' ' || *s == ';' ? '?' : *s, f);
}

static void print_stack(FILE *f, const sample *s, int64_t count) {
    for (uint32_t k = s->depth; k-- > 0;) {
        rt_symbol y = {0};
        if (is_named(s->pc[k]))
            y.name = name_of(s->pc[k] & ~RT_PROF_NAMED);
        else
            symbol_find((void *)s->pc[k], &y); /* NOLINT: an address it is */
        if (y.name)
            print_name(f, y.name);
        else if (y.module)
            fprintf(f, "%s+0x%lx", y.module, (unsigned long)(s->pc[k] - y.start));
        else
            fprintf(f, "0x%lx", (unsigned long)s->pc[k]);
        fputc(k ? ';' : ' ', f);
    }
    fprintf(f, "%lld\n", (long long)count);
}

static int fold(FILE *f, rt_prof_result *result) {
    uint32_t claimed = atomic_load(&prof.n), n = 0;
    if (claimed > SAMPLES) claimed = SAMPLES;
    sample **all = malloc((claimed + 1) * sizeof *all);
    if (!all) return -ENOMEM;
    for (uint32_t i = 0; i < claimed; i++)
        if (atomic_load_explicit(&prof.samples[i].depth, memory_order_acquire))
            all[n++] = &prof.samples[i];
    for (uint32_t i = 0; i < n; i++)
        result->samples += all[i]->weight;
    int err = f ? to_functions(all, n) : 0;
    if (f && !err) {
        qsort(all, n, sizeof(sample *), by_stack); /* NOLINT: an array of pointers */
        int64_t count = 0;
        for (uint32_t i = 0; i < n; i++) {
            count += all[i]->weight;
            if (i + 1 < n && by_stack(&all[i], &all[i + 1]) == 0) continue;
            print_stack(f, all[i], count);
            count = 0;
        }
        if (fflush(f) != 0 || ferror(f)) err = -EIO;
    }
    free(all);
    return err;
}

int rt_prof_stop(FILE *file, rt_prof_result *result) {
    rt_prof_result r = {0};
    int err = -EINVAL;
    rt_g *g = rt_self();
    bool native = g && !g->step;
    if (native) rt_entersyscallblock();
    rt_lock_acquire(&prof.lock);
    bool folds = prof.running;
    if (folds) {
        stop_sampling();
        prof.running = false;
        prof.folding = true;
    }
    rt_lock_release(&prof.lock);
    if (folds) {
        err = fold(file, &r);
        r.dropped = atomic_load(&prof.dropped);
        rt_lock_acquire(&prof.lock);
        prof.folding = false;
        rt_lock_release(&prof.lock);
    }
    if (native) rt_exitsyscall();
    if (result) *result = r;
    return err;
}
