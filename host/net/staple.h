/* OCSP staples: what the issuer of a certificate says of it, from a file, for clients that ask in the handshake. See
 * staple.c. */
#ifndef STAPLE_H
#define STAPLE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct x509_st X509;
typedef struct ssl_ctx_st SSL_CTX;

/* A list of staples, each of one certificate. The maker of the list writes; afterwards it does not change. */
typedef struct staple staple;

/* Puts what a file (an OCSP response, DER) says of cert in front of *list, which holds cert from then on. True also if
 * there is no such file. False: why, with the file's name, stands in `why`, of cap bytes. Reads a file: may block. Any
 * thread. */
bool staple_read(staple **list, const char *file, X509 *cert, char *why, size_t cap);

/* Frees all of list, which may be NULL. Any thread. Does not wait. */
void staple_free(staple *list);

/* Handshakes of ctx send the staple of the certificate that they send, as long as it is valid. *list outlives ctx. */
void staple_use(SSL_CTX *ctx, staple **list);

#endif
