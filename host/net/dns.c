/* Names: c-ares on the netpoller, the ground of lunapark.dns.
 *
 * c-ares is a state machine with sockets of its own, for one thread at a time. So one native G, the *driver*, makes all
 * calls into c-ares. Lua Gs hand it requests in a queue, as jobs (job.c), and wait for the jobs. A wait that ends early
 * leaves its request to the driver, which drops the answer.
 *
 * The driver has to wait for many sockets at a time, and a G can wait for one descriptor. So c-ares tells of its
 * sockets (sock_state_cb), these stand in an epoll of their own, and the runtime's poller watches this epoll like any
 * descriptor. The poller is edge-triggered, so the driver looks until nothing is left before it waits. New requests
 * kick the same wait, and its deadline is c-ares' next timer. (A G per socket instead would need a lock around c-ares,
 * and another G for the timers.)
 *
 * When no request is left, the driver ends; the next request starts another. So a program whose Gs all wait for each
 * other is still a deadlock.
 *
 * c-ares reads files: resolv.conf when a resolver is first used, the hosts file for each name. So its calls are made as
 * blocking ones (rt_entersyscall), and their callbacks may not call the runtime: requests with an answer stand in a
 * list until the call is over.
 *
 * A thousand datagrams at once overrun the buffers of sockets, and the lost ones come again all at once, too. So at
 * most BEGUN_MAX requests of a resolver are under way at a time. The others stand in the resolver's queue; if their
 * waits have ended by then, they are never begun. Each resolver has a queue of its own, so servers that do not answer
 * hold up their own requests alone.
 *
 * A resolver is a channel of c-ares. It has holders: Lua, its requests, and the driver while the resolver is active.
 * The last holder to let go destroys the channel; no request is left then, so nothing is called back.
 *
 * resolv.conf changes under a process that runs for long: a VPN, DHCP, a container that was started before its network.
 * c-ares reads the file once for each channel. So before requests of a resolver with settings of the system are begun,
 * the driver looks whether the file is another one, once a second at most. If so, the channel is made anew, and requests
 * that are under way are asked again there: their servers may be gone.
 *
 * There is no cache here: answers carry their times to live, and the cache is a dict (dns/init.lua).
 */
#include "../../runtime/runtime.h"
#include "../base/base.h"
#include "../base/list.h"
#include "../base/refs.h"
#include "../vm/job.h"
#include "../vm/owned.h"
#include "net_ffi.h"

#include <ares.h>
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/time.h>

enum {
    DRIVER_STACK = 256 << 10, /* c-ares has buffers of some KiB on it */
    SEARCH_MAX = 16,          /* domains */
    BEGUN_MAX = 100,          /* requests of a resolver, of one or two datagrams at a time each */
    ROUNDS_MAX = 64,          /* looks at the sockets before others get the thread */
    TIMEOUT_MS = 2000,        /* of the default resolver; resolv.conf's are in units of their own */
    TRIES = 3,
};

typedef struct request request;

/* What tells one resolv.conf from another; zeros: there is none. */
typedef struct settings_file {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec changed;
} settings_file;

struct host_resolver {
    host_owned owned;
    refs refs;
    int id;
    char *servers, *search; /* NULL: the system's. The fields up to ndots never change, too. */
    int timeout_ms, tries, ndots;
    ares_channel channel;  /* the driver; NULL: not needed yet */
    list_head waiting;     /* the driver: requests that are not begun yet */
    int n_begun;           /* the driver: queries that were begun and not answered yet */
    settings_file made_by; /* the driver: resolv.conf when the channel was made */
    int64_t looked_ns;     /* the driver: when resolv.conf was looked at last */
    bool renews;           /* the driver: its channel is being made anew */
    bool active;           /* the driver: the resolver stands in `active` */
    list_link link;        /* of dns.active */
};

struct request {
    host_job *job;
    host_resolver *resolver;
    char *name;
    int type;   /* number of the record type; 0: addresses */
    int family; /* of addresses */
    int status; /* ARES_... */
    char *answer;
    size_t len;
    list_link link; /* of dns.asked, then its resolver's waiting, then dns.answered */
};

