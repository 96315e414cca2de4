/* The fuzz target of connections: scripts of what clients do, against the real server.
 *
 * Everything beneath is real: connections, handlers, the scheduler, a VM with an app (conn.lua). Only the
 * world is ours: a client is one end of a socketpair whose other end was given to conn_start, and time is a number that
 * the script moves. There is one P, and the G that plays is one of its Gs; it never waits but yields until nobody else
 * is ready and the poller knows of nothing (settle). So a script does the same whenever it runs, an hour of timeouts
 * takes a millisecond, and a report can be repeated from the file alone. sysmon, which looks at real time, sleeps for ever.
 *
 * A script is text for the current client, sent as it stands, with orders in between: the byte 255 and a letter.
 *
 *     |      sends what there is as one piece     m      a word that only this client has (answers_mark)
 *     p      the same, and goes on at once        d      the next piece carries a descriptor along
 *     f n c  64 * n bytes c                       t n    1 ms << n % 18 pass
 *     a      reads all                            r n    reads 1 << n % 16 bytes at most
 *     q      reads no more by itself              n      a new client, who is the current one from now on
 *     h      shuts its side down after that       b      the same when the server is full: it gets 503
 *     s      the server stops gracefully          x      closes
 *     c n    client n is the current one
 *
 * What must hold after each, whatever it was:
 *
 *   - whatever came is HTTP/1.1, and carries no word of another client, of another request, of another script;
 *   - a client that reads, and has shut nothing down, got an answer to each request that reached a handler, and not more answers
 *     than such requests and one refusal; who asked too much was told so once, by a connection that then ended;
 *   - no connection waits for bytes while some are there;
 *   - each connection ends, in ten virtual minutes at most: no wait without an end;
 *   - all Gs and descriptors are back;
 *   - each exchange was over once, with the answer and the bytes that the client got;
 *   - one more client asks properly and is answered so.
 */
#include "play.h"

#include "../base/base.h"
#include "../base/base_ffi.h"
#include "../http/http.h"
#include "../http/http1.h"
#include "../serve/conns.h"
#include "../generation/generation.h"
#include "../generation/generation_ffi.h"
#include "../base/log.h"
#include "../base/options.h"
#include "../command/rooms.h"
#include "../sys/signals.h"
#include "../generation/pool.h"

#include "../../runtime/impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TODO_MAX = 256 << 10, /* of one client */
    GOT_MAX = 8 << 20,
    SEND_BUFFER = 4096, /* of the server's ends, so that slow readers are slow soon */
    ROUNDS_MAX = 100000,
};
#define END_NS (600 * NS_PER_SEC)

static struct {
    host_server *server;
    client clients[CLIENTS];
    client *c; /* the current one */
    int n;
    int64_t gs;          /* that live when nothing happens */
    int first_fd;        /* that is free then */
    int64_t bound;       /* requests given to handlers before this script */
    host_exchanges over; /* exchanges that were over before it */
    const uint8_t *input;
    size_t size;
} now;

bool play_shows;

static void show(void) {
    for (int i = 0; i < now.n; i++)
        fprintf(stderr, "fuzz: client %d got %zu bytes%s:\n%.*s\n", i, now.clients[i].n_got,
                now.clients[i].ended ? " and the end" : "",
                (int)(now.clients[i].n_got < 2000 ? now.clients[i].n_got : 2000),
                now.clients[i].got);
}

static _Noreturn void wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void wrong(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "fuzz: ");
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    show();
    abort();
}

/* ---- time ---- */

static _Atomic int64_t virtual_ns; /* 0: it is the real one */

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
/* What reads the clock moves it a little, so that a loop until a time ends. */
int __wrap_clock_gettime(clockid_t id, struct timespec *t) {
    int64_t ns = atomic_load(&virtual_ns);
    if (id != CLOCK_MONOTONIC || ns == 0) return __real_clock_gettime(id, t);
    ns = atomic_fetch_add(&virtual_ns, 100);
    *t = (struct timespec){ns / NS_PER_SEC, ns % NS_PER_SEC};
    return 0;
}

static int64_t no_time(void) {
    return 1;
}

static void sleep_for_ever(int64_t delay_ns) {
    (void)delay_ns;
    for (;;)
        pause();
}

