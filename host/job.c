/* Jobs: calls that may block, made on native Gs while the Lua G that wants them waits.
 *
 * A Lua G must not block: its VM stands still meanwhile. So it makes a job, a function and what that needs
 * (copies: the Lua values may be gone before the job is), and waits. The job runs on a native G, which says
 * rt_entersyscall where it blocks and so costs a thread and no P.
 *
 * Two hold a job, and who lets go last frees it: the native G until it has run, and Lua, whose pointer has a
 * finalizer. A wait that ends early (a deadline, a cancellation) lets the job run on: what the kernel
 * does can not be taken back. Its result is dropped with it. The same goes for a VM that is dropped: owned_drop_all
 * is the finalizer of what its Lua held.
 *
 * The wait is a ticket. The waiter publishes it, then looks whether the job is done; the job says that it is
 * done, then looks for a ticket. One of the two sees the other.
 *
 * A job starts with the first wait for it, since only there it shows whether its G can wait at all: a
 * write that was begun and then raised "cannot wait here" would be half a lie.
 *
 * lp.offload (offload.c) is the other way round: it calls whatever C function with whatever memory of Lua's, which must
 * stay until it returns.
 *
 * What does not block but is answered later by somebody else (dns.c) needs no worker: such a job is begun in the G that
 * waits, and finished by whoever has the answer.
 *
 * At most WORKERS native Gs run jobs; the others queue. So a dead network disk holds up files, but not threads
 * without end. A worker ends when the queue is empty: to start one costs less than to keep one asleep.
 */
#include "job.h"

#include <stdlib.h>

enum { WORKERS = 32 };

struct host_job {
    host_owned owned;
    void (*run)(void *arg); /* NULL: it is begun instead */
    void (*begin)(host_job *job, void *arg);
    void (*free_arg)(void *arg);
    void *arg;
    rt_g *g; /* who waits; set before the job starts */
    bool started;
    host_job *next;          /* the queue's lock */
    _Atomic uint64_t ticket; /* atomic: of the wait of g; 0: it waits no more */
    _Atomic bool done;       /* atomic: run has returned */
    _Atomic int holders;     /* atomic */
};

static struct {
    rt_lock lock;
    host_job *first, **last; /* lock */
    int workers;             /* lock */
} jobs;

/* ---- what a VM's Lua holds ---- */

void owned_take(host_owned *o, void (*let_go)(host_owned *)) {
    host_vm *vm = vm_current();
    o->vm = vm;
    o->let_go = let_go;
    o->prev = NULL;
    o->next = vm->owned;
    if (o->next) o->next->prev = o;
    vm->owned = o;
}

void owned_leave(host_owned *o) {
    if (!o->vm) return;
    if (o->prev)
        o->prev->next = o->next;
    else
        o->vm->owned = o->next;
    if (o->next) o->next->prev = o->prev;
    o->vm = NULL;
}

void owned_drop_all(host_vm *vm) {
    while (vm->owned) {
        host_owned *o = vm->owned;
        owned_leave(o);
        o->let_go(o);
    }
}

/* ---- a job's life ---- */

static void let_go(host_job *job) {
    if (atomic_fetch_sub(&job->holders, 1) > 1) return;
    job->free_arg(job->arg);
    free(job);
}

static void lua_lets_go(host_owned *o) {
    let_go((host_job *)o);
}

static host_job *new_job(void (*free_arg)(void *arg), void *arg) {
    host_job *job = calloc(1, sizeof *job);
    if (!job) {
        free_arg(arg);
        return NULL;
    }
    job->free_arg = free_arg;
    job->arg = arg;
    atomic_init(&job->holders, 1);
    owned_take(&job->owned, lua_lets_go);
    return job;
}

host_job *job_new(void (*run)(void *arg), void (*free_arg)(void *arg), void *arg) {
    host_job *job = new_job(free_arg, arg);
    if (job) job->run = run;
    return job;
}

host_job *job_new_begun(void (*begin)(host_job *job, void *arg), void (*free_arg)(void *arg),
                        void *arg) {
    host_job *job = new_job(free_arg, arg);
    if (job) job->begin = begin;
    return job;
}

void host_job_free(host_job *job) {
    owned_leave(&job->owned);
    let_go(job);
}

int host_job_done(host_job *job) {
    return atomic_load(&job->done);
}

void *job_arg(host_job *job) {
    return atomic_load(&job->done) ? job->arg : NULL;
}

void job_finish(host_job *job) {
    atomic_store(&job->done, true);
    uint64_t ticket = atomic_load(&job->ticket);
    if (ticket) rt_wake(job->g, ticket, RT_WOKEN);
    let_go(job);
}

bool job_is_forgotten(host_job *job) {
    return atomic_load(&job->holders) == 1;
}

/* ---- the workers ---- */

static void run_job(host_job *job) {
    job->run(job->arg);
    job_finish(job);
}

/* NULL: there is none, and the worker is one no more. */
static host_job *next_job(void) {
    rt_lock_acquire(&jobs.lock);
    host_job *job = jobs.first;
    if (job)
        jobs.first = job->next;
    else
        jobs.workers--;
    rt_lock_release(&jobs.lock);
    return job;
}

static void work(void *arg) {
    for (host_job *job = arg; job; job = next_job())
        run_job(job);
}

static void start(host_job *job) {
    atomic_fetch_add(&job->holders, 1);
    job->started = true;
    if (job->begin) {
        job->begin(job, job->arg);
        return;
    }
    rt_lock_acquire(&jobs.lock);
    bool hire = jobs.workers < WORKERS;
    if (hire) {
        jobs.workers++;
    } else {
        job->next = NULL;
        if (!jobs.first) jobs.last = &jobs.first;
        *jobs.last = job;
        jobs.last = &job->next;
    }
    rt_lock_release(&jobs.lock);
    if (hire) rt_go(work, job);
}

/* ---- waiting ---- */

/* The ticket is open. */
static void waits(host_luag *lg, void *arg) {
    host_job *job = arg;
    job->g = lg->g;
    atomic_store(&job->ticket, lg->ticket);
    if (!job->started)
        start(job);
    else if (atomic_load(&job->done))
        rt_wake(lg->g, lg->ticket, RT_WOKEN);
}

/* A deadline that has passed already ends it before it has begun, however fast it would be. */
static bool too_late(int64_t deadline_ns) {
    host_luag *lg = luag_current();
    int64_t limit_ns = lg->sheltered ? 0 : luag_limit(lg), now = rt_nanotime();
    return (limit_ns && limit_ns <= now) || (deadline_ns && deadline_ns <= now);
}

int job_wait(lua_State *L, host_job *job, int64_t deadline_ns) {
    if (!job->started && too_late(deadline_ns)) {
        lua_pushliteral(L, "timeout");
        return 1;
    }
    return luag_wait_with(L, RT_WAIT_SYSCALL, deadline_ns, waits, job);
}