static struct {
    rt_lock lock;
    list_head asked;    /* lock: requests that the driver has not seen yet */
    bool driven;        /* lock: there is a driver */
    rt_pd *pd;          /* lock: the driver waits for it; NULL: the driver looks before it waits */
    int epoll;          /* the driver; set once: -1 not yet */
    list_head active;   /* the driver: resolvers with requests */
    list_head answered; /* the driver: requests */
} dns = {.epoll = -1};

#define SETTINGS "/etc/resolv.conf"
#define LOOK_NS  NS_PER_SEC

static _Atomic int last_id; /* atomic */

/* ---- resolvers ---- */

static void let_go(host_resolver *r) {
    if (!refs_drop(&r->refs)) return;
    if (r->channel) ares_destroy(r->channel);
    free(r->servers);
    free(r->search);
    free(r);
}

static void lua_lets_go(host_owned *o) {
    let_go((host_resolver *)o);
}

static const owned_kind resolver_kind = {OWNED_THINGS, lua_lets_go};

static bool copy(char **to, const char *s) {
    *to = s ? strdup(s) : NULL;
    return !s || *to;
}

static host_resolver *new_resolver(const char *servers, const char *search, int timeout_ms,
                                   int tries, int ndots) {
    host_resolver *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    refs_init(&r->refs, 1);
    r->id = atomic_fetch_add(&last_id, 1) + 1;
    r->timeout_ms = timeout_ms;
    r->tries = tries;
    r->ndots = ndots;
    if (copy(&r->servers, servers) && copy(&r->search, search)) return r;
    let_go(r);
    return NULL;
}

host_resolver *host_resolver_new(const char *servers, const char *search, int timeout_ms, int tries,
                                 int ndots) {
    host_resolver *r = new_resolver(servers, search, timeout_ms, tries, ndots);
    if (r) owned_take(&r->owned, &resolver_kind);
    return r;
}

host_resolver *host_resolver_default(void) {
    static _Atomic(host_resolver *) it; /* atomic: set once */
    host_resolver *r = atomic_load(&it), *none = NULL;
    if (r) return r;
    const char *servers = getenv("LUNAPARK_DNS"); /* NOLINT: no code sets variables */
    r = new_resolver(servers && *servers ? servers : NULL, NULL, TIMEOUT_MS, TRIES, -1);
    if (!r || atomic_compare_exchange_strong(&it, &none, r)) return r;
    let_go(r);
    return none;
}

int host_resolver_id(const host_resolver *r) {
    return r->id;
}

void host_resolver_free(host_resolver *r) {
    owned_free(&r->owned);
}

/* ---- called by c-ares: nothing here may call the runtime ---- */

static void watch(void *data, ares_socket_t fd, int readable, int writable) {
    (void)data;
    struct epoll_event e = {.events = (readable ? EPOLLIN : 0) | (writable ? EPOLLOUT : 0),
                            .data.fd = fd};
    /* Without memory for the event, the socket's query times out. */
    if (!e.events)
        (void)epoll_ctl(dns.epoll, EPOLL_CTL_DEL, fd, NULL);
    else if (epoll_ctl(dns.epoll, EPOLL_CTL_MOD, fd, &e) < 0 && errno == ENOENT)
        (void)epoll_ctl(dns.epoll, EPOLL_CTL_ADD, fd, &e);
}

static void answered(request *q, int status) {
    bool again = q->resolver->renews && status == ARES_EDESTRUCTION;
    q->status = status;
    list_append(again ? &q->resolver->waiting : &dns.answered, &q->link);
    q->resolver->n_begun--;
}

/* An answer is as old as its oldest part. */
static int least_ttl(const struct ares_addrinfo *info) {
    int ttl = info->nodes ? info->nodes->ai_ttl : 0;
    for (const struct ares_addrinfo_node *n = info->nodes; n; n = n->ai_next)
        if (n->ai_ttl < ttl) ttl = n->ai_ttl;
    for (const struct ares_addrinfo_cname *c = info->cnames; c; c = c->next)
        if (c->ttl < ttl) ttl = c->ttl;
    return ttl;
}