/* ---- letting the others run ---- */

/* Until nobody is ready and no descriptor either. */
static void settle(void) {
    rt_p *p = &sched.ps[0];
    for (int i = 0;; i++) {
        if (i == ROUNDS_MAX) wrong("the server does not come to rest");
        int64_t time = 0;
        bool any = timers_run(p, &time) || !runq_empty(p) || atomic_load(&sched.n_runq) > 0;
        if (!any) {
            g_list l = {0};
            netpoll_p(p, 0, &l);
            any = l.head;
            inject(rt_getm(), &l);
        }
        if (!any) return;
        rt_yield();
    }
}

/* To the next timer, or least_ns on: a VM looks after its garbage every 10 ms, which would be a step each. False: that
 * is later than until. */
static bool jump(int64_t least_ns, int64_t until) {
    int64_t next = atomic_load(&sched.ps[0].timer_next_ns),
            least = atomic_load(&virtual_ns) + least_ns;
    if (next == 0 || next > until) return false;
    next = next > least ? next : least < until ? least : until;
    if (next > atomic_load(&virtual_ns)) atomic_store(&virtual_ns, next);
    return true;
}

static int64_t live_gs(void) {
    rt_stats s;
    rt_read_stats(&s);
    return s.g_runnable + s.g_running + s.g_waiting + s.g_syscall;
}

/* ---- the server's connections ---- */

static host_conn *conns[CLIENTS + 1];
static int n_conns;

void __real_server_add_conn(server_conn *c, host_server *s, server_client who);
void __wrap_server_add_conn(server_conn *c, host_server *s, server_client who);
void __wrap_server_add_conn(server_conn *c, host_server *s, server_client who) {
    conns[n_conns++] = (host_conn *)c;
    __real_server_add_conn(c, s, who);
}

void __real_server_remove_conn(server_conn *c);
void __wrap_server_remove_conn(server_conn *c);
void __wrap_server_remove_conn(server_conn *c) {
    for (int i = 0; i < n_conns; i++)
        if (&conns[i]->base == c) conns[i] = conns[--n_conns];
    __real_server_remove_conn(c);
}

bool play_is_bound(const host_conn *c) {
    return c->phase == CONN_SERVE && c->state == HTTP1_BOUND;
}

static bool waits_for_input(const host_conn *c) {
    if (play_is_bound(c)) return c->x->lg && c->x->lg->want == WANT_FD && c->x->lg->mode == RT_R;
    return c->phase == CONN_LINGER ||
           (c->phase == CONN_SERVE && (c->state == HTTP1_HEAD || c->state == HTTP1_DRAIN));
}

/* At rest nobody waits for bytes that are there. */
static void nobody_is_forgotten(void) {
    for (int i = 0; i < n_conns; i++) {
        int unread = 0;
        ioctl(conns[i]->io.fd, FIONREAD, &unread);
        if (unread > 0 && waits_for_input(conns[i]))
            wrong("a connection waits although %d bytes are there", unread);
    }
}

host_conn *play_conn(int i) {
    return i < n_conns ? conns[i] : NULL;
}

/* ---- clients ---- */

static void *grown(void *p, size_t n) {
    p = realloc(p, n);
    if (!p) wrong("no memory for %zu bytes", n);
    return p;
}

