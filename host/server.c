/* Servers: listeners, the connections they have, and how they stop.
 *
 * A server has one listening socket, registered in the poller of every P with EPOLLEXCLUSIVE, and a
 * native G per P that accepts. A connection is registered where fewest are (netpoll.c), so they
 * spread however unevenly they were accepted.
 *
 * Stopping closes the listener and kicks every connection: one that is busy says "Connection: close" and
 * ends after its response; one that waits for a request goes on waiting for a second (DRAIN_IDLE_NS), and
 * then looks a last time. To close it at once would break a request that is on its way, as each one of a client under load
 * is for half of the time. A second is longer than a request takes through any network, and a client that
 * has been silent for so long will hardly write at the very moment when the connection is closed.
 *
 * An upgrade is the same, but the socket is another process' too (upgrade.c), so what comes from then on goes there.
 * The poller that was woken for a connection may be ours although nobody here will accept it: so the last
 * acceptor empties the kernel's queue when our pollers know the socket no more.
 *
 * Whoever is to take part in an upgrade is opened first and started when nothing can fail any more: an accepted client
 * would be lost with the process.
 *
 * Out of descriptors, each acceptor turns one client away with a 503 and pauses: rt_acceptor.
 */
#include "conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_SERVERS = 4096, ACCEPT_BATCH = 16 };

static struct {
    rt_lock lock;
    host_server *by_id[MAX_SERVERS]; /* lock writes */
    int n;                           /* lock */
    _Atomic int32_t n_open;          /* connections, and acceptors, which may make one */
    _Atomic(rt_g *) waiter;          /* for n_open to become 0 */
    _Atomic uint64_t ticket;         /* of its wait */
} servers;

host_server *server_by_id(int id) {
    return id >= 0 && id < MAX_SERVERS ? servers.by_id[id] : NULL;
}

/* ---- connections ---- */

static void one_less(void) {
    if (atomic_fetch_sub(&servers.n_open, 1) != 1) return;
    rt_g *g = atomic_load(&servers.waiter);
    if (g) rt_wake(g, atomic_load(&servers.ticket), RT_WOKEN);
}

void server_add_conn(host_server *s, host_conn *c) {
    atomic_fetch_add(&servers.n_open, 1);
    atomic_fetch_add(&s->n_conns, 1);
    rt_lock_acquire(&s->lock);
    c->next = s->conns;
    if (s->conns) s->conns->prev = c;
    s->conns = c;
    rt_lock_release(&s->lock);
}

void server_remove_conn(host_server *s, host_conn *c) {
    rt_lock_acquire(&s->lock);
    if (c->prev)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    rt_lock_release(&s->lock);
    atomic_fetch_sub(&s->n_conns, 1);
    one_less();
}

bool server_wait_all(int64_t deadline_ns) {
    rt_g *g = rt_self();
    for (;;) {
        atomic_store(&servers.ticket, rt_wait_open(g));
        atomic_store(&servers.waiter, g);
        if (atomic_load(&servers.n_open) == 0) rt_wake(g, atomic_load(&servers.ticket), RT_WOKEN);
        rt_wake_code code = rt_wait(RT_WAIT_OTHER, deadline_ns);
        atomic_store(&servers.waiter, NULL);
        if (atomic_load(&servers.n_open) == 0) return true;
        if (code == RT_TIMEOUT) return false;
    }
}

/* ---- accepting ---- */

typedef struct acceptor {
    host_server *server;
    rt_pd *pd;
    rt_acceptor with;
} acceptor;

static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                           "Connection: close\r\nContent-Length: 0\r\n\r\n";

static void take_conn(host_server *s, int fd, bool tcp) {
    int one = 1;
    /* Responses are written whole; waiting for an ACK would only delay the next. Harmless if the
     * connection is gone already. */
    if (tcp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    conn_start(s, fd);
}

static void accept_main(void *arg) {
    acceptor *a = arg;
    host_server *s = a->server;
    bool tcp = strncmp(s->addr, "unix:", 5) != 0;
    for (int n = 0;;) {
        int fd = rt_accept_with(&a->with, s->listen_fd, a->pd);
        if (fd == RT_ECLOSED) break;
        if (fd >= 0) {
            take_conn(s, fd, tcp);
            if (++n % ACCEPT_BATCH == 0) rt_yield();
        } else if (a->with.failures == 1) {
            log_line(LOG_ERROR, "%s: accept: %s", s->addr, rt_strerror(fd));
        }
    }
    rt_pd_close(a->pd);
    rt_acceptor_close(&a->with);
    free(a);
    if (atomic_fetch_sub(&s->n_acceptors, 1) == 1) {
        /* Who has connected until now gets an answer if a request is there. */
        for (int fd; (fd = rt_accept4(s->listen_fd, NULL, NULL)) >= 0;)
            take_conn(s, fd, tcp);
        close(s->listen_fd);
        if (!tcp && atomic_load(&s->owns_path)) unlink(s->addr + strlen("unix:"));
    }
    one_less();
}

/* ---- starting ---- */

/* The listening socket, or -errno. */
static int bind_listener(const char *addr) {
    host_addr a;
    int err = addr_parse(addr, &a);
    if (err) return err;
    if (a.sa.ss_family == AF_UNIX) {
        /* A socket file that nobody listens on is left over from a crash. */
        int fd = rt_socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0) return fd;
        bool dead = connect(fd, (struct sockaddr *)&a.sa, a.len) < 0 && errno == ECONNREFUSED;
        close(fd);
        if (dead) unlink(((struct sockaddr_un *)&a.sa)->sun_path);
    }
    return rt_listen((struct sockaddr *)&a.sa, a.len, SOMAXCONN);
}

