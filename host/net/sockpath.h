/* Files of unix sockets: which file belongs to which socket. See sockpath.c. */
#ifndef SOCKPATH_H
#define SOCKPATH_H

#include <sys/types.h>

typedef struct sock_file {
    dev_t dev;
    ino_t ino; /* 0: no file */
} sock_file;

/* The socket file of an address, or no file: the file is not there, or addr is no unix address. Any thread. Does not
 * wait. */
sock_file sock_file_of(const char *addr);

/* Removes the socket file of addr, if that is still `file`. Any thread. Does not wait. */
void sock_file_remove(const char *addr, sock_file file);

/* Gives the socket file of addr, which this process has just made, to that user and group. Any thread. Does not wait.
 * 0, also if addr is no unix address, or -errno. */
int sock_file_give(const char *addr, uid_t uid, gid_t gid);

/* Gives the socket file of addr, which this process has just made, that mode. As sock_file_give. */
int sock_file_mode(const char *addr, mode_t mode);

/* Before addr is bound: removes a socket file there that has no listener. Any thread. Does not wait. 0; -EEXIST:
 * another kind of file has the name; -EADDRINUSE: the file has a listener. */
int sock_file_clear(const char *addr);

#endif
