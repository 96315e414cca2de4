/* The certificates of listeners: a config of TLS that is exchanged while connections come and go. See certs.c. */
#ifndef CERTS_H
#define CERTS_H

#include "tls_config.h"

#include <stdbool.h>

typedef struct certs certs;

/* Reads the files that `settings` names, and the ticket keys (tls_ticket_load), if ticket_keys is not NULL. Texts are
 * copied. One holder. NULL: why, with the file's name, stands in `why`. May block. Any thread. */
certs *certs_new(const tls_settings *settings, const char *ticket_keys, char why[TLS_WHY]);

/* Certificates that stay: those of config, which is held from now on. One holder. NULL: no memory. Any thread. Does not
 * wait. */
certs *certs_of(tls_config *config);

/* Adds, removes a holder. Any thread. Do not wait. */
void certs_hold(certs *c);
void certs_release(certs *c);

/* The config for a connection that begins now. The caller holds it, and releases it. Any thread. Does not wait. */
tls_config *certs_config(certs *c);

/* From now on files that change are loaded, by a G of its own, which holds c for good: once, for certs_new's. False: no
 * memory. Any thread of the runtime. Does not wait. */
bool certs_watch(certs *c);

/* Loads the files now, changed or not. After certs_watch. The log says the result. Any thread. Does not wait. */
void certs_ask(certs *c);

#endif
