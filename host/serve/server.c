/* Servers: listeners, their connections, and how they stop. What is spoken is the matter of a protocol
 * (server_protocol): http/http.c speaks HTTP.
 *
 * A server has one listening socket, registered in the poller of every P with EPOLLEXCLUSIVE, and a native G per P that
 * accepts. A connection is registered with the poller that watches fewest descriptors (netpoll.c), so connections
 * spread however unevenly they were accepted.
 *
 * Stopping closes the listener and makes every connection look at `stopping`. A busy connection of HTTP says
 * "Connection: close" and ends after its response. A connection that waits for a request goes on waiting for a second
 * (server_drain_idle_ns), then looks a last time. Closing it at once would break a request that is on its way; under
 * load, a client's request is on its way for half of the time. A second is longer than a request takes through any
 * network, and a client that was silent for so long will hardly write at the very moment of the close.
 *
 * An upgrade stops a server likewise, but another process has the socket, too (upgrade.c), so later clients go there.
 * The poller that the kernel wakes for a connection may be one of this process, where no G will accept it. So the last
 * acceptor empties the kernel's queue when the pollers here know the socket no more.
 *
 * A server of a process that takes over is opened first, and started when nothing can fail any more: an accepted client
 * would be lost with the process.
 *
 * A server is freed when its last holder has released it. The holders: the code that opened it, each acceptor, each
 * connection, each request that has lost its connection to a timeout (hold.c), and the VM that alone answers it, on
 * whose list it stands (owned.c). As a rule this VM is the last holder. It asks which servers no other holder has,
 * since only then it can use the number of the handler again. Lua names a server by an id, which is looked for among
 * the servers of its VM.
 *
 * How many connections there may be: conns.c. If the descriptors run out all the same, each acceptor turns one client
 * away with its protocol's word for that (a 503), and pauses: rt_acceptor.
 */
#include "server.h"

#include "../base/bell.h"
#include "../base/list.h"
#include "../base/log.h"
#include "../net/certs.h"
#include "../net/sock.h"
#include "../vm/vm.h"
#include "conns.h"
#include "proxy.h"
#include "serve_ffi.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ACCEPT_BATCH = 16, MAX_YIELDS = 64 };

static struct {
    _Atomic int32_t n_open; /* connections, and acceptors, which may make connections */
    bell none_open;         /* rung when n_open becomes 0 */
} servers;

/* ---- holders ---- */

void server_hold(host_server *s) {
    refs_hold(&s->refs);
}

void server_release(host_server *s) {
    if (!refs_drop(&s->refs)) return;
    if (s->listener.data) s->listener.protocol->ended(s->listener.data);
    if (s->listener.certs) certs_release(s->listener.certs);
    free(s->listen_pds);
    free(s);
}

/* ---- servers that only one VM answers ---- */

static void vm_lets_go(host_owned *o) {
    host_server *s = list_of(o, host_server, owned);
    atomic_store(&s->vm_gone, true);
    server_stop(s);
    server_release(s);
}

static const owned_kind of_vm = {OWNED_ROLES, vm_lets_go};

/* The first of vm's servers after s; s NULL: the first of all. NULL: there are no more. */
static host_server *next_of(const host_vm *vm, const host_server *s) {
    list_link *l = s ? s->owned.link.next : vm->owned.of[OWNED_ROLES].first;
    while (l && list_of(l, host_owned, link)->kind != &of_vm)
        l = l->next;
    return l ? list_of(l, host_server, owned.link) : NULL;
}

int server_ended_of(host_vm *vm) {
    host_server *s = NULL;
    while ((s = next_of(vm, s)))
        if (refs_alone(&s->refs)) break;
    if (!s || vm->end.closing) return -1;
    int handler = s->listener.handler;
    owned_free(&s->owned);
    return handler;
}

bool server_any_of(const host_vm *vm) {
    for (host_server *s = NULL; (s = next_of(vm, s));)
        if (!atomic_load(&s->stopping)) return true;
    return false;
}

/* ---- connections ---- */

static void one_less(void) {
    if (atomic_fetch_sub(&servers.n_open, 1) == 1) bell_ring(&servers.none_open);
}

