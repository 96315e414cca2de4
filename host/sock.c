/* Sockets for Lua: a descriptor, its pollDesc, and one buffer for what was read but not yet taken.
 *
 * A socket belongs to its VM, so nothing here is locked; what waits for it stands in its waitq. All
 * functions try and return; lunapark.net does the waiting.
 */
#include "host.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct host_sock {
    int fd; /* -1: closed */
    rt_pd *pd;
    bool drained; /* the last read was short: the next edge tells when there is more */
    bool pipe;    /* or something else that is no socket */
    char *unlink; /* path of a unix listener, removed when it closes */
    host_waitq waitq;
    host_rbuf rbuf;
    host_vm *vm;
    host_sock *prev, *next; /* of vm->socks */
};

enum { READ_MIN = 4096, READ_MAX = 1 << 20 };

const char *host_strerror(int err) {
    return rt_strerror(err);
}

rt_pd *sock_pd(host_sock *s, host_waitq **q) {
    *q = &s->waitq;
    return s->pd;
}

/* Takes over fd, also when it fails. */
static host_sock *sock_new(int fd, int *err) {
    host_sock *s = calloc(1, sizeof *s);
    if (!s) {
        *err = -ENOMEM;
        close(fd);
        return NULL;
    }
    s->fd = fd;
    s->pd = rt_pd_open(fd, err);
    if (s->pd) {
        s->vm = vm_current();
        s->next = s->vm->socks;
        if (s->next) s->next->prev = s;
        s->vm->socks = s;
        return s;
    }
    close(fd);
    free(s);
    return NULL;
}

host_sock *sock_of_pipe(int fd, int *err) {
    host_sock *s = sock_new(fd, err);
    if (s) s->pipe = true;
    return s;
}

host_sock *host_sock_listen(const char *addr, int *err) {
    host_addr a;
    *err = addr_parse(addr, &a);
    if (*err) return NULL;
    int fd = rt_listen((struct sockaddr *)&a.sa, a.len, SOMAXCONN);
    if (fd < 0) {
        *err = fd;
        return NULL;
    }
    host_sock *s = sock_new(fd, err);
    if (s && a.sa.ss_family == AF_UNIX) s->unlink = strdup(addr + strlen("unix:"));
    return s;
}

host_sock *host_sock_dial(const char *addr, int *err) {
    host_addr a;
    *err = addr_parse(addr, &a);
    if (*err) return NULL;
    int fd = rt_socket(a.sa.ss_family, SOCK_STREAM, 0);
    if (fd < 0) {
        *err = fd;
        return NULL;
    }
    if (connect(fd, (struct sockaddr *)&a.sa, a.len) < 0 && errno != EINPROGRESS) {
        *err = -errno;
        close(fd);
        return NULL;
    }
    return sock_new(fd, err);
}

int host_sock_connected(host_sock *s) {
    return s->fd < 0 ? RT_ECLOSED : rt_connected(s->fd);
}

host_sock *host_sock_accept(host_sock *s, int *err) {
    *err = s->fd < 0 ? RT_ECLOSED : rt_pd_check(s->pd, RT_R);
    if (*err) return NULL;
    int fd = rt_accept4(s->fd, NULL, NULL);
    if (fd < 0) {
        *err = fd;
        return NULL;
    }
    return sock_new(fd, err);
}

host_rbuf *host_sock_rbuf(host_sock *s) {
    return &s->rbuf;
}

/* Room for at least `want` bytes after b->end. */
static int make_room(host_rbuf *b, size_t want) {
    if (b->pos == b->end) b->pos = b->end = 0;
    if (b->cap - b->end >= want) return 0;
    if (b->pos >= b->cap / 2 && b->cap - (b->end - b->pos) >= want) {
        memmove(b->data, b->data + b->pos, b->end - b->pos);
        b->end -= b->pos;
        b->pos = 0;
        return 0;
    }
    size_t cap = b->cap ? b->cap * 2 : READ_MIN;
    while (cap - b->end < want)
        cap *= 2;
    uint8_t *data = realloc(b->data, cap);
    if (!data) return -ENOMEM;
    b->data = data;
    b->cap = cap;
    return 0;
}

