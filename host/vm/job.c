/* Jobs: calls that may block, made on native Gs while the asking Lua G waits.
 *
 * A Lua G must not block: its VM would stand still. So the G makes a job, a function with its arguments (copies: the
 * Lua values may be gone before the job is), and waits. The job runs on a native G, which calls rt_entersyscall where
 * it blocks, and so costs a thread and no P.
 *
 * Two hold a job, and the last to let go frees it: the native G until the job has run, and Lua, whose pointer has a
 * finalizer. A wait that ends early (a deadline, a cancellation) lets the job run on, since the kernel's work cannot be
 * taken back; the result is dropped. A VM that ends lets its jobs run on as well (owned.c).
 *
 * A job starts with the first wait for it, since only this wait shows whether its G can wait at all. Else a write could
 * begin and its caller hear "cannot wait here".
 *
 * lp.offload (offload.c) differs: it calls any C function with any memory of Lua's, which must stay until the function
 * returns.
 *
 * Work that does not block but is answered later from elsewhere (dns.c) needs no worker: such a job is begun in the
 * waiting G and finished by the code that has the answer.
 *
 * At most WORKERS native Gs run jobs; further jobs queue. So a dead network disk holds up files, but does not take ever
 * more threads. A worker ends when the queue is empty, since starting a worker costs less than keeping one asleep.
 * Without memory for a worker, the queued jobs are done without having run, and Lua says so.
 */
#include "job.h"

#include "../base/bell.h"
#include "../base/list.h"
#include "../base/refs.h"
#include "luag.h"
#include "owned.h"
#include "wait.h"

#include <stdlib.h>

enum { WORKERS = 32 };

struct host_job {
    host_owned owned;
    void (*run)(void *arg); /* NULL: begin was called instead */
    void (*begin)(host_job *job, void *arg);
    void (*free_arg)(void *arg);
    void *arg;
    bool started;
    bool unrun;     /* there was no memory to run the job; written before `done` */
    list_link link; /* of jobs.waiting */
    bell done;      /* rung once */
    refs refs;
};

static struct {
    rt_lock lock;
    list_head waiting; /* lock: for a worker */
    int workers;       /* lock */
} jobs;

/* ---- a job's life ---- */

static void let_go(host_job *job) {
    if (!refs_drop(&job->refs)) return;
    job->free_arg(job->arg);
    free(job);
}

static void lua_lets_go(host_owned *o) {
    let_go((host_job *)o);
}

static const owned_kind job_kind = {OWNED_THINGS, lua_lets_go};

static host_job *new_job(void (*free_arg)(void *arg), void *arg) {
    host_job *job = calloc(1, sizeof *job);
    if (!job) {
        free_arg(arg);
        return NULL;
    }
    job->free_arg = free_arg;
    job->arg = arg;
    refs_init(&job->refs, 1);
    owned_take(&job->owned, &job_kind);
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
    owned_free(&job->owned);
}

int host_job_done(host_job *job) {
    return !bell_is_rung(&job->done) ? 0 : job->unrun ? 2 : 1;
}

void *job_arg(host_job *job) {
    return bell_is_rung(&job->done) ? job->arg : NULL;
}

void job_finish(host_job *job) {
    bell_ring(&job->done);
    let_go(job);
}

bool job_is_forgotten(host_job *job) {
    return refs_alone(&job->refs);
}

/* ---- the workers ---- */

static void run_job(host_job *job) {
    job->run(job->arg);
    job_finish(job);
}

/* The next job of the queue. NULL: there is none, and the worker is counted no more. */
static host_job *next_job(void) {
    rt_lock_acquire(&jobs.lock);
    list_link *l = list_take_first(&jobs.waiting);
    if (!l) jobs.workers--;
    rt_lock_release(&jobs.lock);
    return l ? list_of(l, host_job, link) : NULL;
}

static void work(void *arg) {
    (void)arg;
    for (host_job *job; (job = next_job());)
        run_job(job);
}

static void work_on_a_thread(void *arg) {
    work(arg);
    rt_release_thread();
}

/* Counts a worker less, if any is left then. */
static bool do_without(void) {
    rt_lock_acquire(&jobs.lock);
    bool others = jobs.workers > 1;
    if (others) jobs.workers--;
    rt_lock_release(&jobs.lock);
    return others;
}

/* Counts a worker less. If it was the last, the queued jobs are done without having run. */
static void give_up(void) {
    rt_lock_acquire(&jobs.lock);
    list_head left = {NULL, NULL};
    if (--jobs.workers == 0) left = list_take_all(&jobs.waiting);
    rt_lock_release(&jobs.lock);
    for (list_link *l; (l = list_take_first(&left));) {
        host_job *job = list_of(l, host_job, link);
        job->unrun = true;
        job_finish(job);
    }
}

/* Starts a counted worker. Without a thread for it, the other workers do the work. If there are none, the worker takes
 * any thread, since reading a file matters more. */
static void hire(void) {
    bool claimed = rt_claim_thread();
    if (!claimed && do_without()) return;
    if (rt_go(claimed ? work_on_a_thread : work, NULL)) return;
    if (claimed) rt_release_thread();
    give_up();
}

static void start(host_job *job) {
    refs_hold(&job->refs);
    job->started = true;
    if (job->begin) {
        job->begin(job, job->arg);
        return;
    }
    rt_lock_acquire(&jobs.lock);
    list_append(&jobs.waiting, &job->link);
    bool more = jobs.workers < WORKERS;
    if (more) jobs.workers++;
    rt_lock_release(&jobs.lock);
    if (more) hire();
}

/* ---- waiting ---- */

/* Waits for the job; the ticket is open. */
static void waits(host_luag *lg, void *arg) {
    host_job *job = arg;
    if (!bell_arm(&job->done, lg->g, lg->ticket))
        rt_wake(lg->g, lg->ticket, RT_WOKEN);
    else if (!job->started)
        start(job);
}

/* True: the deadline has passed: the job does not begin, however fast it would be. */
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
