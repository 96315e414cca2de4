/* Listening sockets that the process was started with: by the process that it replaces (upgrade.c), or by systemd,
 * which listens for a service before the service runs (sd_listen_fds(3)).
 *
 * The old process lists the sockets in LUNAPARK_INHERIT. The first line is the descriptor by which the new process says
 * that it is ready. Each further line is a descriptor, the owner of the socket, and the address that was asked for:
 *
 *     3
 *     4 own 127.0.0.1:0
 *     5 given unix:/run/app.sock
 *
 * The word tcp before the address: an app listens there for another protocol than HTTP (app:tcp). A line "procs 4", or
 * "procs 0" for as many as CPUs may be used, tells what POST /procs of the admin API was last asked for: it holds in
 * the new process, too.
 *
 * A line "tickets 6": that descriptor has the keys of TLS's session tickets, so that clients resume their sessions here.
 *
 * own: a lunapark process has bound it, so the file of a unix socket is ours to remove. given: systemd has bound it.
 * systemd says LISTEN_FDS=n, for n descriptors from 3 on, and LISTEN_PID, which tells the service from its children.
 *
 * Nothing of this is believed. A descriptor must be a listening stream socket, bound to the address that the line says:
 * a variable that was exported by mistake does no harm but a line in the log.
 *
 * A listener takes the socket for which the same address was asked before, so that port 0 stays the port that it has
 * become. Else it takes a socket that is bound to this very address. If there is none, the address is bound anew.
 * Sockets that are left, of addresses that the options name no more, are closed, but not before all is well: if the
 * upgrade fails, the old process goes on with them.
 */
#include "inherit.h"

#include "../base/addr.h"
#include "../base/log.h"
#include "../serve/raw.h"
#include "../serve/server.h"
#include "../net/sockpath.h"
#include "../net/tls_ticket.h"
#include "../shared/dict_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_INHERITED = 64, SYSTEMD_FIRST_FD = 3 };

typedef struct inherited {
    int fd; /* -1: taken */
    bool owns_path;
    enum { SPEAKS_ANY, SPEAKS_HTTP, SPEAKS_RAW } speaks; /* ANY: systemd and --bind do not say */
    sock_file file;
    char asked[HOST_ADDR_MAX], bound[HOST_ADDR_MAX];
} inherited;

/* Only the main G touches it. */
static struct {
    inherited *list;
    int n;
    int ready_fd; /* -1: no process waits for it */
    int procs;    /* for rt_set_procs; -1: it was never asked for */
    bool upgrade;
} in = {.ready_fd = -1, .procs = -1};

int inherit_print(const host_server *s, int fd, char *buf, size_t size) {
    return snprintf(buf, size, "\n%d %s %s%s", fd, s->owns_path ? "own" : "given",
                    s->listener.protocol == &raw_protocol ? "tcp " : "", s->asked);
}

static int set_cloexec(int fd) {
    int flags = fcntl(fd, F_GETFD);
    return flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0 ? -errno : 0;
}

static bool is_listener(int fd) {
    int listens = 0, type = 0;
    socklen_t n = sizeof listens, m = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) == 0 && listens &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &m) == 0 && type == SOCK_STREAM;
}

/* Writes addr as the host writes addresses, with another port if port is not -1. */
static void canonical(const char *addr, char *buf, size_t cap) {
    host_addr a;
    if (addr_parse(addr, &a) == 0)
        addr_format((struct sockaddr *)&a.sa, a.len, buf, cap);
    else
        snprintf(buf, cap, "%s", addr);
}

/* True: `asked` may have become `bound`. */
static bool fits(const char *asked, const char *bound) {
    char want[HOST_ADDR_MAX];
    canonical(asked, want, sizeof want);
    if (strcmp(want, bound) == 0) return true;
    size_t n = strlen(want);
    bool any_port = strncmp(want, "unix:", 5) != 0 && n > 2 && strcmp(want + n - 2, ":0") == 0;
    return any_port && strncmp(want, bound, n - 1) == 0 && !strchr(bound + n - 1, ':');
}

/* Adds an inherited socket. asked NULL: systemd's. Returns NULL, or what is wrong with it. */
static const char *add(int fd, bool owns_path, int speaks, const char *asked) {
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    if (set_cloexec(fd) < 0 || !is_listener(fd)) return "no listening socket";
    if (in.n == MAX_INHERITED) return "too many";
    inherited *i = &in.list[in.n];
    *i = (inherited){.fd = fd, .owns_path = owns_path, .speaks = speaks};
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0) return strerror(errno);
    if (sa.ss_family != AF_INET && sa.ss_family != AF_INET6 && sa.ss_family != AF_UNIX)
        return "of a family that is not known";
    addr_format((struct sockaddr *)&sa, len, i->bound, sizeof i->bound);
    i->file = sock_file_of(i->bound);
    if (asked && !fits(asked, i->bound)) return "bound to another address";
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return strerror(errno);
    snprintf(i->asked, sizeof i->asked, "%s", asked ? asked : i->bound);
    in.n++;
    return NULL;
}

static void add_or_say(const char *from, int fd, bool owns_path, int speaks, const char *asked) {
    const char *wrong = add(fd, owns_path, speaks, asked);
    if (wrong) log_line(LOG_WARN, "%s: descriptor %d is not used: %s", from, fd, wrong);
}

static bool parse_line(char *line, int *fd, bool *own, bool *tcp, char **asked) {
    char *end;
    long n = strtol(line, &end, 10);
    if (end == line || n <= INHERIT_READY_FD || n > 1 << 20) return false;
    *fd = (int)n;
    *own = strncmp(end, " own ", 5) == 0;
    if (!*own && strncmp(end, " given ", 7) != 0) return false;
    *asked = strchr(end + 1, ' ') + 1;
    *tcp = strncmp(*asked, "tcp ", 4) == 0;
    if (*tcp) *asked += 4;
    return strlen(*asked) < HOST_ADDR_MAX;
}

