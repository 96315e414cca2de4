/* What is needed to speak TLS: certificates, whom to trust, protocols. A config never changes. A listener whose files
 * have changed gets another config, and connections go on with the one that they began with. */
#ifndef TLS_CONFIG_H
#define TLS_CONFIG_H

#include "net_ffi.h"

#include <stdbool.h>
#include <stddef.h>

typedef host_tls tls_config;
typedef struct ssl_st SSL;

/* See host_tls_settings. Texts are copied, files are read at once. */
typedef host_tls_pair tls_pair;
typedef host_tls_settings tls_settings;

enum { TLS_WHY = 512 };

/* What tls_why says of a client that speaks plain HTTP to a TLS listener. */
#define TLS_PLAIN_HTTP "the client speaks plain HTTP"

/* A config with one holder. NULL: why, with the file's name, stands in `why`. Reads files: may block. Any thread. */
tls_config *tls_config_new(const tls_settings *settings, char why[TLS_WHY]);

/* The file of the OCSP staple of the certificate of that file; a server may lack it. The caller frees the text. NULL: no
 * memory. Any thread. Does not wait. */
char *tls_staple_file(const char *cert);

/* Adds, removes a holder; the last one frees the config. Any thread. Do not wait. */
void tls_config_hold(tls_config *c);
void tls_config_release(tls_config *c);

/* An SSL of c, without a BIO; NULL: no memory. name: see tls_begin. Any thread. Does not wait. */
SSL *tls_config_ssl(tls_config *c, const char *name);

/* Why the call of OpenSSL that has just failed did so, in words; writes nothing if words stand there already.
 * Empties OpenSSL's queue of errors. The thread that called. Does not wait. */
void tls_config_why(const tls_config *c, char *to, size_t cap);

/* True: the peer's key is the one that c pins, or c pins none. */
bool tls_config_pinned(const tls_config *c, SSL *ssl);

/* The last error of OpenSSL on this thread, as text; `other` if there is none. Empties the queue. */
void tls_error_text(char *to, size_t cap, const char *other);

#endif
