/* A socket of Lua, for the files that work on sockets: sock.c, udp.c, transfer.c. */
#ifndef SOCK_H
#define SOCK_H

#include "../../runtime/runtime.h"
#include "../base/addr.h"
#include "../vm/charge.h"
#include "../vm/luag.h"
#include "../vm/owned.h"
#include "../vm/waitfd.h"
#include "net_ffi.h"
#include "sockpath.h"
#include "stream.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Only the thread that runs the socket's VM. */
struct host_sock {
    host_owned owned; /* first */
    stream io;
    bool foreign;         /* the descriptor belongs to other code and is not closed */
    uint32_t guess;       /* bytes that the next read may bring */
    host_sock **known_to; /* cleared when the socket goes; NULL: no other code knows it */
    int64_t idle_ns;      /* no wait for the socket takes longer; 0: no bound */
    int mark;             /* the kernel's SO_RCVLOWAT; 1: it was never set. See sock_await */
    char *own_addr;       /* of a unix socket whose file is removed when it closes */
    sock_file file;       /* that file */
    host_waitq waitq;
    host_rbuf rbuf;
    vm_charge charge; /* of rbuf */
};

/* A socket of fd. Takes over fd, also when it fails. NULL: *err says why. By the VM that runs. */
host_sock *sock_new(int fd, int *err);

/* A socket of one end of a pipe, or of another descriptor that can be polled and read or written. Takes over fd, also
 * when it fails. */
host_sock *sock_of_pipe(int fd, int *err);

/* A socket that takes over a stream with a descriptor of its own; its first bytes to read are data[0 .. n). NULL: no
 * memory, or no more for the VM; then the stream is as it was. */
host_sock *sock_of_stream(stream *io, const void *data, size_t n);

/* *to, outside of Lua, is s until s goes; then NULL. to NULL: no longer. The thread that runs the VM. */
static inline void sock_known_to(host_sock *s, host_sock **to) {
    s->known_to = to;
}

/* The nearer of deadline_ns (0: none) and the end of the time that s may be silent, from now on. */
static inline int64_t sock_until(const host_sock *s, int64_t deadline_ns) {
    return s->idle_ns ? luag_nearer(deadline_ns, rt_nanotime() + s->idle_ns) : deadline_ns;
}

/* s, which may be NULL, is bound to addr: the file of a unix socket is removed with s. */
void sock_own_file(host_sock *s, const char *addr);

/* The pollDesc of s and the queue of the Gs that wait for it, to be waited for next. mode: RT_R, RT_W. NULL: closed. */
rt_pd *sock_pd(host_sock *s, int mode, host_waitq **q);

/* Before a wait for reading on s: a TCP socket shall wake its reader when `wanted` bytes, or MARK_MAX, are there; 0:
 * any. False: do not wait, but try once more. The thread that runs the VM. Does not wait. */
bool sock_await(host_sock *s, size_t wanted);

/* Writes: the bytes that the kernel took, or -errno, or an RT_E... */
ssize_t sock_writev(host_sock *s, struct iovec *iov, int n);

/* 0: s may be read or written (mode) now; RT_ECLOSED, RT_ETIMEOUT. */
int sock_check(host_sock *s, int mode);
/* 0: the running G may open a socket; HOST_EVIRTUAL: its time is virtual. */
int sock_allowed(void);
/* Reads the address of a socket that the running G wants to open. ours: the socket will be bound to it, so a file that
 * a unix socket of it has left goes. 0; HOST_EVIRTUAL; -errno. */
int sock_addr(const char *addr, bool ours, host_addr *a);

/* Makes room for `want` bytes behind the bytes in the buffer of s. 0 or -ENOMEM: no memory, or more than the VM may
 * have. */
int sock_reserve(host_sock *s, size_t want);

#endif