/* Without these keys clients make new sessions. */
static void take_tickets(int fd) {
    int err = fd > INHERIT_READY_FD ? tls_ticket_inherit(fd) : -EINVAL;
    if (err) log_line(LOG_WARN, "%s: tickets: %s", INHERIT_VARIABLE, rt_strerror(err));
}

static void from_upgrade(char *text) {
    struct stat st;
    char *save = NULL, *line = strtok_r(text, "\n", &save), *asked, *end;
    long fd = line ? strtol(line, &end, 10) : -1;
    if (fd != INHERIT_READY_FD || *end || fstat((int)fd, &st) < 0 || !S_ISFIFO(st.st_mode) ||
        set_cloexec((int)fd) < 0) {
        log_line(LOG_WARN, "%s: not from a process that hands over, and ignored", INHERIT_VARIABLE);
        return;
    }
    in.ready_fd = (int)fd;
    in.upgrade = true;
    dict_files_share(true, true);
    while ((line = strtok_r(NULL, "\n", &save))) {
        int n;
        bool own, tcp;
        if (strncmp(line, "procs ", 6) == 0)
            in.procs = (int)strtol(line + 6, NULL, 10);
        else if (strncmp(line, "tickets ", 8) == 0)
            take_tickets((int)strtol(line + 8, NULL, 10));
        else if (parse_line(line, &n, &own, &tcp, &asked))
            add_or_say(INHERIT_VARIABLE, n, own, tcp ? SPEAKS_RAW : SPEAKS_HTTP, asked);
        else
            log_line(LOG_WARN, "%s: not understood: %s", INHERIT_VARIABLE, line);
    }
}

static void from_systemd(const char *fds) {
    const char *pid = getenv("LISTEN_PID");
    if (!pid || strtol(pid, NULL, 10) != getpid()) return;
    long n = strtol(fds, NULL, 10);
    if (n > MAX_INHERITED) n = MAX_INHERITED;
    for (int i = 0; i < n; i++)
        add_or_say("LISTEN_FDS", SYSTEMD_FIRST_FD + i, false, SPEAKS_ANY, NULL);
}

static bool make_list(void) {
    if (!in.list) in.list = calloc(MAX_INHERITED, sizeof *in.list);
    return in.list != NULL;
}

void inherit_init(void) {
    char *upgrade = getenv(INHERIT_VARIABLE), *fds = getenv("LISTEN_FDS");
    if (!upgrade && !fds) return;
    if (!make_list()) start_failed("not enough memory");
    if (upgrade)
        from_upgrade(upgrade);
    else
        from_systemd(fds);
    unsetenv(INHERIT_VARIABLE);
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDNAMES");
}

bool inherit_is_upgrade(void) {
    return in.upgrade;
}

void inherit_procs(void) {
    if (in.procs < 0) return;
    int n = rt_set_procs(in.procs);
    if (n < 0) log_line(LOG_WARN, "%s: procs %d: %s", INHERIT_VARIABLE, in.procs, rt_strerror(n));
}

int inherit_given(const char **addrs, int max) {
    int n = 0;
    for (int i = 0; i < in.n && n < max; i++)
        if (in.list[i].fd >= 0 && !in.list[i].owns_path && !(addrs[n++] = strdup(in.list[i].asked)))
            start_failed("not enough memory");
    return n;
}

static int take(inherited *i, bool *owns_path) {
    int fd = i->fd;
    *owns_path = i->owns_path;
    i->fd = -1;
    return fd;
}

static bool may_serve(const inherited *i, int speaks) {
    return i->fd >= 0 && (i->speaks == SPEAKS_ANY || (int)i->speaks == speaks);
}

static inherited *find(const char *addr, int speaks) {
    char bound[HOST_ADDR_MAX];
    canonical(addr, bound, sizeof bound);
    for (int i = 0; i < in.n; i++)
        if (may_serve(&in.list[i], speaks) && strcmp(in.list[i].asked, addr) == 0)
            return &in.list[i];
    for (int i = 0; i < in.n; i++)
        if (may_serve(&in.list[i], speaks) && strcmp(in.list[i].bound, bound) == 0)
            return &in.list[i];
    return NULL;
}

int inherit_take(const host_listener *l, bool *owns_path) {
    inherited *i = find(l->addr, l->protocol == &raw_protocol ? SPEAKS_RAW : SPEAKS_HTTP);
    return i ? take(i, owns_path) : -1;
}

bool inherit_has(const char *addr) {
    return find(addr, SPEAKS_HTTP) != NULL;
}

bool inherit_keep(int fd, const char *asked, bool of_app) {
    if (!make_list()) return false;
    add_or_say("--user", fd, true, of_app ? SPEAKS_ANY : SPEAKS_HTTP, asked);
    return true;
}

void inherit_done(void) {
    if (in.ready_fd >= 0) {
        char text[32];
        int len = snprintf(text, sizeof text, "%d\n", (int)getpid());
        /* Fails if the old process is gone, which leaves the service to this process. */
        ssize_t n = write(in.ready_fd, text, (size_t)len);
        (void)n;
        close(in.ready_fd);
        in.ready_fd = -1;
    }
    for (int i = 0; i < in.n; i++) {
        inherited *left = &in.list[i];
        if (left->fd < 0) continue;
        log_line(LOG_INFO, "%s: not listened on any more", left->bound);
        close(left->fd);
        if (left->owns_path) sock_file_remove(left->bound, left->file);
    }
    free(in.list);
    in.list = NULL;
    in.n = 0;
}