static client *connect_client(int refusal) {
    int sv[2], small = SEND_BUFFER;
    client *c = &now.clients[now.n];
    char *todo = c->todo, *got = c->got;
    size_t todo_cap = c->todo_cap, got_cap = c->got_cap;
    *c = (client){
        .number = now.n++, .todo = todo, .got = got, .todo_cap = todo_cap, .got_cap = got_cap};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) < 0)
        wrong("socketpair: %s", strerror(errno));
    setsockopt(sv[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    c->fd = sv[0];
    c->started = c->reads = true;
    conn_start(now.server, sv[1], (server_client){0}, &http1_protocol, refusal);
    return c;
}

static void add(client *c, const void *data, size_t n) {
    if (c->n_todo + n > TODO_MAX) return;
    if (c->n_todo + n > c->todo_cap) c->todo = grown(c->todo, c->todo_cap = 2 * (c->n_todo + n));
    memcpy(c->todo + c->n_todo, data, n);
    c->n_todo += n;
}

static bool read_some(client *c, size_t limit) {
    if (c->fd < 0 || c->ended) return false;
    size_t before = c->n_got;
    while (limit > 0) {
        if (c->n_got == c->got_cap) {
            if (c->got_cap >= GOT_MAX) wrong("client %d gets no end of bytes", c->number);
            c->got = grown(c->got, c->got_cap = c->got_cap ? 2 * c->got_cap : 4096);
        }
        size_t room = c->got_cap - c->n_got;
        ssize_t n = recv(c->fd, c->got + c->n_got, room < limit ? room : limit, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) c->ended = true;
        if (n <= 0) break;
        c->n_got += (size_t)n;
        limit -= (size_t)n;
    }
    return c->n_got > before || c->ended;
}

/* With a descriptor, of which the server wants to know nothing. */
static ssize_t send_with_fd(int fd, const char *data, size_t n) {
    struct iovec iov = {(void *)data, n};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.room,
                         .msg_controllen = sizeof control.room};
    struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &(int){STDERR_FILENO}, sizeof(int));
    return sendmsg(fd, &msg, MSG_NOSIGNAL);
}

static bool send_some(client *c) {
    size_t before = c->sent;
    while (c->fd >= 0 && c->sent < c->n_todo) {
        const char *at = c->todo + c->sent;
        size_t left = c->n_todo - c->sent;
        ssize_t n =
            c->carries ? send_with_fd(c->fd, at, left) : send(c->fd, at, left, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) { /* the server has closed */
            c->sent = c->n_todo;
            break;
        }
        c->carries = false;
        c->sent += (size_t)n;
    }
    if (c->sent == c->n_todo) {
        if (c->half && c->fd >= 0) shutdown(c->fd, SHUT_WR);
        c->half = false;
    }
    return c->sent > before;
}

