/* The keys of session tickets: the process's, for all listeners. A client that comes back with a ticket resumes its
 * session, whichever VM or generation answers. */
#ifndef TLS_TICKET_H
#define TLS_TICKET_H

#include <stdbool.h>

typedef struct ssl_ctx_st SSL_CTX;

/* Sessions of ctx are kept in tickets under these keys. False: no memory. Any thread. Does not wait. */
bool tls_ticket_use(SSL_CTX *ctx);

#endif