/* Writes the addresses as text. False: no memory. */
static bool list_addresses(request *q, const struct ares_addrinfo *info) {
    FILE *f = open_memstream(&q->answer, &q->len);
    if (!f) return false;
    int ttl = least_ttl(info);
    for (const struct ares_addrinfo_node *n = info->nodes; n; n = n->ai_next) {
        char text[INET6_ADDRSTRLEN];
        const void *bytes = n->ai_family == AF_INET6
                                ? (void *)&((struct sockaddr_in6 *)n->ai_addr)->sin6_addr
                                : (void *)&((struct sockaddr_in *)n->ai_addr)->sin_addr;
        if (inet_ntop(n->ai_family, bytes, text, sizeof text)) fprintf(f, "%s %d\n", text, ttl);
    }
    return fclose(f) == 0;
}

static void got_addresses(void *arg, int status, int timeouts, struct ares_addrinfo *info) {
    (void)timeouts;
    request *q = arg;
    if (status == ARES_SUCCESS) {
        if (!list_addresses(q, info))
            status = ARES_ENOMEM;
        else if (q->len == 0)
            status = ARES_ENODATA;
    }
    ares_freeaddrinfo(info);
    answered(q, status);
}

static void got_reply(void *arg, int status, int timeouts, unsigned char *reply, int len) {
    (void)timeouts;
    request *q = arg;
    bool is_none =
        status == ARES_ENOTFOUND || status == ARES_ENODATA; /* the reply says for how long */
    if (status == ARES_SUCCESS || (is_none && reply)) {
        q->answer = malloc((size_t)len + 1);
        q->len = (size_t)len;
        if (q->answer)
            memcpy(q->answer, reply, (size_t)len);
        else
            status = ARES_ENOMEM;
    }
    answered(q, status);
}

/* ---- the driver, within its brackets ---- */

/* Splits r->search, of which `copy` is a copy, at its spaces. */
static int split_search(char *list, char **domains) {
    int n = 0;
    char *rest = NULL;
    for (char *d = strtok_r(list, " ", &rest); d && n < SEARCH_MAX; d = strtok_r(NULL, " ", &rest))
        domains[n++] = d;
    return n;
}

static int open_channel(host_resolver *r) {
    static bool initialized;
    char *domains[SEARCH_MAX], *list = NULL;
    struct ares_options o = {.lookups = "fb",
                             .timeout = r->timeout_ms,
                             .tries = r->tries,
                             .ndots = r->ndots,
                             .sock_state_cb = watch};
    int set = ARES_OPT_LOOKUPS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB;
    if (r->ndots >= 0) set |= ARES_OPT_NDOTS;
    if (r->search) {
        if (!copy(&list, r->search)) return ARES_ENOMEM;
        o.domains = domains;
        o.ndomains = split_search(list, domains);
        set |= ARES_OPT_DOMAINS;
    }
    int status = initialized ? ARES_SUCCESS : ares_library_init(ARES_LIB_INIT_ALL);
    initialized = status == ARES_SUCCESS;
    ares_channel channel;
    if (status == ARES_SUCCESS) status = ares_init_options(&channel, &o, set);
    free(list);
    if (status != ARES_SUCCESS) return status;
    if (r->servers) status = ares_set_servers_ports_csv(channel, r->servers);
    if (status == ARES_SUCCESS)
        r->channel = channel;
    else
        ares_destroy(channel);
    return status;
}

static settings_file look_at_settings(void) {
    struct stat st;
    if (stat(SETTINGS, &st) < 0) return (settings_file){0};
    return (settings_file){st.st_dev, st.st_ino, st.st_size, st.st_mtim};
}

