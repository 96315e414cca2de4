/* All connections there are, and how many there may be.
 *
 * Descriptors are what a server runs out of first. Idle clients take them all, others need them, and a
 * handler can open no file. So there is a bound, --max-conns, below the limit of descriptors by a reserve (find_max). At
 * the bound a new client makes the connection close that has been idle for longest: its client has to expect that at any
 * time. Only when none is idle the new one is refused: by a 503 from a connection of its own, as long as there are few of
 * those (SLACK, from the reserve), so that the answer arrives; beyond by one that a reset may destroy.
 *
 * A connection that has brought a request is taken to have been idle for two seconds less than it was. So a client that
 * connects and says nothing goes first, but not before connections that nobody has used for a while, lest newcomers make
 * one another leave.
 *
 * Requests pay two stores into their own connection for that: when it becomes idle, and that it is no more. Nothing is
 * kept in order of idleness. A search for room looks at LOOK_MAX connections in turn and takes the oldest of these. So it
 * is the oldest of all up to so many, and one of the older ones beyond, at a cost that does not grow.
 *
 * A connection is told to leave and does so by itself, on its G: a request that has come meanwhile is answered, and it
 * stays. Those that were told and have not gone count as gone; when they are SLACK, they have to run before the next
 * client comes in.
 */
#include "../base/log.h"
#include "../base/options.h"
#include "conns.h"

#include <dirent.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/resource.h>

enum { LOOK_MAX = 1024, LEAVE_MAX = 4, SLACK = 8, RESERVE_MIN = 16, RESERVE_MAX = 512 };
#define SAY_NS (10 * NS_PER_SEC)

static struct {
    rt_lock lock;
    list_head list;            /* lock */
    list_link *look;           /* lock: where the next search begins; NULL: at the first */
    int64_t n, leaving;        /* lock: of these, told to leave */
    _Atomic int64_t of_limit;  /* atomic: find_max's; 0: not asked yet */
    _Atomic int64_t silent_ns; /* atomic: nothing is said until then */
} conns;

/* ---- the bound ---- */

static int64_t open_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    if (!dir) return 32 + 4 * (int64_t)rt_procs();
    int64_t n = -3; /* itself, . and .. */
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* What the limit of descriptors leaves beside the open ones and a reserve for files, programs, other sockets. */
static int64_t find_max(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur > INT_MAX) return INT_MAX;
    int64_t limit = (int64_t)r.rlim_cur, reserve = limit / 8;
    if (reserve < RESERVE_MIN) reserve = RESERVE_MIN;
    if (reserve > RESERVE_MAX) reserve = RESERVE_MAX;
    int64_t max = limit - reserve - open_descriptors();
    return max > limit / 4 ? max : limit / 4 + 1;
}

void conns_init(void) {
    if (atomic_load(&conns.of_limit)) return;
    int64_t max = find_max();
    atomic_store(&conns.of_limit, max);
    if (options.max_conns > max)
        log_line(LOG_WARN, "--max-conns %lld: the limit of descriptors leaves room for %lld",
                 (long long)options.max_conns, (long long)max);
}

static int64_t max_conns(void) {
    int64_t max = options.max_conns;
    return max ? max : atomic_load_explicit(&conns.of_limit, memory_order_relaxed);
}

/* ---- making room ---- */

/* The lock is held. Tells the one that has been idle for longest to leave. False: none is idle. */
static bool tell_idlest(void) {
    host_conn *idlest = NULL;
    list_link *l = conns.look;
    int64_t since = INT64_MAX;
    for (int64_t i = 0; i < conns.n && i < LOOK_MAX; i++, l = l->next) {
        if (!l) l = conns.list.first;
        host_conn *c = list_of(l, host_conn, link);
        int64_t idle = atomic_load_explicit(&c->idle_ns, memory_order_relaxed);
        if (idle == 0 || idle >= since || atomic_load(&c->leaves)) continue;
        idlest = c;
        since = idle;
    }
    conns.look = l;
    if (!idlest) return false;
    atomic_store(&idlest->leaves, true);
    conns.leaving++;
    rt_pd_kick(idlest->io.pd, RT_R);
    return true;
}

static void say_refused(int64_t max) {
    int64_t now = rt_nanotime(), until = atomic_load(&conns.silent_ns);
    if (now >= until && atomic_compare_exchange_strong(&conns.silent_ns, &until, now + SAY_NS))
        log_line(LOG_WARN,
                 "new clients are refused: %lld connections (--max-conns), none of them idle",
                 (long long)max);
}

conns_answer conns_admit(void) {
    int64_t max = max_conns();
    rt_lock_acquire(&conns.lock);
    for (int i = 0; i < LEAVE_MAX && conns.n - conns.leaving >= max; i++)
        if (!tell_idlest()) break;
    conns_answer answer = CONNS_SERVE;
    if (conns.n - conns.leaving >= max + SLACK)
        answer = CONNS_TURN_AWAY;
    else if (conns.n >= max + SLACK) /* they have to run first */
        answer = CONNS_LATER;
    else if (conns.n - conns.leaving >= max)
        answer = CONNS_REFUSE;
    rt_lock_release(&conns.lock);
    if (answer == CONNS_REFUSE || answer == CONNS_TURN_AWAY) say_refused(max);
    return answer;
}

void conns_stay(host_conn *c) {
    rt_lock_acquire(&conns.lock);
    conns.leaving--;
    atomic_store(&c->leaves, false);
    rt_lock_release(&conns.lock);
}

/* ---- the list ---- */

void conns_add(host_conn *c) {
    rt_lock_acquire(&conns.lock);
    list_prepend(&conns.list, &c->link);
    conns.n++;
    rt_lock_release(&conns.lock);
}

void conns_remove(host_conn *c) {
    rt_lock_acquire(&conns.lock);
    if (conns.look == &c->link) conns.look = c->link.next;
    list_remove(&conns.list, &c->link);
    if (atomic_load(&c->leaves)) conns.leaving--;
    conns.n--;
    rt_lock_release(&conns.lock);
}

void conns_kick(const host_server *s) {
    rt_lock_acquire(&conns.lock);
    for (list_link *l = conns.list.first; l; l = l->next) {
        host_conn *c = list_of(l, host_conn, link);
        if (c->server == s) rt_pd_kick(c->io.pd, RT_R);
    }
    rt_lock_release(&conns.lock);
}