static void hang_up(client *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

/* Sends and reads until nothing more moves. */
static void pump(void) {
    for (int i = 0;; i++) {
        if (i == ROUNDS_MAX) wrong("clients and server do not come to rest");
        bool moved = false;
        for (int k = 0; k < now.n; k++) {
            moved |= send_some(&now.clients[k]);
            if (now.clients[k].reads) moved |= read_some(&now.clients[k], SIZE_MAX);
        }
        settle();
        if (!moved) break;
    }
    nobody_is_forgotten();
}

/* As long as the script says, timer after timer; clients that read do so meanwhile. */
static void pass(int64_t ns) {
    int64_t until = atomic_load(&virtual_ns) + ns;
    do
        pump();
    while (jump(ns / 100, until));
    if (until > atomic_load(&virtual_ns)) atomic_store(&virtual_ns, until);
    pump();
}

/* ---- scripts ---- */

/* As server_stop; but there is nobody who accepts, and another script will follow. */
static void stop_server(void) {
    atomic_store(&now.server->stopping, true);
    conns_kick(now.server);
}

/* An order, whose letter is at input[*at]. */
static void obey(size_t *at) {
    client *c = now.c;
    uint8_t order = now.input[(*at)++], n = 0;
    if (strchr("fctr", order) && order && *at < now.size) n = now.input[(*at)++];
    switch (order) {
    case '|':
        pump();
        break;
    case 'p':
        send_some(c);
        break;
    case 'm': {
        char word[MARKER_SIZE];
        answers_mark(c, word);
        add(c, word, sizeof word);
        break;
    }
    case 'f': {
        char same[64];
        memset(same, *at < now.size ? now.input[(*at)++] : 'x', sizeof same);
        for (int i = 0; i < n; i++)
            add(c, same, sizeof same);
        break;
    }
    case 't':
        pump();
        pass(NS_PER_MS << n % 18);
        pump();
        break;
    case 'a':
    case 'r':
        pump();
        read_some(c, order == 'a' ? SIZE_MAX : (size_t)1 << n % 16);
        settle();
        break;
    case 'q':
        c->reads = false;
        c->impatient = true;
        break;
    case 'h':
        c->half = c->impatient = true;
        pump();
        break;
    case 'x':
        c->impatient = true;
        send_some(c);
        hang_up(c);
        settle();
        break;
    case 'n':
    case 'b':
        if (now.n < CLIENTS) now.c = connect_client(order == 'b' ? 503 : 0);
        break;
    case 'c':
        now.c = &now.clients[n % now.n];
        break;
    case 'd':
        c->carries = true;
        break;
    case 's':
        stop_server();
        settle();
        break;
    default:
        add(c, (char[]){(char)255, (char)order}, 2);
    }
}

/* ---- what came of it ---- */

static int64_t bound_requests(void) {
    return host_p_requests(0) - now.bound;
}

/* Whether the server owes nobody anything. */
static bool all_answered(void) {
    int n = 0;
    for (int i = 0; i < n_conns; i++)
        if (play_is_bound(conns[i])) return false;
    for (int i = 0; i < now.n; i++) {
        answers a;
        answers_read(&now.clients[i], now.input, now.size, &a);
        if (a.wrong[0]) wrong("client %d: %s", i, a.wrong);
        if (!a.whole || now.clients[i].sent < now.clients[i].n_todo) return false;
        n += a.n;
    }
    return n >= bound_requests();
}

/* Everybody reads to the end; who was answered leaves. */
static void end_script(void) {
    int64_t until = atomic_load(&virtual_ns) + END_NS;
    for (int i = 0; i < now.n; i++)
        now.clients[i].reads = true;
    pump();
    while (n_conns > 0 && !all_answered()) {
        if (!jump(50 * NS_PER_MS, until)) wrong("a connection does not end");
        pump();
    }
    for (int i = 0; i < now.n; i++) {
        read_some(&now.clients[i], SIZE_MAX);
        hang_up(&now.clients[i]);
    }
    settle();
}

/* Other threads of the process, libFuzzer's, may have a file open for a moment. */
static void no_descriptor_is_left(void) {
    char name[64], what[256];
    for (int i = 0; i < 1000; i++) {
        int fd = dup(STDERR_FILENO);
        close(fd);
        if (fd == now.first_fd) return;
        usleep(1000);
    }
    snprintf(name, sizeof name, "/proc/self/fd/%d", now.first_fd);
    ssize_t n = readlink(name, what, sizeof what - 1);
    what[n < 0 ? 0 : n] = 0;
    wrong("descriptor %d is left: %s", now.first_fd, what);
}

/* What was given for the script is back, in time. */
static void everything_is_back(void) {
    int64_t until = atomic_load(&virtual_ns) + END_NS;
    while (n_conns > 0 || live_gs() > now.gs) {
        if (!jump(50 * NS_PER_MS, until))
            wrong("%d connections and %lld Gs are left", n_conns, (long long)(live_gs() - now.gs));
        settle();
    }
    no_descriptor_is_left();
}

/* What all clients have sent and got. */
typedef struct sums {
    int answers;
    bool impatient;   /* one of them is */
    double sent, got; /* bytes */
} sums;

static sums look_at_answers(void) {
    sums s = {0};
    int bound = (int)bound_requests(), most = bound + now.n;
    for (int i = 0; i < now.n; i++) {
        client *c = &now.clients[i];
        answers a;
        answers_read(c, now.input, now.size, &a);
        if (a.wrong[0]) wrong("client %d: %s", i, a.wrong);
        if (!a.whole && !c->ended && !c->impatient)
            wrong("client %d: the last answer has no end", i);
        s.answers += a.n;
        s.sent += (double)c->sent;
        s.got += (double)c->n_got;
        s.impatient |= c->impatient;
    }
    if (s.answers > most || (!s.impatient && s.answers < bound))
        wrong("%d answers to %d requests, of which each should have one", s.answers, bound);
    return s;
}

/* No connection is left: each exchange was over once, with the answer and the bytes that its client got. */
static void look_at_exchanges(sums s) {
    host_exchanges e;
    host_read_exchanges(&e);
    double none = e.by_status[0] - now.over.by_status[0], out = e.bytes_out - now.over.bytes_out,
           in = e.bytes_in - now.over.bytes_in, n = 0;
    for (int i = 1; i < HOST_STATUS_CLASSES; i++)
        n += e.by_status[i] - now.over.by_status[i];
    if (none > now.n) wrong("%g exchanges without an answer, of %d connections", none, now.n);
    if (n < s.answers || (!s.impatient && n > s.answers)) wrong("%g for %d answers", n, s.answers);
    if (n + none < (double)bound_requests()) wrong("%g exchanges were over", n + none);
    if (out < s.got || (!s.impatient && out > s.got)) wrong("%g bytes came, not %g", s.got, out);
    if (in > s.sent) wrong("%g bytes were sent, and exchanges count %g", s.sent, in);
}

static void begin_script(const uint8_t *input, size_t size) {
    now.input = input;
    now.size = size;
    now.n = 0;
    now.bound = host_p_requests(0);
    host_read_exchanges(&now.over);
    answers_next_script();
    atomic_store(&now.server->stopping, false);
    /* A socketpair tells as a TCP connection does, unless descriptors come with the bytes. */
    bool with_fds = input && memmem(input, size, "\xff\x64", 2);
    now.server->tells = with_fds ? RT_SHORT_TELLS_NOTHING : RT_SHORT_TELLS;
}

/* One who asks as everybody does. */
static void ask_properly(void) {
    char word[MARKER_SIZE], ask[64], want[64];
    begin_script(NULL, 0);
    client *c = connect_client(0);
    answers_mark(c, word);
    snprintf(ask, sizeof ask, "GET /ok/%.*s HTTP/1.1\r\nHost: x\r\n\r\n", MARKER_SIZE, word);
    add(c, ask, strlen(ask));
    pump();
    int n = snprintf(want, sizeof want, "\r\n\r\nok %.*s", MARKER_SIZE, word);
    if (c->n_got < (size_t)n || memcmp(c->got, "HTTP/1.1 200 OK\r\n", 17) != 0 ||
        memcmp(c->got + c->n_got - (size_t)n, want, (size_t)n) != 0)
        wrong("the next client is not answered");
    sums s = look_at_answers();
    hang_up(c);
    settle();
    if (n_conns > 0) wrong("the next client's connection does not end");
    look_at_exchanges(s);
}

void play(const uint8_t *input, size_t size) {
    begin_script(input, size);
    now.c = connect_client(0);
    for (size_t at = 0; at < size;) {
        if (input[at] != 255) {
            const uint8_t *order = memchr(input + at, 255, size - at);
            size_t n = order ? (size_t)(order - input) - at : size - at;
            add(now.c, input + at, n);
            at += n;
        } else if (++at < size) {
            obey(&at);
        }
    }
    end_script();
    if (play_shows) show();
    sums s = look_at_answers();
    everything_is_back();
    look_at_exchanges(s);
    ask_properly();
}

/* ---- the server ---- */

static void set(const char *name, const char *value) {
    const char *err = option_set(name, value, FROM_COMMAND_LINE);
    if (err) wrong("%s", err);
}

void play_begin(void) {
    int err;
    set("handler-timeout", "5");
    set("header-timeout", "3");
    set("idle-timeout", "8");
    set("max-body", "20000");
    signals_reserve();
    rooms_open();
    pool_init();
    host_log_set_level(LOG_ERROR + 1); /* errors are what most scripts are about */
    char *said = generation_start("host/fuzz/conn.lua", false, server_open);
    if (said) wrong("%s", said);
    host_listener l = {"127.0.0.1:0", &http_protocol, .limits = &options.limits};
    now.server = server_open(&l, &err);
    if (!now.server) wrong("cannot listen: %s", rt_strerror(err));
    while (host_vms(2) == 0) /* the spare one is being made */
        rt_sleep(NS_PER_MS);
    atomic_store(&virtual_ns, rt_nanotime());
    now.first_fd = dup(STDERR_FILENO);
    close(now.first_fd);
    now.gs = INT32_MAX;
    for (int i = 0; i < 10; i++)
        ask_properly();
    pass(NS_PER_SEC);
    now.gs = live_gs() + 1; /* the one that collects garbage comes and goes */
}

void play_main(void (*fn)(void *), void *arg) {
    static const sysmon_clock none = {no_time, sleep_for_ever};
    sysmon_set_clock(&none);
    rt_main(&(rt_options){.procs = 1, .deadlock_is_normal = true, .seed = 1}, fn, arg);
}
