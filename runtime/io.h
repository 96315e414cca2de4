/* Descriptors for native Gs: sockets, files. Part of runtime.h, which includes this header and explains readiness,
 * deadlines and the answers RT_ETIMEOUT, RT_ECLOSED, RT_ECANCELED. */
#ifndef IO_H
#define IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "fdmutex.h"

typedef struct rt_pd rt_pd;

/* ---- descriptors for native Gs (fd.c) ------------------------------------------------------ */

/* A socket, a pipe, or a file. The caller owns the memory, from rt_fd_init until rt_fd_close has returned. A zeroed
 * rt_fd is closed. The fields belong to the functions below. */
typedef struct rt_fd {
    int fd;          /* -1: closed */
    rt_pd *pd;       /* NULL: a file, whose calls are offloaded (file.c) */
    rt_fdmutex mu;   /* users, locks, closed */
    bool drained;    /* read lock: the last read was short, so the next one waits first */
    uint8_t stream;  /* read lock: does a short read tell? 0: not asked yet, 1 no, 2 yes */
    bool not_socket; /* write lock */
    bool append;     /* a file opened with O_APPEND */
} rt_fd;

/* The functions below return 0 or a count, or RT_ETIMEOUT, RT_ECLOSED, RT_ECANCELED or -errno. They may wait: native
 * Gs. The comment of a function that differs says so. Any number of Gs may use one descriptor at a time: readers queue
 * for each other, writers queue for each other, a reader and a writer do not. */

/* Takes over a nonblocking descriptor that can be polled. After an error the descriptor stays the caller's; -EPERM: it
 * is a file. Any thread. Does not wait. */
int rt_fd_init(rt_fd *f, int fd);

/* Ends all waits for f with RT_ECLOSED, waits until its other users have left, closes the descriptor. From then on
 * every function answers RT_ECLOSED for f, also a second close. Native Gs; if f has no other users, any thread, and
 * does not wait. */
int rt_fd_close(rt_fd *f);

/* Reads what is there, at most n bytes and 1 GiB. Waits only if nothing is there. 0: the end, or n is 0. */
ssize_t rt_fd_read(rt_fd *f, void *buf, size_t n);
ssize_t rt_fd_readv(rt_fd *f, const struct iovec *iov, int n);

/* Writes all n bytes and returns n. Before an error a part may have been written; rt_fd_writev tells how much. -EPIPE
 * raises no signal, except on descriptors 1 and 2: see signal.c. */
ssize_t rt_fd_write(rt_fd *f, const void *buf, size_t n);

/* Writes all bytes of iov and returns how many. Changes iov, which after an error tells what was not written. */
ssize_t rt_fd_writev(rt_fd *f, struct iovec *iov, int n);

/* Shuts one side of a connection, or both: SHUT_RD, SHUT_WR, SHUT_RDWR. Any thread. Does not wait. */
int rt_fd_shutdown(rt_fd *f, int how);

/* Sets the deadline for RT_R, RT_W or RT_RW, as rt_pd_set_deadline. RT_ENODEADLINE: f is a file. Any thread. Does not
 * wait. */
int rt_fd_set_deadline(rt_fd *f, int mode, int64_t when_ns);

/* Between rt_own_write(true) and rt_own_write(false), a SIGPIPE on the calling thread does nothing: the caller looks at
 * -EPIPE itself. For writes without MSG_NOSIGNAL: to pipes, splice, sendfile. The G must not wait in between. Any
 * thread. Does not wait. See signal.c. */
void rt_own_write(bool on);

/* ---- sockets (sock.c) ---------------------------------------------------------------------- */

/* Make a socket; a socket that listens at sa. A descriptor, nonblocking and close-on-exec, or -errno. Any thread. Do
 * not wait. */
int rt_socket(int family, int type, int protocol);
int rt_listen(const struct sockaddr *sa, socklen_t len, int backlog);