static bool is_same(const settings_file *a, const settings_file *b) {
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
           a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

/* Closes the channel of r if resolv.conf has changed; what is under way waits again. A file that is not there, since
 * somebody is about to replace it, changes nothing. */
static void look_for_changes(host_resolver *r) {
    int64_t now = rt_nanotime();
    if (r->servers && r->search) return; /* nothing of the system */
    if (r->channel && now - r->looked_ns < LOOK_NS) return;
    settings_file file = look_at_settings();
    r->looked_ns = now;
    if (r->channel && file.ino && !is_same(&file, &r->made_by)) {
        ares_channel old = r->channel;
        r->channel = NULL;
        r->renews = true;
        ares_destroy(old);
        r->renews = false;
    }
    if (!r->channel) r->made_by = file;
}

/* Puts q into the queue of its resolver. */
static void accept_request(request *q) {
    host_resolver *r = q->resolver;
    if (!r->active) {
        r->active = true;
        list_prepend(&dns.active, &r->link);
        refs_hold(&r->refs);
    }
    list_append(&r->waiting, &q->link);
}

/* Begins q, which may have its answer when this returns. */
static void begin_request(host_resolver *r, request *q) {
    r->n_begun++;
    int status = r->channel ? ARES_SUCCESS : open_channel(r);
    if (job_is_forgotten(q->job)) status = ARES_ECANCELLED;
    if (status != ARES_SUCCESS) {
        answered(q, status);
    } else if (q->type) {
        ares_query(r->channel, q->name, ns_c_in, q->type, got_reply, q);
    } else {
        struct ares_addrinfo_hints hints = {.ai_family = q->family, .ai_flags = ARES_AI_ENVHOSTS};
        ares_getaddrinfo(r->channel, q->name, NULL, &hints, got_addresses, q);
    }
}

static void begin_requests(host_resolver *r) {
    if (r->waiting.first) look_for_changes(r);
    while (r->waiting.first && r->n_begun < BEGUN_MAX)
        begin_request(r, list_of(list_take_first(&r->waiting), request, link));
}

/* Only the channel that has fd acts on it; few are active. */
static void process_socket(int fd, uint32_t events) {
    bool in = events & ~(uint32_t)EPOLLOUT, out = events & ~(uint32_t)EPOLLIN;
    for (list_link *l = dns.active.first; l; l = l->next) {
        const host_resolver *r = list_of(l, host_resolver, link);
        if (r->channel)
            ares_process_fd(r->channel, in ? fd : ARES_SOCKET_BAD, out ? fd : ARES_SOCKET_BAD);
    }
}

/* Handles the sockets' events. False: some may be left. */
static bool process_sockets(void) {
    for (int i = 0; i < ROUNDS_MAX; i++) {
        struct epoll_event events[16];
        int n = epoll_wait(dns.epoll, events, 16, 0);
        if (n <= 0) return true;
        for (int k = 0; k < n; k++)
            process_socket(events[k].data.fd, events[k].events);
    }
    return false;
}

/* The latest time at which c-ares wants to be called. */
static int64_t next_timer(void) {
    int64_t least = NS_PER_SEC;
    for (list_link *l = dns.active.first; l; l = l->next) {
        const host_resolver *r = list_of(l, host_resolver, link);
        struct timeval tv, *t = r->channel ? ares_timeout(r->channel, NULL, &tv) : NULL;
        int64_t ns = t ? t->tv_sec * NS_PER_SEC + t->tv_usec * 1000 : NS_PER_SEC;
        if (ns < least) least = ns;
    }
    return rt_nanotime() + least;
}

/* Begins the new requests and calls c-ares. Returns when to call it again; 0: at once. */
static int64_t turn(list_head *asked) {
    for (list_link *l; (l = list_take_first(asked));)
        accept_request(list_of(l, request, link));
    bool all = process_sockets();
    for (list_link *l = dns.active.first; l; l = l->next) {
        host_resolver *r = list_of(l, host_resolver, link);
        if (r->channel) ares_process_fd(r->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
        begin_requests(r);
    }
    return all ? next_timer() : 0;
}

/* ---- the driver ---- */

static void deliver(void) {
    for (list_link *l; (l = list_take_first(&dns.answered));)
        job_finish(list_of(l, request, link)->job);
    for (list_link *next, *l = dns.active.first; l; l = next) {
        next = l->next;
        host_resolver *r = list_of(l, host_resolver, link);
        if (r->n_begun > 0 || r->waiting.first) continue;
        list_remove(&dns.active, l);
        r->active = false;
        let_go(r);
    }
}

static rt_pd *open_poll(void) {
    int err;
    if (dns.epoll < 0) {
        int fd = epoll_create1(EPOLL_CLOEXEC);
        if (fd < 0) return NULL;
        dns.epoll = fd;
    }
    return rt_pd_open(dns.epoll, &err);
}

/* Takes the new requests. False: nothing is left to do. */
static bool take_requests(rt_pd *pd, list_head *asked) {
    rt_lock_acquire(&dns.lock);
    *asked = list_take_all(&dns.asked);
    bool busy = asked->first || dns.active.first;
    dns.pd = busy ? pd : NULL;
    rt_lock_release(&dns.lock);
    return busy;
}

/* Ends the driver's office, unless a request has come. */
static bool resign(void) {
    rt_lock_acquire(&dns.lock);
    bool idle = !dns.asked.first;
    if (idle) dns.driven = false;
    rt_lock_release(&dns.lock);
    return idle;
}

/* Refuses the requests: the process has no descriptor left, or no memory. */
static void refuse(list_head *asked) {
    for (list_link *l; (l = list_take_first(asked));) {
        request *q = list_of(l, request, link);
        q->status = ARES_ENOMEM;
        job_finish(q->job);
    }
}

static void answer_all(rt_pd *pd) {
    list_head asked;
    while (take_requests(pd, &asked)) {
        if (!pd) {
            refuse(&asked);
            continue;
        }
        rt_entersyscall();
        int64_t when = turn(&asked);
        rt_exitsyscall();
        deliver();
        if (!when || !dns.active.first) continue;
        rt_pd_set_deadline(pd, RT_R, when);
        (void)rt_pd_wait(pd, RT_R, RT_WAIT_OTHER); /* the next turn shows why the wait ended */
    }
}

/* The epoll leaves the poller before another driver may register it again. */
static void drive(void *arg) {
    (void)arg;
    do {
        rt_pd *pd = open_poll();
        answer_all(pd);
        if (pd) rt_pd_close(pd);
    } while (!resign());
}

/* ---- requests ---- */

static void submit(host_job *job, void *arg) {
    request *q = arg;
    q->job = job;
    rt_lock_acquire(&dns.lock);
    list_append(&dns.asked, &q->link);
    bool driven = dns.driven;
    dns.driven = true;
    if (dns.pd) rt_pd_kick(dns.pd, RT_R);
    rt_lock_release(&dns.lock);
    if (driven || rt_go_stack(drive, NULL, DRIVER_STACK)) return;
    rt_lock_acquire(&dns.lock);
    list_head asked = list_take_all(&dns.asked);
    dns.driven = false;
    rt_lock_release(&dns.lock);
    refuse(&asked);
}

static void request_free(void *arg) {
    request *q = arg;
    let_go(q->resolver);
    free(q->name);
    free(q->answer);
    free(q);
}

static host_job *new_request(host_resolver *r, const char *name, int type, int family) {
    request *q = calloc(1, sizeof *q);
    if (!q) return NULL;
    *q = (request){.resolver = r, .type = type, .family = family};
    refs_hold(&r->refs);
    if (copy(&q->name, name)) return job_new_begun(submit, request_free, q);
    request_free(q);
    return NULL;
}

host_job *host_dns_lookup(host_resolver *r, const char *name, int family) {
    return new_request(r, name, 0, family == 4 ? AF_INET : family == 6 ? AF_INET6 : AF_UNSPEC);
}

host_job *host_dns_query(host_resolver *r, const char *name, int type) {
    return new_request(r, name, type, AF_UNSPEC);
}

const char *host_dns_error(host_job *job) {
    const request *q = job_arg(job);
    if (!q) return "not answered yet";
    switch (q->status) {
    case ARES_SUCCESS:
        return NULL;
    case ARES_ENOTFOUND:
        return "no such host";
    case ARES_ENODATA:
        return "no such record";
    case ARES_ETIMEOUT:
        return "timeout";
    case ARES_ECONNREFUSED: /* each server is not there, has failed, or refuses */
    case ARES_ESERVFAIL:
    case ARES_EREFUSED:
        return "no name server could answer";
    case ARES_EFORMERR:
    case ARES_ENOTIMP:
        return "the name server did not understand";
    case ARES_EBADRESP:
        return "the name server's reply is malformed";
    case ARES_EBADNAME:
    case ARES_EBADQUERY:
        return "not a host name";
    case ARES_ENOMEM:
        return "no memory";
    default:
        return ares_strerror(q->status);
    }
}

const char *host_dns_answer(host_job *job, size_t *len) {
    const request *q = job_arg(job);
    *len = q ? q->len : 0;
    return q ? q->answer : NULL;
}
