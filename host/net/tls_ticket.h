/* The keys of session tickets: the process's, for all listeners. A client that comes back with a ticket resumes its
 * session, whichever VM, generation or process answers, as long as that has the key. */
#ifndef TLS_TICKET_H
#define TLS_TICKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ssl_ctx_st SSL_CTX;

enum { TLS_TICKET_KEY = 80, TLS_TICKET_KEYS = 3 };

/* Sessions of ctx are kept in tickets under these keys. False: no memory. Any thread. Does not wait. */
bool tls_ticket_use(SSL_CTX *ctx);

/* Exchanges the keys: n of them, the first one for new tickets; further ones, and the present ones as far as there is
 * room, are good for old tickets. 80 bytes each: name 16, HMAC-SHA256 32, AES-256 32 (as nginx has them in files). Any
 * thread. Does not wait. */
void tls_ticket_set(const uint8_t *keys, int n);

/* Adds a key of random bytes in front, if the first one is older than an hour. Any thread. Does not wait. */
void tls_ticket_rotate(int64_t now_ns);

/* Writes the keys for another process: TLS_TICKET_KEYS of TLS_TICKET_KEY bytes. Returns how many. Any thread. Does not
 * wait. */
int tls_ticket_keys(uint8_t *to);

#endif