/* Calls accept4 again while it answers ECONNABORTED or EINTR. A descriptor, -EAGAIN or another -errno. Any thread. Does
 * not wait. */
int rt_accept4(int fd, struct sockaddr_storage *sa, socklen_t *len);

/* Does a short read from fd, one that brings less than there was room for, mean that fd is empty and that the poller
 * tells when there is more? See fd.c. For a listening socket: the answer for the sockets that it accepts. *known:
 * RT_SHORT_UNKNOWN at first; keeps the answer for later calls. Any thread. Does not wait. */
enum { RT_SHORT_UNKNOWN, RT_SHORT_TELLS_NOTHING, RT_SHORT_TELLS };
bool rt_short_read_tells(int fd, uint8_t *known);

/* How a connect in progress ended, asked when its descriptor became writable. 0: connected; -EAGAIN: not yet; another
 * -errno: it failed. Any thread. Does not wait. */
int rt_connected(int fd);

/* Waits for a connection. Returns its descriptor, nonblocking and close-on-exec, or an error. */
int rt_fd_accept(rt_fd *f);

/* Connects; waits until the write deadline at most. After an error the socket is of no use. Linux answers -EAGAIN at
 * once for a unix listener whose backlog is full. */
int rt_fd_connect(rt_fd *f, const struct sockaddr *sa, socklen_t len);

/* What an accepting G keeps for the case that the process has no descriptor or no memory left. In this case the G turns
 * one client away with a few words and pauses 5 ms. Each further pause is twice as long, up to a second. */
typedef struct rt_acceptor {
    const void *farewell; /* said to a client that is turned away */
    size_t farewell_len;
    int64_t pause_ns; /* the last pause; 0: the last accept succeeded */
    int failures;     /* in a row */
    int reserve_fd;   /* kept for a client that is turned away; -1: none */
} rt_acceptor;

/* Sets up an acceptor. farewell: said to a client that is turned away, or NULL; it lives as long as the acceptor. One G
 * at a time uses an acceptor. Do not wait. */
void rt_acceptor_init(rt_acceptor *a, const void *farewell, size_t len);
void rt_acceptor_close(rt_acceptor *a);

/* Accepts as rt_fd_accept. An error other than RT_ECLOSED, RT_ETIMEOUT and RT_ECANCELED is returned after the pause;
 * the caller logs it if a->failures is 1 and calls again. */
int rt_fd_accept_with(rt_fd *f, rt_acceptor *a);

/* Accepts as rt_fd_accept_with, from a listener that several pollers share (rt_pd_open_listener). */
int rt_accept_with(rt_acceptor *a, int fd, rt_pd *pd);

/* ---- files (file.c) ------------------------------------------------------------------------ */

/* Opens a file with the flags of open(2) and close-on-exec. rt_fd_read, rt_fd_write and rt_fd_close take f; while they
 * are in the kernel, other Gs run. */
int rt_file_open(rt_fd *f, const char *path, int flags, mode_t mode);

/* Takes over a descriptor that shall stay blocking, such as stdout. After an error the descriptor stays the caller's. A
 * read from a terminal or a pipe holds up rt_fd_close until data comes. */
int rt_file_init(rt_fd *f, int fd);

/* Read and write at an offset; the file's own offset stays. rt_file_pread returns less than n only at the end. Before
 * an error a part may have been moved; a call with the same offset moves this part again. rt_file_pwrite: -EINVAL for a
 * file opened with O_APPEND, where Linux would ignore the offset. */
ssize_t rt_file_pread(rt_fd *f, void *buf, size_t n, int64_t offset);
ssize_t rt_file_pwrite(rt_fd *f, const void *buf, size_t n, int64_t offset);

/* Sets the file's offset and returns it. whence: as for lseek. */
int64_t rt_file_seek(rt_fd *f, int64_t offset, int whence);

/* Waits until the disk has the written data. data_only: without times and the like, which may follow later. */
int rt_file_sync(rt_fd *f, bool data_only);

#endif
