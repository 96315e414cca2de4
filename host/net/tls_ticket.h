/* The keys of session tickets: the process's, for all listeners. A client that comes back with a ticket resumes its
 * session, whichever VM or generation answers. */
#ifndef TLS_TICKET_H
#define TLS_TICKET_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ssl_ctx_st SSL_CTX;

/* Sessions of ctx are kept in tickets under these keys. False: no memory. Any thread. Does not wait. */
bool tls_ticket_use(SSL_CTX *ctx);

/* Takes the keys from a file, for several machines that share it: keys of 80 bytes (a name of 16, 32 for HMAC-SHA256, 32
 * for AES-256; as nginx has them), of which the first is for new tickets. These keys stay until the next call. False:
 * why, with the file's name, stands in `why`, of cap bytes, and nothing has changed. Reads a file: may block. Any
 * thread. */
bool tls_ticket_load(const char *file, char *why, size_t cap);

/* For a process that takes over. hand_over: a descriptor that the keys can be read from; -ENOENT: there are none, or
 * they are a file's; another -errno. inherit: takes the keys from such a descriptor, and closes it. 0, or -EINVAL: the
 * descriptor is no such one. Any thread. Do not wait. */
int tls_ticket_hand_over(void);
int tls_ticket_inherit(int fd);

#endif
