/* Between the files of the descriptor layer: fd.c, sock.c, file.c. */
#ifndef FD_H
#define FD_H

#include "impl.h"

/* Bytes a call. Linux moves at most 2 GiB - 4 KiB; more would come back short anyway. */
#ifdef RT_TINY
enum { MAX_RW = 61, MAX_IOV = 3 };
#else
enum { MAX_RW = 1 << 30, MAX_IOV = 1024 };
#endif

/* System calls that answer -errno instead of errno. None is inlined: a G that waited may be on
 * another thread, and the compiler believes that errno's address never changes. */
#define SYS __attribute__((noinline))

/* fd.c. For a descriptor that is a file: fields of a new rt_fd. */
void fd_set_up(rt_fd *f, int fd, rt_pd *pd);

/* file.c. One call each, offloaded. */
ssize_t file_readv(int fd, const struct iovec *iov, int n);
ssize_t file_writev(int fd, const struct iovec *iov, int n);
int file_close(int fd);

/* signal.c. Stdout or stderr is broken: the process dies of SIGPIPE, unless the program has changed what SIGPIPE
 * does. */
void signal_broken_pipe(void);

#endif
