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
 * A server of a process that takes over is opened first and started when nothing can fail any more: an accepted client
 * would be lost with the process.
 *
 * A server goes when its last holder has let it go: who opened it, each acceptor, each connection, and each request that
 * has lost its connection to a timeout (hold.c). Then its slot, and the number of its handler in its VM, are used again.
 * Lua names a server by an id that no other one has until a slot was used MAX_TURNS times, so a late stop does nothing.
 *
 * How many connections there may be: conns.c. Out of descriptors all the same, each acceptor turns one client away with a
 * 503 and pauses: rt_acceptor.
 */
#include "server.h"

#include "../base/bell.h"
#include "../base/log.h"
#include "../net/sock.h"
#include "../vm/owned.h"
#include "../vm/vm.h"
#include "conns.h"
#include "peers.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_SERVERS = 4096, MAX_TURNS = 1 << 18, ACCEPT_BATCH = 16, MAX_YIELDS = 64 };

static struct {
    rt_lock lock;
    struct {
        host_server *server; /* lock; NULL: none */
        int32_t turn;        /* lock: of so many servers before it, modulo MAX_TURNS */
    } slots[MAX_SERVERS];
    _Atomic int32_t n_open; /* connections, and acceptors, which may make one */
    bell none_open;         /* rung when n_open becomes 0 */
} servers;

/* ---- who holds one ---- */

static bool try_hold(host_server *s) {
    int32_t n = atomic_load(&s->n_holders);
    while (n > 0)
        if (atomic_compare_exchange_weak(&s->n_holders, &n, n + 1)) return true;
    return false;
}

/* Held for the caller; NULL: it has ended. An id is turn * MAX_SERVERS + slot. */
static host_server *hold_by_id(int id) {
    if (id < 0) return NULL;
    int slot = id % MAX_SERVERS;
    rt_lock_acquire(&servers.lock);
    host_server *s = servers.slots[slot].server;
    if (s && (s->id != id || !try_hold(s))) s = NULL;
    rt_lock_release(&servers.lock);
    return s;
}

/* The lock is held, nobody holds s. The caller frees it. */
static void leave_slot(host_server *s) {
    int slot = s->id % MAX_SERVERS;
    servers.slots[slot].server = NULL;
    servers.slots[slot].turn = (servers.slots[slot].turn + 1) % MAX_TURNS;
}

void server_hold(host_server *s) {
    atomic_fetch_add(&s->n_holders, 1);
}

void server_release(host_server *s) {
    if (atomic_fetch_sub(&s->n_holders, 1) != 1) return;
    rt_lock_acquire(&servers.lock);
    /* The VM, if it lives, gives its handler back first: server_ended_of. */
    bool now = !s->vm || atomic_load(&s->vm_gone);
    if (now) leave_slot(s);
    s->ended = true;
    rt_lock_release(&servers.lock);
    if (!now) return;
    free(s->listen_pds);
    free(s);
}

int server_ended_of(const host_vm *vm) {
    host_server *s = NULL;
    rt_lock_acquire(&servers.lock);
    for (int i = 0; i < MAX_SERVERS && !s; i++) {
        host_server *other = servers.slots[i].server;
        if (other && other->ended && other->vm == vm && !atomic_load(&other->vm_gone)) s = other;
    }
    if (s) leave_slot(s);
    rt_lock_release(&servers.lock);
    if (!s) return -1;
    int handler = s->handler;
    free(s->listen_pds);
    free(s);
    return handler;
}

/* ---- connections ---- */

static void one_less(void) {
    if (atomic_fetch_sub(&servers.n_open, 1) == 1) bell_ring(&servers.none_open);
}

void server_add_conn(host_server *s, host_conn *c) {
    server_hold(s);
    atomic_fetch_add(&servers.n_open, 1);
    conns_add(c);
}

void server_remove_conn(host_server *s, host_conn *c) {
    conns_remove(c);
    peer_leave(c->peer);
    server_release(s);
    one_less();
}

bool server_wait_all(int64_t deadline_ns) {
    while (atomic_load(&servers.n_open) > 0)
        if (!bell_wait(&servers.none_open, deadline_ns)) return atomic_load(&servers.n_open) == 0;
    return true;
}

