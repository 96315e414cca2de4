/* OCSP staples. See staple.h.
 *
 * A certificate may be revoked before it ends, and clients may want to know. A client that asks the issuer tells the
 * issuer which sites it visits, and waits. So the server sends the issuer's answer along, which is signed and valid for
 * some days. A cron job fetches the answer into a file beside the certificate (site.pem.ocsp of site.pem; HAProxy has the
 * same name): `openssl ocsp -respout`. The file is one of those that certs.c watches.
 *
 * Nothing is fetched here: a server that may not, or can't, reach its issuer would need all that cron jobs have anyway.
 * The issuer's signature is the client's to check. What is checked is what a mistake in the files would break: that the
 * answer is one, is of this certificate, and is not over, since a client that gets an old answer may refuse the whole
 * handshake. An answer that is over is not sent, and is no error: without it handshakes go on as if there were none. */
#include "staple.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MAX = 65536 }; /* a longer one is cut off, and so none */

struct staple {
    staple *next;
    X509 *cert;   /* held */
    time_t until; /* it may be sent before */
    size_t n;
    unsigned char bytes[];
};

/* What `answer` says of cert: true, and *until. */
static bool speaks_of(OCSP_RESPONSE *answer, X509 *cert, time_t *until) {
    OCSP_BASICRESP *basic = OCSP_response_get1_basic(answer);
    bool found = false;
    for (int i = 0; basic && !found && i < OCSP_resp_count(basic); i++) {
        OCSP_SINGLERESP *one = OCSP_resp_get0(basic, i);
        ASN1_GENERALIZEDTIME *next = NULL;
        ASN1_INTEGER *serial = NULL;
        OCSP_id_get0_info(NULL, NULL, NULL, &serial, (OCSP_CERTID *)OCSP_SINGLERESP_get0_id(one));
        found = ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(cert)) == 0;
        if (!found) continue;
        struct tm tm;
        (void)OCSP_single_get0_status(one, NULL, NULL, NULL, &next);
        *until = next && ASN1_TIME_to_tm(next, &tm) == 1 ? timegm(&tm) : INT64_MAX;
    }
    OCSP_BASICRESP_free(basic);
    return found;
}

/* NULL, or what is wrong. */
static const char *check(staple *s) {
    const unsigned char *at = s->bytes;
    OCSP_RESPONSE *answer = d2i_OCSP_RESPONSE(NULL, &at, (long)s->n);
    const char *wrong = NULL;
    if (!answer ||
        at != s->bytes + s->n) /* none may follow: a strict client refuses an answer with a tail */
        wrong = "no OCSP response (DER)";
    else if (OCSP_response_status(answer) != OCSP_RESPONSE_STATUS_SUCCESSFUL)
        wrong = "the responder did not answer";
    else if (!speaks_of(answer, s->cert, &s->until))
        wrong = "of another certificate";
    OCSP_RESPONSE_free(answer);
    ERR_clear_error();
    return wrong;
}

bool staple_read(staple **list, const char *file, X509 *cert, char *why, size_t cap) {
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* no wait for who writes to a FIFO */
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (!f && fd >= 0) close(fd);
    if (fd < 0 && errno == ENOENT) return true;
    staple *s = f ? malloc(sizeof *s + ANSWER_MAX) : NULL;
    const char *wrong = f ? s ? NULL : "no memory" : strerror(errno);
    if (s) {
        *s = (staple){.next = *list, .cert = cert, .n = fread(s->bytes, 1, ANSWER_MAX, f)};
        wrong = ferror(f) ? "unreadable" : check(s);
    }
    if (f) fclose(f);
    if (wrong) {
        snprintf(why, cap, "OCSP %s: %s", file, wrong);
        free(s);
        return false;
    }
    staple *fits = realloc(s, sizeof *s + s->n);
    *list = fits ? fits : s;
    X509_up_ref(cert);
    return true;
}

void staple_free(staple *list) {
    while (list) {
        staple *next = list->next;
        X509_free(list->cert);
        free(list);
        list = next;
    }
}

/* OpenSSL's contract: OK: the staple that was set is sent; NOACK: none is. By then the certificate is chosen. */
static int staple_cb(SSL *ssl, void *arg) {
    const staple *s = *(staple **)arg;
    const X509 *cert = SSL_get_certificate(ssl);
    while (s && s->cert != cert)
        s = s->next;
    if (!s || s->until <= time(NULL)) return SSL_TLSEXT_ERR_NOACK;
    void *copy = OPENSSL_memdup(s->bytes, s->n);
    if (!copy) return SSL_TLSEXT_ERR_NOACK;
    (void)SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)s->n); /* which owns the copy */
    return SSL_TLSEXT_ERR_OK;
}

void staple_use(SSL_CTX *ctx, staple **list) {
    (void)SSL_CTX_set_tlsext_status_cb(ctx, staple_cb);
    (void)SSL_CTX_set_tlsext_status_arg(ctx, list);
}
