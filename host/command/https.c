/* HTTPS: which certificates --listen has, and when they are loaded anew.
 *
 * All --listen speak TLS, or none does: an app that answers in the clear, too, stands behind two processes or a proxy.
 * The files are read as --user, not as root before: a file that the user can't read fails the start, not the loading of
 * the renewed certificate in the night. */
#include "https.h"

#include "../base/log.h"
#include "../base/options.h"
#include "../net/certs.h"
#include "../net/selfsigned.h"

#include "../../runtime/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static certs *present; /* NULL: plain. Set once */

static _Noreturn void mistake(const char *what) {
    log_end(); /* what was logged before it stands before it */
    fprintf(stderr, "lunapark: %s\n", what);
    exit(64);
}

/* --tls-self-signed: the file for the certificate, "" for none; NULL: the option is not there. As a flag it may say 1
 * and 0 in the environment. */
static const char *self_signed(void) {
    const char *file = options.tls_self_signed;
    if (!file || strcmp(file, "0") == 0) return NULL;
    return strcmp(file, "1") == 0 ? "" : file;
}

static void tell_self_signed(const char *file) {
    char print[SELFSIGNED_PRINT];
    int err = *file ? selfsigned_write(file) : 0;
    if (err) start_failed("--tls-self-signed: %s: %s", file, rt_strerror(err));
    selfsigned_print(print);
    log_line(LOG_INFO, "--tls-self-signed: the certificate's SHA-256 is %s", print);
}

certs *https_open(void) {
    const char *own = self_signed();
    int n = options.n_tls_cert;
    if (n != options.n_tls_key) mistake("--tls-cert and --tls-key come in pairs");
    if (n == 0 && !own) {
        if (options.tls_client_ca || options.tls_ticket_keys)
            mistake("--tls-client-ca and --tls-ticket-keys need --tls-cert");
        return NULL;
    }
    tls_pair pairs[MAX_CERTS];
    for (int i = 0; i < n; i++)
        pairs[i] = (tls_pair){options.tls_cert[i], options.tls_key[i]};
    const tls_settings set = {.server = true,
                              .pairs = pairs,
                              .n_pairs = n,
                              .ca = options.tls_client_ca,
                              .alpn = "http/1.1,http/1.0", /* curl --http1.0 offers nothing else */
                              .self_signed = own != NULL};
    char why[TLS_WHY];
    present = certs_new(&set, options.tls_ticket_keys, why);
    if (!present) start_failed("TLS: %s", why);
    if (own) tell_self_signed(own);
    return present;
}

void https_watch(void) {
    if (present && !certs_watch(present)) start_failed("not enough memory");
}

void https_reload(void) {
    if (present) certs_ask(present);
}
