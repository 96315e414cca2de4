/* A socket of Lua's, as the files that work on sockets see it: sock.c, udp.c, transfer.c. */
#ifndef SOCK_H
#define SOCK_H

#include "host.h"

/* All of it is its VM's. */
struct host_sock {
    int fd; /* -1: closed */
    rt_pd *pd;
    bool drained;   /* the last read left nothing: the next edge tells when there is more */
    bool pipe;      /* or something else that is no socket */
    bool foreign;   /* somebody else's descriptor, which we do not close */
    uint32_t guess; /* bytes that the next read may bring */
    char *unlink;   /* path of a unix socket, removed when it closes */
    host_waitq waitq;
    host_rbuf rbuf;
    host_vm *vm;
    host_sock *prev, *next; /* of vm->socks */
};

/* Takes over fd, also when it fails. */
host_sock *sock_new(int fd, int *err);

/* The same for one end of a pipe, or whatever else can be polled and read or written. */
host_sock *sock_of_pipe(int fd, int *err);

/* May it be read or written now: 0, or RT_ECLOSED, RT_ETIMEOUT. */
int sock_check(host_sock *s, int mode);
/* 0: the G that runs may open one; HOST_EVIRTUAL: its time is virtual. */
int sock_allowed(void);

/* The kernel has nothing more to read, or may have. */
bool sock_is_dry(host_sock *s);

/* Room for `want` bytes behind what stands in the buffer. 0 or -ENOMEM. */
int rbuf_reserve(host_rbuf *b, size_t want);

#endif