int64_t host_sock_fill(host_sock *s, size_t max) {
    if (s->fd < 0) return RT_ECLOSED;
    int err = rt_pd_check(s->pd, RT_R);
    if (err) return err;
    if (max > READ_MAX) max = READ_MAX;
    if (max == 0) max = 1;
    if (s->drained && !rt_pd_hup(s->pd)) {
        /* Whoever waits for readability now waits for the edge; after it, drained is over. */
        s->drained = false;
        return -EAGAIN;
    }
    host_rbuf *b = &s->rbuf;
    err = make_room(b, max < READ_MIN ? max : READ_MIN);
    if (err) return err;
    size_t room = b->cap - b->end;
    if (room > max) room = max;
    ssize_t n;
    do
        n = read(s->fd, b->data + b->end, room);
    while (n < 0 && errno == EINTR);
    if (n < 0) return -errno;
    b->end += (size_t)n;
    s->drained = n > 0 && (size_t)n < room && !s->pipe;
    return n;
}

int64_t host_sock_write(host_sock *s, const char *data, size_t len) {
    if (s->fd < 0) return RT_ECLOSED;
    int err = rt_pd_check(s->pd, RT_W);
    if (err) return err;
    for (;;) {
        ssize_t n = s->pipe ? write(s->fd, data, len) : send(s->fd, data, len, MSG_NOSIGNAL);
        if (n >= 0) return n;
        if (errno != EINTR) return -errno;
    }
}

int host_sock_close_write(host_sock *s) {
    if (s->fd < 0) return RT_ECLOSED;
    if (s->pipe) {
        host_sock_close(s);
        return 0;
    }
    return shutdown(s->fd, SHUT_WR) < 0 ? -errno : 0;
}

void host_sock_close(host_sock *s) {
    if (s->fd < 0) return;
    waitq_close(&s->waitq);
    rt_pd_close(s->pd);
    close(s->fd); /* an error here is of a write that nobody can repeat any more */
    s->fd = -1;
    s->pd = NULL;
    if (s->unlink) unlink(s->unlink);
    free(s->unlink);
    free(s->rbuf.data);
    s->unlink = NULL;
    s->rbuf = (host_rbuf){0};
}

void host_sock_free(host_sock *s) {
    host_sock_close(s);
    if (s->prev)
        s->prev->next = s->next;
    else
        s->vm->socks = s->next;
    if (s->next) s->next->prev = s->prev;
    free(s);
}

void sock_close_all(host_vm *vm) {
    while (vm->socks)
        host_sock_free(vm->socks);
}

void host_sock_set_deadline(host_sock *s, int mode, int64_t delay_ns) {
    if (s->fd < 0) return;
    int64_t when = 0;
    if (delay_ns >= 0) {
        int64_t now = rt_nanotime();
        when = delay_ns > INT64_MAX - now ? INT64_MAX : now + delay_ns;
    }
    if (mode & 1) rt_pd_set_deadline(s->pd, RT_R, when);
    if (mode & 2) rt_pd_set_deadline(s->pd, RT_W, when);
}

int host_sock_set_nodelay(host_sock *s, int on) {
    if (s->fd < 0) return RT_ECLOSED;
    return setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ? -errno : 0;
}

int host_sock_addr(host_sock *s, int peer, char *buf, size_t cap) {
    if (s->fd < 0) return RT_ECLOSED;
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    int r = peer ? getpeername(s->fd, (struct sockaddr *)&sa, &len)
                 : getsockname(s->fd, (struct sockaddr *)&sa, &len);
    return r < 0 ? -errno : addr_format((struct sockaddr *)&sa, len, buf, cap);
}
