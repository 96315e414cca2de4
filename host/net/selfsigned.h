/* A certificate for localhost that the process makes itself, for development: --tls-self-signed. See selfsigned.c. */
#ifndef SELFSIGNED_H
#define SELFSIGNED_H

#include <stdbool.h>
#include <stddef.h>

typedef struct x509_st X509;
typedef struct ssl_ctx_st SSL_CTX;

enum {
    SELFSIGNED_PRINT = 96
}; /* a fingerprint as text, NUL-terminated: 95 characters and the NUL */

/* The certificate, made by the first call: the process's from then on. NULL: no memory. Any thread. May block for a
 * moment. */
X509 *selfsigned_cert(void);

/* Gives ctx the certificate and its key. False: no memory. Any thread. */
bool selfsigned_use(SSL_CTX *ctx);

/* Writes the SHA-256 of the certificate: hexadecimal, with colons, as openssl(1) and browsers show it. Any thread. */
void selfsigned_print(char to[SELFSIGNED_PRINT]);

/* Writes the certificate, and no key, to a file, as PEM, for clients that are to trust it. 0 or -errno. May block. Any
 * thread. */
int selfsigned_write(const char *file);

#endif
