/* All connections, and their bound.
 *
 * A server runs out of descriptors first. If idle clients take all of them, other clients get none, and handlers can
 * open no file. So there is a bound, --max-conns, below the limit of descriptors by a reserve (find_max). At the bound
 * a new client makes the connection close that has been idle for longest: its client has to expect this at any time.
 * Only if none is idle, the new client is refused. A connection of its own answers so (503), so that the answer
 * arrives, as long as there are few such connections (SLACK, from the reserve). Beyond, the client gets an answer that
 * a reset may destroy.
 *
 * A connection that has brought a request counts as idle from two seconds after it. So a client that connects and
 * says nothing goes first. But it does not go before connections that have been unused for a while, so that newcomers
 * do not make one another leave.
 *
 * A request pays two stores into its own connection for this: when the connection becomes idle, and when it is idle no
 * more. Connections are not kept in the order of idleness. A search for room looks at LOOK_MAX connections, where the
 * last search ended, and takes the one that has been idle for longest. Up to LOOK_MAX connections this is the idlest of
 * all. Beyond, it is one of the idler ones, and the cost does not grow.
 *
 * A connection is told to leave and does so itself, on its G. If a request has come meanwhile, the connection answers
 * the request and stays. Connections that were told to leave and are still there count as gone. When SLACK of them are
 * there, they have to run before the next client comes in.
 */
#include "conns.h"

#include "../base/log.h"
#include "../base/options.h"

#include <dirent.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/resource.h>

enum { LOOK_MAX = 1024, LEAVE_MAX = 4, SLACK = 8, RESERVE_MIN = 16, RESERVE_MAX = 512 };
#define SAY_NS (10 * NS_PER_SEC)

/* The lock is held. Has c look at what has changed. */
static void look(server_conn *c) {
    if (!c->is_apart) c->server->listener.protocol->look(c);
}

static struct {
    rt_lock lock;
    list_head list;            /* lock */
    list_link *look;           /* lock: where the next search begins; NULL: at the first */
    int64_t n, leaving;        /* lock: connections; those told to leave */
    _Atomic int64_t of_limit;  /* atomic: find_max's answer; 0: not asked yet */
    _Atomic int64_t silent_ns; /* atomic: no refusal is logged until then */
} conns;

/* ---- the bound ---- */

static int64_t open_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    if (!dir) return 32 + 4 * (int64_t)rt_procs();
    int64_t n = -3; /* not counted: dir itself, . and .. */
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* The connections that the limit of descriptors leaves beside the open descriptors and a reserve for files, programs,
 * other sockets. */
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

/* The lock is held. Tells the connection that has been idle for longest to leave. False: none is idle. */
static bool tell_idlest(void) {
    server_conn *idlest = NULL;
    list_link *l = conns.look;
    int64_t since = INT64_MAX;
    for (int64_t i = 0; i < conns.n && i < LOOK_MAX; i++, l = l->next) {
        if (!l) l = conns.list.first;
        server_conn *c = list_of(l, server_conn, link);
        int64_t idle = atomic_load_explicit(&c->idle_ns, memory_order_relaxed);
        if (idle == 0 || idle >= since || atomic_load(&c->leaves)) continue;
        idlest = c;
        since = idle;
    }
    conns.look = l;
    if (!idlest) return false;
    atomic_store(&idlest->leaves, true);
    conns.leaving++;
    look(idlest);
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
    else if (conns.n >= max + SLACK) /* connections that were told to leave have to run first */
        answer = CONNS_LATER;
    else if (conns.n - conns.leaving >= max)
        answer = CONNS_REFUSE;
    rt_lock_release(&conns.lock);
    if (answer == CONNS_REFUSE || answer == CONNS_TURN_AWAY) say_refused(max);
    return answer;
}

void conns_stay(server_conn *c) {
    rt_lock_acquire(&conns.lock);
    conns.leaving--;
    atomic_store(&c->leaves, false);
    rt_lock_release(&conns.lock);
}

void conns_set_apart(server_conn *c, bool apart) {
    rt_lock_acquire(&conns.lock);
    c->is_apart = apart;
    rt_lock_release(&conns.lock);
}

/* ---- the list ---- */

void conns_add(server_conn *c) {
    rt_lock_acquire(&conns.lock);
    list_prepend(&conns.list, &c->link);
    conns.n++;
    rt_lock_release(&conns.lock);
}

void conns_remove(server_conn *c) {
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
        server_conn *c = list_of(l, server_conn, link);
        if (c->server == s) look(c);
    }
    rt_lock_release(&conns.lock);
}