static int register_server(host_server *s) {
    rt_lock_acquire(&servers.lock);
    int id = servers.n < MAX_SERVERS ? servers.n++ : -1;
    if (id >= 0) servers.by_id[id] = s;
    rt_lock_release(&servers.lock);
    s->id = id;
    return id;
}

static int open_pds(host_server *s) {
    int procs = rt_procs(), err = 0;
    s->listen_pds = calloc((size_t)procs, sizeof *s->listen_pds);
    if (!s->listen_pds) return -ENOMEM;
    for (int i = 0; i < procs && !err; i++)
        s->listen_pds[i] = rt_pd_open_listener(s->listen_fd, i, &err);
    if (!err) return 0;
    for (int i = 0; i < procs; i++)
        if (s->listen_pds[i]) rt_pd_close(s->listen_pds[i]);
    free(s->listen_pds);
    return err;
}

host_server *server_adopt(int fd, const char *asked, bool owns_path, int handler, host_vm *vm,
                          int *err) {
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    host_server *s = calloc(1, sizeof *s);
    if (!s) {
        *err = -ENOMEM;
        goto no_server;
    }
    s->listen_fd = fd;
    s->handler = handler;
    s->vm = vm;
    atomic_init(&s->owns_path, owns_path);
    snprintf(s->asked, sizeof s->asked, "%s", asked);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0) {
        *err = -errno;
        goto no_pds;
    }
    addr_format((struct sockaddr *)&sa, len, s->addr, sizeof s->addr);
    *err = open_pds(s);
    if (*err) goto no_pds;
    if (register_server(s) >= 0) return s;
    *err = -ENOSPC;
    for (int i = 0; i < rt_procs(); i++)
        rt_pd_close(s->listen_pds[i]);
    free(s->listen_pds);
no_pds:
    free(s);
no_server:
    close(fd);
    return NULL;
}

host_server *server_open(const char *addr, int handler, host_vm *vm, int *err) {
    int fd = bind_listener(addr);
    if (fd >= 0) return server_adopt(fd, addr, true, handler, vm, err);
    *err = fd;
    return NULL;
}

void server_start(host_server *s) {
    int procs = rt_procs();
    atomic_store(&s->n_acceptors, procs);
    atomic_fetch_add(&servers.n_open, procs);
    for (int i = 0; i < procs; i++) {
        acceptor *a = calloc(1, sizeof *a);
        if (!a) rt_throw("out of memory for an acceptor");
        *a = (acceptor){.server = s, .pd = s->listen_pds[i]};
        rt_acceptor_init(&a->with, busy, sizeof busy - 1);
        rt_go(accept_main, a);
    }
}

/* ---- stopping ---- */

/* An acceptor ends, and gives its pollDesc back, when that is shut: so it is touched last here. */
void server_stop(host_server *s) {
    if (atomic_exchange(&s->stopping, true)) return;
    for (int i = 0; i < rt_procs(); i++)
        rt_pd_shut(s->listen_pds[i]);
    rt_lock_acquire(&s->lock);
    for (host_conn *c = s->conns; c; c = c->next)
        rt_pd_kick(c->pd, RT_R);
    rt_lock_release(&s->lock);
}

void server_hand_over(host_server *s) {
    atomic_store(&s->owns_path, false);
    server_stop(s);
}

void server_look(host_server *s) {
    for (int i = 0; i < rt_procs() && !atomic_load(&s->stopping); i++)
        rt_pd_kick(s->listen_pds[i], RT_R);
}

bool server_any_of(const host_vm *vm) {
    for (int i = 0; i < MAX_SERVERS; i++) {
        host_server *s = server_by_id(i);
        if (s && s->vm == vm && !atomic_load(&s->stopping)) return true;
    }
    return false;
}

void server_stop_all_of(host_vm *vm) {
    for (int i = 0; i < MAX_SERVERS; i++) {
        host_server *s = server_by_id(i);
        if (!s || s->vm != vm) continue;
        atomic_store(&s->vm_gone, true);
        server_stop(s);
    }
}

/* ---- from Lua ---- */

int host_serve(const char *addr, int handler, char *bound, size_t cap, int *err) {
    host_server *s = server_open(addr, handler, vm_current(), err);
    if (!s) return -1;
    server_start(s);
    snprintf(bound, cap, "%s", s->addr);
    return s->id;
}

void host_serve_stop(int server) {
    host_server *s = server_by_id(server);
    if (s) server_stop(s);
}

int host_serve_conns(int server) {
    host_server *s = server_by_id(server);
    return s ? atomic_load(&s->n_conns) : 0;
}