void server_add_conn(server_conn *c, host_server *s, server_client client) {
    c->server = s;
    c->from = client.from;
    c->peer = client.peer;
    server_hold(s);
    atomic_fetch_add(&servers.n_open, 1);
    conns_add(c);
}

void server_remove_conn(server_conn *c) {
    conns_remove(c);
    client_leave((server_client){c->from, c->peer});
    server_release(c->server);
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

/* What a client is told that gets no connection; *n bytes. A client that waits for a handshake would take the words for
 * a broken one: it is told nothing. */
static const char *farewell(const host_server *s, size_t *n) {
    const server_protocol *p = s->listener.protocol;
    *n = s->listener.certs ? 0 : p->busy_len;
    return *n ? p->busy : NULL;
}

/* Bytes that have come are read: else the close would be a reset, which can overtake the answer. */
void server_turn_away(const host_server *s, int fd) {
    size_t n;
    const char *words = farewell(s, &n);
    char unread[4096];
    if (words) (void)!send(fd, words, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    shutdown(fd, SHUT_WR);
    (void)!recv(fd, unread, sizeof unread, MSG_DONTWAIT);
    close(fd);
}

static bool is_proxied(const host_server *s) {
    return s->listener.is_proxied && atomic_load_explicit(&options.proxied, memory_order_relaxed);
}

/* Takes over an accepted connection. may_yield: the caller is a native G and may let other Gs run. */
static void take_conn(host_server *s, int fd, bool may_yield) {
    server_client client = {0};
    bool proxied = is_proxied(s), may = proxied || client_of(fd, &client);
    conns_answer answer = may ? conns_admit() : CONNS_TURN_AWAY;
    for (int i = 0; i < MAX_YIELDS && may_yield && answer == CONNS_LATER; i++) {
        rt_yield();
        answer = conns_admit();
    }
    if (answer == CONNS_TURN_AWAY || answer == CONNS_LATER) {
        server_turn_away(s, fd);
        client_leave(client);
        return;
    }
    if (proxied)
        proxy_start(s, fd, answer == CONNS_REFUSE);
    else
        s->listener.protocol->start(s, fd, client, answer == CONNS_REFUSE);
}

/* The acceptor of this pollDesc has ended, or has never begun. */
static void end_acceptor(host_server *s, rt_pd *pd, bool may_yield) {
    rt_pd_close(pd);
    if (atomic_fetch_sub(&s->n_acceptors, 1) == 1) {
        /* A client that has connected by now gets an answer if its request is there. */
        for (int fd; (fd = rt_accept4(s->listen_fd, NULL, NULL)) >= 0;)
            take_conn(s, fd, may_yield);
        close(s->listen_fd);
        if (atomic_load(&s->owns_path)) sock_file_remove(s->addr, s->file);
    }
    server_release(s);
    one_less();
}

static void accept_main(void *arg) {
    acceptor *a = arg;
    host_server *s = a->server;
    for (int n = 0;;) {
        int fd = rt_accept_with(&a->with, s->listen_fd, a->pd);
        if (fd == RT_ECLOSED) break;
        if (fd >= 0) {
            take_conn(s, fd, true);
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

static int open_pds(host_server *s) {
    int n = rt_procs(), err = 0;
    s->n_pds = n;
    s->listen_pds = calloc((size_t)n, sizeof *s->listen_pds);
    if (!s->listen_pds) return -ENOMEM;
    for (int i = 0; i < n && !err; i++)
        s->listen_pds[i] = rt_pd_open_listener(s->listen_fd, i, &err);
    if (!err) return 0;
    for (int i = 0; i < n; i++)
        if (s->listen_pds[i]) rt_pd_close(s->listen_pds[i]);
    free(s->listen_pds);
    return err;
}

/* Most messages are written whole, so waiting for an ACK would only delay the next one. Connections take this from the
 * socket that accepts them. Fails on unix sockets, which have no ACKs. */
static void set_no_delay(int listen_fd) {
    int on = 1;
    (void)setsockopt(listen_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

host_server *server_adopt(int fd, bool owns_path, const host_listener *l, int *err) {
    static _Atomic int last_id;
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    host_server *s = calloc(1, sizeof *s);
    *err = s ? 0 : -ENOMEM;
    if (!*err && getsockname(fd, (struct sockaddr *)&sa, &len) < 0) *err = -errno;
    if (*err) goto fail;
    s->listen_fd = fd;
    set_no_delay(fd);
    (void)rt_short_read_tells(fd, &s->tells);
    s->id = atomic_fetch_add(&last_id, 1) & INT_MAX;
    s->listener = *l;
    s->listener.addr = s->asked;
    snprintf(s->asked, sizeof s->asked, "%s", l->addr);
    addr_format((struct sockaddr *)&sa, len, s->addr, sizeof s->addr);
    s->file = sock_file_of(s->addr);
    atomic_init(&s->owns_path, owns_path);
    if ((*err = open_pds(s))) goto fail;
    if (l->certs) certs_hold(l->certs);
    refs_init(&s->refs, l->vm ? 2 : 1);
    if (l->vm) owned_add(l->vm, &s->owned, &of_vm);
    return s;
fail:
    free(s);
    close(fd);
    return NULL;
}

host_server *server_open(const host_listener *l, int *err) {
    int fd = server_bind(l->addr, l->is_private, l->backlog);
    if (fd >= 0) return server_adopt(fd, true, l, err);
    *err = fd;
    return NULL;
}

static bool start_acceptor(host_server *s, rt_pd *pd) {
    acceptor *a = calloc(1, sizeof *a);
    if (!a) return false;
    *a = (acceptor){.server = s, .pd = pd};
    size_t n;
    const char *words = farewell(s, &n);
    rt_acceptor_init(&a->with, words, n);
    if (rt_go(accept_main, a)) return true;
    rt_acceptor_close(&a->with);
    free(a);
    return false;
}

int server_start(host_server *s) {
    conns_init();
    int procs = s->n_pds;
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

/* A shut pollDesc makes its acceptor end, which gives the pollDesc back: so nothing here touches it afterwards. */
void server_stop(host_server *s) {
    if (atomic_exchange(&s->stopping, true)) return;
    for (int i = 0; i < s->n_pds; i++)
        rt_pd_shut(s->listen_pds[i]);
    conns_kick(s);
}

int64_t server_drain_idle_ns(void) {
    int ms = rt_debug()->drainidle;
    return ms ? ms * (int64_t)NS_PER_MS : NS_PER_SEC;
}

void server_hand_over(host_server *s) {
    atomic_store(&s->owns_path, false);
    server_stop(s);
}

void server_look(host_server *s) {
    for (int i = 0; i < s->n_pds && !atomic_load(&s->stopping); i++)
        rt_pd_kick(s->listen_pds[i], RT_R);
}

/* ---- from Lua ---- */

int server_serve(const host_listener *l, char *bound, size_t cap, int *err) {
    host_listener own = *l;
    own.vm = vm_current();
    own.limits = &options.limits;
    *err = sock_allowed();
    host_server *s = *err ? NULL : server_open(&own, err);
    if (s) {
        limits_copy(&s->limits, &options.limits);
        s->listener.limits = &s->limits;
        *err = server_start(s);
    }
    int id = !s ? -1 : *err ? -2 : s->id;
    if (!*err) snprintf(bound, cap, "%s", s->addr);
    if (s) server_release(s);
    return id;
}

host_server *server_named(int id) {
    host_server *s = NULL;
    while ((s = next_of(vm_current(), s)))
        if (s->id == id) break;
    return s;
}

int64_t host_drain_idle_ns(void) {
    return server_drain_idle_ns();
}

void host_serve_options(void) {
    options_stage();
}

const char *host_serve_option(const char *name, const char *value) {
    return option_set(name, value, FROM_APP);
}

void host_serve_limits(int server) {
    host_server *s = server_named(server);
    if (s) limits_copy(&s->limits, options_staged_limits());
    options_drop();
}

void host_serve_stop(int server) {
    host_server *s = server_named(server);
    if (s) server_stop(s);
}

void host_serve_stop_all(void) {
    for (host_server *s = NULL; (s = next_of(vm_current(), s));)
        server_stop(s);
}

int host_serve_ended(int server) {
    host_server *s = server_named(server);
    return !s || refs_alone(&s->refs);
}