/* ---- accepting ---- */

typedef struct acceptor {
    host_server *server;
    rt_pd *pd;
    rt_acceptor with;
} acceptor;

static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                           "Connection: close\r\nContent-Length: 0\r\n\r\n";

/* What has come already is read, or its end would be a reset that can overtake the answer. */
static void turn_away(int fd) {
    char unread[4096];
    (void)!send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    shutdown(fd, SHUT_WR);
    (void)!recv(fd, unread, sizeof unread, MSG_DONTWAIT);
    close(fd);
}

/* may_yield: on a native G, which may let others run. */
static void take_conn(host_server *s, int fd, bool tcp, bool may_yield) {
    int one = 1;
    uint32_t peer = tcp ? peer_enter(fd) : 0;
    conns_answer answer = peer == PEER_FULL ? CONNS_TURN_AWAY : conns_admit();
    for (int i = 0; i < MAX_YIELDS && may_yield && answer == CONNS_LATER; i++) {
        rt_yield();
        answer = conns_admit();
    }
    if (answer == CONNS_TURN_AWAY || answer == CONNS_LATER) {
        turn_away(fd);
        if (peer != PEER_FULL) peer_leave(peer);
        return;
    }
    /* Responses are written whole; waiting for an ACK would only delay the next. Harmless if the
     * connection is gone already. */
    if (tcp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    conn_start(s, fd, peer, answer == CONNS_REFUSE ? 503 : 0);
}

static bool is_tcp(const host_server *s) {
    return strncmp(s->addr, "unix:", 5) != 0;
}

/* An acceptor of this pollDesc has ended, or never began. */
static void end_acceptor(host_server *s, rt_pd *pd, bool may_yield) {
    rt_pd_close(pd);
    if (atomic_fetch_sub(&s->n_acceptors, 1) == 1) {
        /* A client that has connected until now gets an answer if its request is there. */
        for (int fd; (fd = rt_accept4(s->listen_fd, NULL, NULL)) >= 0;)
            take_conn(s, fd, is_tcp(s), may_yield);
        close(s->listen_fd);
        if (atomic_load(&s->owns_path)) sock_file_remove(s->addr, s->file);
    }
    server_release(s);
    one_less();
}

static void accept_main(void *arg) {
    acceptor *a = arg;
    host_server *s = a->server;
    bool tcp = is_tcp(s);
    for (int n = 0;;) {
        int fd = rt_accept_with(&a->with, s->listen_fd, a->pd);
        if (fd == RT_ECLOSED) break;
        if (fd >= 0) {
            take_conn(s, fd, tcp, true);
            if (++n % ACCEPT_BATCH == 0) rt_yield();
        } else if (a->with.failures == 1) {
            log_line(LOG_ERROR, "%s: accept: %s", s->addr, rt_strerror(fd));
        }
    }
    rt_acceptor_close(&a->with);
    rt_pd *pd = a->pd;
    free(a);
    end_acceptor(s, pd, true);
}

/* ---- starting ---- */

/* As rt_listen, at a file for its owner alone: it is made with the mode that the socket has. */
static int listen_privately(const host_addr *a) {
    int fd = rt_socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) return fd;
    if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)&a->sa, a->len) < 0 ||
        listen(fd, SOMAXCONN) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

int server_bind(const char *addr, bool is_private) {
    host_addr a;
    int err = addr_parse(addr, &a);
    if (err) return err;
    err = sock_file_clear(addr);
    if (err) return err;
    if (is_private && a.sa.ss_family == AF_UNIX) return listen_privately(&a);
    return rt_listen((struct sockaddr *)&a.sa, a.len, SOMAXCONN);
}

/* Gives it an id. False: there are too many. */
static bool register_server(host_server *s) {
    int slot = 0;
    rt_lock_acquire(&servers.lock);
    while (slot < MAX_SERVERS && servers.slots[slot].server)
        slot++;
    if (slot < MAX_SERVERS) {
        servers.slots[slot].server = s;
        s->id = servers.slots[slot].turn * MAX_SERVERS + slot;
    }
    rt_lock_release(&servers.lock);
    return slot < MAX_SERVERS;
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
    (void)rt_short_read_tells(fd, &s->tells);
    s->handler = handler;
    s->vm = vm;
    atomic_init(&s->n_holders, 1);
    atomic_init(&s->owns_path, owns_path);
    snprintf(s->asked, sizeof s->asked, "%s", asked);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0) {
        *err = -errno;
        goto no_pds;
    }
    addr_format((struct sockaddr *)&sa, len, s->addr, sizeof s->addr);
    s->file = sock_file_of(s->addr);
    *err = open_pds(s);
    if (*err) goto no_pds;
    if (register_server(s)) return s;
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

host_server *server_open(const char *addr, bool is_private, int handler, host_vm *vm, int *err) {
    int fd = server_bind(addr, is_private);
    if (fd >= 0) return server_adopt(fd, addr, true, handler, vm, err);
    *err = fd;
    return NULL;
}

static bool start_acceptor(host_server *s, rt_pd *pd) {
    acceptor *a = calloc(1, sizeof *a);
    if (!a) return false;
    *a = (acceptor){.server = s, .pd = pd};
    rt_acceptor_init(&a->with, busy, sizeof busy - 1);
    if (rt_go(accept_main, a)) return true;
    rt_acceptor_close(&a->with);
    free(a);
    return false;
}

int server_start(host_server *s) {
    conns_init();
    int procs = rt_procs();
    atomic_store(&s->n_acceptors, procs);
    atomic_fetch_add(&servers.n_open, procs);
    for (int i = 0; i < procs; i++)
        server_hold(s);
    int i = 0;
    while (i < procs && start_acceptor(s, s->listen_pds[i]))
        i++;
    if (i == procs) return 0;
    server_stop(s);
    while (i < procs)
        end_acceptor(s, s->listen_pds[i++], false);
    return -ENOMEM;
}

/* ---- stopping ---- */

/* An acceptor ends, and gives its pollDesc back, when that is shut: so it is touched last here. */
void server_stop(host_server *s) {
    if (atomic_exchange(&s->stopping, true)) return;
    for (int i = 0; i < rt_procs(); i++)
        rt_pd_shut(s->listen_pds[i]);
    conns_kick(s);
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
    bool any = false;
    rt_lock_acquire(&servers.lock);
    for (int i = 0; i < MAX_SERVERS && !any; i++) {
        host_server *s = servers.slots[i].server;
        any = s && s->vm == vm && !atomic_load(&s->stopping);
    }
    rt_lock_release(&servers.lock);
    return any;
}

/* Those that only the VM answers. */
static void stop_all(host_owned *o) {
    host_vm *vm = o->vm;
    while (server_ended_of(vm) >= 0)
        ;
    for (int i = 0; i < MAX_SERVERS; i++) {
        rt_lock_acquire(&servers.lock);
        host_server *s = servers.slots[i].server;
        if (s && (s->vm != vm || atomic_load(&s->vm_gone))) s = NULL;
        if (s) atomic_store(&s->vm_gone, true);
        bool ended =
            s && !try_hold(s); /* just now: its last holder finds vm_gone, or has left it to us */
        bool ours = ended && s->ended;
        if (ours) leave_slot(s);
        rt_lock_release(&servers.lock);
        if (ours) {
            free(s->listen_pds);
            free(s);
        } else if (s && !ended) {
            server_stop(s);
            server_release(s);
        }
    }
}

void server_ends_with(host_vm *vm) {
    static const owned_kind kind = {OWNED_ROLES, stop_all};
    owned_once(vm, &vm->entries.servers, &kind);
}

/* ---- from Lua ---- */

int host_serve(const char *addr, int handler, char *bound, size_t cap, int *err) {
    host_vm *vm = vm_current();
    server_ends_with(vm);
    *err = sock_allowed();
    host_server *s = *err ? NULL : server_open(addr, false, handler, vm, err);
    if (s) *err = server_start(s);
    int id = !s ? -1 : *err ? -2 : s->id;
    if (!*err) snprintf(bound, cap, "%s", s->addr);
    if (s) server_release(s);
    return id;
}

void host_serve_stop(int server) {
    host_server *s = hold_by_id(server);
    if (!s) return;
    server_stop(s);
    server_release(s);
}
