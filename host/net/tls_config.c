/* Configs of TLS. See tls_config.h.
 *
 * A server has a context of OpenSSL for each set of names, with a certificate for each kind of key (RSA beside ECDSA).
 * The client's SNI chooses: the exact name, then a wildcard for its first label, then the first pair. All contexts are
 * made alike, so that exchanging them in the midst of a handshake changes certificates and nothing else.
 *
 * Versions, ciphers and curves: TLS 1.2 with forward secrecy and AEAD alone, and all of 1.3 (Mozilla's "intermediate"
 * without the CBC and DHE suites). Sessions are kept by tickets alone (tls_ticket.c): no cache to lock.
 *
 * Private keys are in no core dump, nor in what another process of the same user reads: a process that has read one is
 * not "dumpable" any more (prctl(2)), and its crash leaves the log alone. Less does not keep the keys out: OpenSSL's
 * secure heap has the numbers of a key, but the text of its file, what is decoded on the way, and what RSA precomputes
 * are outside; and the keys of tickets and sessions are worth as much. */
#include "tls_config.h"

#include "../base/hash.h"
#include "../base/refs.h"
#include "selfsigned.h"
#include "staple.h"
#include "tls_ticket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <unistd.h>

#define CIPHERS                                                                                    \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"     \
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define GROUPS "X25519:P-256:P-384"

enum { ALPN_MAX = 128, PIN = 32, TRUSTS = 32 };

/* A name of a certificate, and the context that speaks for it. */
typedef struct named {
    char *name; /* in lower case; a wildcard stands as ".example.com" */
    SSL_CTX *ctx;
} named;

struct tls_config {
    refs refs;
    bool server, insecure, pinned;
    SSL_CTX **ctxs; /* the first one is the default */
    int n_ctxs;
    named *names; /* sorted */
    int n_names;
    staple *staples;
    unsigned char alpn[ALPN_MAX]; /* as on the wire */
    unsigned int n_alpn;
    unsigned char pin[PIN];
    unsigned char trusts[TRUSTS]; /* a server: SHA-256 of whom it trusts */
};

/* ---- errors as text ---- */

void tls_error_text(char *to, size_t cap, const char *other) {
    unsigned long e = ERR_peek_last_error();
    const char *reason = e ? ERR_reason_error_string(e) : NULL;
    if (reason)
        snprintf(to, cap, "%s", reason);
    else if (e && ERR_SYSTEM_ERROR(e))
        snprintf(to, cap, "%s", strerror(ERR_GET_REASON(e)));
    else
        snprintf(to, cap, "%s", other);
    ERR_clear_error();
}

static void time_text(const ASN1_TIME *at, char *to, size_t cap) {
    struct tm tm;
    if (ASN1_TIME_to_tm(at, &tm) != 1 || strftime(to, cap, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
        snprintf(to, cap, "an unreadable time");
}

/* The names of a certificate, for people: the first few. */
static void names_text(X509 *cert, char *to, size_t cap) {
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    size_t n = 0;
    to[0] = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names) && n + 1 < cap; i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_DNS) continue;
        int w =
            snprintf(to + n, cap - n, "%s%.*s", n ? ", " : "", ASN1_STRING_length(name->d.dNSName),
                     (const char *)ASN1_STRING_get0_data(name->d.dNSName));
        n += (size_t)w;
    }
    GENERAL_NAMES_free(names);
    if (!to[0]) snprintf(to, cap, "no name");
}

/* Why a certificate was refused in the call of OpenSSL that is under way: the peer's is not to be had afterwards. */
static __thread char refused[256];

static int note_refusal(int ok, X509_STORE_CTX *store) {
    if (ok) return 1;
    X509 *cert = X509_STORE_CTX_get_current_cert(store);
    if (!cert) cert = X509_STORE_CTX_get0_cert(store);
    int result = X509_STORE_CTX_get_error(store);
    char what[160];
    if (cert && result == X509_V_ERR_CERT_HAS_EXPIRED) {
        time_text(X509_get0_notAfter(cert), what, sizeof what);
        snprintf(refused, sizeof refused, "certificate expired on %s", what);
    } else if (cert && result == X509_V_ERR_CERT_NOT_YET_VALID) {
        time_text(X509_get0_notBefore(cert), what, sizeof what);
        snprintf(refused, sizeof refused, "certificate is not valid before %s", what);
    } else if (cert && (result == X509_V_ERR_HOSTNAME_MISMATCH ||
                        result == X509_V_ERR_IP_ADDRESS_MISMATCH)) {
        names_text(cert, what, sizeof what);
        snprintf(refused, sizeof refused, "name does not match: the certificate is for %s", what);
    } else {
        snprintf(refused, sizeof refused, "certificate is not trusted: %s",
                 X509_verify_cert_error_string(result));
    }
    return 0;
}

void tls_config_why(const tls_config *c, char *to, size_t cap) {
    unsigned long e = ERR_peek_error();
    int reason = ERR_GET_REASON(e);
    if (to[0]) {
        ERR_clear_error();
    } else if (ERR_GET_LIB(e) == ERR_LIB_SSL && reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        snprintf(to, cap, "%s", refused);
        ERR_clear_error();
    } else if (ERR_GET_LIB(e) == ERR_LIB_SSL && reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        snprintf(to, cap, "the peer ended the stream without saying so: bytes may be missing");
        ERR_clear_error();
    } else if (ERR_GET_LIB(e) == ERR_LIB_SSL && reason == SSL_R_HTTP_REQUEST) {
        snprintf(to, cap, "%s", TLS_PLAIN_HTTP);
        ERR_clear_error();
    } else if (ERR_GET_LIB(e) == ERR_LIB_SSL && (reason == SSL_R_WRONG_VERSION_NUMBER)) {
        snprintf(to, cap, "the peer does not speak TLS");
        ERR_clear_error();
    } else if (ERR_GET_LIB(e) == ERR_LIB_SSL && reason >= SSL_AD_REASON_OFFSET) {
        char alert[96];
        tls_error_text(alert, sizeof alert, "");
        snprintf(to, cap, "the peer refused: %s", alert);
    } else {
        tls_error_text(to, cap, c->server ? "the client broke TLS" : "the server broke TLS");
    }
}

/* ---- names ---- */

static int compare_named(const void *a, const void *b) {
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static SSL_CTX *find_name(const tls_config *c, const char *name) {
    named key = {.name = (char *)name};
    named *found =
        c->n_names ? bsearch(&key, c->names, (size_t)c->n_names, sizeof key, compare_named) : NULL;
    return found ? found->ctx : NULL;
}

/* The context for a name that a client asks for; NULL: none speaks for it. */
static SSL_CTX *ctx_of_name(const tls_config *c, const char *sni) {
    char name[256];
    size_t n = strlen(sni);
    if (n > 0 && sni[n - 1] == '.') n--;
    if (n == 0 || n >= sizeof name) return NULL;
    for (size_t i = 0; i < n; i++)
        name[i] = sni[i] >= 'A' && sni[i] <= 'Z' ? (char)(sni[i] + 32) : sni[i];
    name[n] = 0;
    SSL_CTX *ctx = find_name(c, name);
    const char *dot = strchr(name, '.');
    return ctx || !dot ? ctx : find_name(c, dot);
}

static int choose_name(SSL *ssl, int *alert, void *arg) {
    (void)alert;
    const tls_config *c = arg;
    const char *sni = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    SSL_CTX *ctx = sni ? ctx_of_name(c, sni) : NULL;
    if (ctx && ctx != SSL_get_SSL_CTX(ssl)) SSL_set_SSL_CTX(ssl, ctx);
    return ctx ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

/* ctx speaks for the name data[0 .. n), unless another one does: false without memory. */
static bool add_name(tls_config *c, SSL_CTX *ctx, const char *data, size_t n) {
    bool wild = n > 2 && data[0] == '*' && data[1] == '.';
    char *name = strndup(data + wild, n - wild);
    named *names = name ? realloc(c->names, ((size_t)c->n_names + 1) * sizeof *names) : NULL;
    if (!names) {
        free(name);
        return false;
    }
    for (char *p = name; *p; p++)
        if (*p >= 'A' && *p <= 'Z') *p = (char)(*p + 32);
    c->names = names;
    for (int i = 0; i < c->n_names; i++)
        if (strcmp(names[i].name, name) == 0) {
            free(name);
            return true;
        }
    names[c->n_names++] = (named){name, ctx};
    return true;
}

/* ctx speaks for all names of cert. */
static bool add_names(tls_config *c, SSL_CTX *ctx, X509 *cert) {
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool ok = true, any = false;
    for (int i = 0; ok && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_DNS) continue;
        any = true;
        ok = add_name(c, ctx, (const char *)ASN1_STRING_get0_data(name->d.dNSName),
                      (size_t)ASN1_STRING_length(name->d.dNSName));
    }
    GENERAL_NAMES_free(names);
    char common[256];
    int n = any ? 0
                : X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, common,
                                            sizeof common);
    return ok && n > 0 ? add_name(c, ctx, common, strlen(common)) : ok;
}

/* ---- ALPN ---- */

/* "h2,http/1.1" as on the wire. */
static bool set_alpn(tls_config *c, const char *list) {
    while (list && *list) {
        size_t n = strcspn(list, ",");
        if (n == 0 || n > 255 || c->n_alpn + n + 1 > sizeof c->alpn) return false;
        c->alpn[c->n_alpn++] = (unsigned char)n;
        memcpy(c->alpn + c->n_alpn, list, n);
        c->n_alpn += (unsigned int)n;
        list += n + (list[n] == ',');
    }
    return true;
}

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *n_out,
                       const unsigned char *in, unsigned int n_in, void *arg) {
    (void)ssl;
    const tls_config *c = arg;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, n_out, c->alpn, c->n_alpn, in, n_in) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL; /* RFC 7301, 3.2: no_application_protocol */
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* ---- contexts ---- */

/* Keys with a passphrase: nobody is there to ask. */
static int no_passphrase(char *buf, int size, int writing, void *arg) {
    (void)buf, (void)size, (void)writing, (void)arg;
    return -1;
}

static SSL_CTX *make_ctx(tls_config *c, char why[TLS_WHY]) {
    SSL_CTX *ctx = SSL_CTX_new(c->server ? TLS_server_method() : TLS_client_method());
    if (!ctx) {
        snprintf(why, TLS_WHY, "no memory");
        return NULL;
    }
    bool ok = SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
              SSL_CTX_set_cipher_list(ctx, CIPHERS) == 1 &&
              SSL_CTX_set1_groups_list(ctx, GROUPS) == 1;
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_PRIORITIZE_CHACHA | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    if (c->server) {
        SSL_CTX_set_num_tickets(ctx, 1);
        SSL_CTX_set_tlsext_servername_callback(ctx, choose_name);
        SSL_CTX_set_tlsext_servername_arg(ctx, c);
        staple_use(ctx, &c->staples);
        if (c->n_alpn) SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, c);
        /* A session resumes only where the same clients are trusted as where it began. */
        ok = ok && SSL_CTX_set_session_id_context(ctx, c->trusts, sizeof c->trusts) == 1 &&
             tls_ticket_use(ctx);
    } else if (c->n_alpn) {
        ok = ok && SSL_CTX_set_alpn_protos(ctx, c->alpn, c->n_alpn) == 0;
    }
    if (ok) return ctx;
    tls_error_text(why, TLS_WHY, "no memory");
    SSL_CTX_free(ctx);
    return NULL;
}

/* Says what is wrong with a file: of one that can't be opened OpenSSL says little. */
static bool blame(char why[TLS_WHY], const char *what, const char *file) {
    char text[256];
    int fd = open(file, O_RDONLY | O_CLOEXEC), err = fd < 0 ? errno : 0;
    tls_error_text(text, sizeof text, "unreadable");
    if (err) snprintf(text, sizeof text, "%s", err == ENOENT ? "no such file" : strerror(err));
    if (fd >= 0) close(fd);
    snprintf(why, TLS_WHY, "%s %s: %s", what, file, text);
    return false;
}

static bool trust(tls_config *c, SSL_CTX *ctx, const tls_settings *set, char why[TLS_WHY]) {
    if (set->ca) {
        if (SSL_CTX_load_verify_file(ctx, set->ca) != 1) return blame(why, "CA file", set->ca);
        if (c->server) {
            STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(set->ca);
            if (!names) return blame(why, "CA file", set->ca);
            SSL_CTX_set_client_CA_list(ctx, names);
        }
    } else if (!c->server && !c->insecure && SSL_CTX_set_default_verify_paths(ctx) != 1) {
        snprintf(why, TLS_WHY, "the system's certificates can't be used");
        return false;
    }
    int mode = SSL_VERIFY_NONE;
    if (c->server && set->ca)
        mode = SSL_VERIFY_PEER | (set->optional ? 0 : SSL_VERIFY_FAIL_IF_NO_PEER_CERT);
    if (!c->server && !c->insecure) mode = SSL_VERIFY_PEER;
    SSL_CTX_set_verify(ctx, mode, note_refusal);
    return true;
}

/* The certificate of a file; NULL: unreadable. */
static X509 *read_cert(const char *file) {
    BIO *bio = BIO_new_file(file, "r");
    X509 *cert = bio ? PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL) : NULL;
    BIO_free(bio);
    return cert;
}

static bool use_pair(SSL_CTX *ctx, const tls_pair *pair, char why[TLS_WHY]) {
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (SSL_CTX_use_certificate_chain_file(ctx, pair->cert) != 1)
        return blame(why, "certificate", pair->cert);
    if (SSL_CTX_use_PrivateKey_file(ctx, pair->key, SSL_FILETYPE_PEM) != 1)
        return blame(why, "key", pair->key);
    if (SSL_CTX_check_private_key(ctx) != 1) return blame(why, "key", pair->key);
    return true;
}

/* The staple of the pair that ctx has got last, from the file beside its certificate. */
static bool add_staple(tls_config *c, SSL_CTX *ctx, const tls_pair *pair, char why[TLS_WHY]) {
    char *file = tls_staple_file(pair->cert);
    bool ok = file && staple_read(&c->staples, file, SSL_CTX_get0_certificate(ctx), why, TLS_WHY);
    if (!file) snprintf(why, TLS_WHY, "no memory");
    free(file);
    return ok;
}

/* A context among those there are that speaks for cert's first name and has no key of its kind yet. */
static SSL_CTX *companion(tls_config *c, X509 *cert) {
    char name[256];
    names_text(cert, name, sizeof name);
    name[strcspn(name, ",")] = 0;
    SSL_CTX *ctx = find_name(c, name[0] == '*' ? name + 1 : name);
    if (!ctx) return NULL;
    int kind = EVP_PKEY_get_base_id(X509_get0_pubkey(cert));
    bool taken = false;
    for (int more = SSL_CTX_set_current_cert(ctx, SSL_CERT_SET_FIRST); more == 1;
         more = SSL_CTX_set_current_cert(ctx, SSL_CERT_SET_NEXT)) {
        X509 *has = SSL_CTX_get0_certificate(ctx);
        if (has && EVP_PKEY_get_base_id(X509_get0_pubkey(has)) == kind) taken = true;
    }
    return taken ? NULL : ctx;
}

static SSL_CTX *add_ctx(tls_config *c, const tls_settings *set, char why[TLS_WHY]) {
    SSL_CTX **ctxs = realloc(c->ctxs, ((size_t)c->n_ctxs + 1) * sizeof(SSL_CTX *));
    if (!ctxs) {
        snprintf(why, TLS_WHY, "no memory");
        return NULL;
    }
    c->ctxs = ctxs;
    SSL_CTX *ctx = make_ctx(c, why);
    if (!ctx) return NULL;
    ctxs[c->n_ctxs++] = ctx;
    return trust(c, ctx, set, why) ? ctx : NULL;
}

static bool add_pair(tls_config *c, const tls_settings *set, const tls_pair *pair,
                     char why[TLS_WHY]) {
    X509 *cert = read_cert(pair->cert);
    if (!cert) return blame(why, "certificate", pair->cert);
    SSL_CTX *ctx = companion(c, cert);
    if (!ctx) ctx = add_ctx(c, set, why);
    bool ok = ctx && use_pair(ctx, pair, why) && (!c->server || add_staple(c, ctx, pair, why));
    if (ok && c->server && !add_names(c, ctx, cert)) {
        snprintf(why, TLS_WHY, "no memory");
        ok = false;
    }
    X509_free(cert);
    if (c->n_names) qsort(c->names, (size_t)c->n_names, sizeof *c->names, compare_named);
    return ok;
}

/* The certificate that the process makes itself. */
static bool add_self_signed(tls_config *c, const tls_settings *set, char why[TLS_WHY]) {
    SSL_CTX *ctx = add_ctx(c, set, why);
    bool ok = ctx && selfsigned_use(ctx) && add_names(c, ctx, selfsigned_cert());
    if (ok) qsort(c->names, (size_t)c->n_names, sizeof *c->names, compare_named);
    if (!ok && !why[0]) snprintf(why, TLS_WHY, "no memory for a certificate");
    return ok;
}

static bool set_pin(tls_config *c, const char *hex, char why[TLS_WHY]) {
    if (!hex) return true;
    size_t n = 0;
    c->pinned = OPENSSL_hexstr2buf_ex(c->pin, sizeof c->pin, &n, hex, 0) == 1 && n == sizeof c->pin;
    if (!c->pinned)
        snprintf(why, TLS_WHY, "pin: not a SHA-256 as 64 hexadecimal digits: %.80s", hex);
    return c->pinned;
}

/* c->trusts, from the bytes of the CA file. */
static bool set_trusts(tls_config *c, const tls_settings *set, char why[TLS_WHY]) {
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(md, &set->optional, sizeof set->optional) == 1;
    FILE *f = ok && set->ca ? fopen(set->ca, "re") : NULL;
    if (ok && set->ca && !f) {
        snprintf(why, TLS_WHY, "CA file %s: %s", set->ca, strerror(errno));
        ok = false;
    }
    char buf[4096];
    for (size_t n; ok && f && (n = fread(buf, 1, sizeof buf, f)) > 0;)
        ok = EVP_DigestUpdate(md, buf, n) == 1;
    if (f) fclose(f);
    ok = ok && EVP_DigestFinal_ex(md, c->trusts, NULL) == 1;
    EVP_MD_CTX_free(md);
    if (!ok && !why[0]) snprintf(why, TLS_WHY, "no memory");
    return ok;
}

tls_config *tls_config_new(const tls_settings *set, char why[TLS_WHY]) {
    /* No handlers at exit: other threads may be in OpenSSL then. */
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL);
    ERR_clear_error();
    why[0] = 0;
    tls_config *c = calloc(1, sizeof *c);
    if (!c) {
        snprintf(why, TLS_WHY, "no memory");
        return NULL;
    }
    refs_init(&c->refs, 1);
    c->server = set->server;
    c->insecure = set->insecure;
    bool ok = set_pin(c, set->pin, why) && set_trusts(c, set, why);
    if (ok && !set_alpn(c, set->alpn)) {
        snprintf(why, TLS_WHY, "alpn: not a list of protocols: %.80s", set->alpn);
        ok = false;
    }
    if (ok && !c->server && set->n_pairs == 0) ok = add_ctx(c, set, why) != NULL;
    for (int i = 0; ok && i < set->n_pairs; i++)
        ok = add_pair(c, set, &set->pairs[i], why);
    if (ok && c->server && set->self_signed) ok = add_self_signed(c, set, why);
    if (ok && c->n_ctxs > 0) return c;
    if (!why[0]) snprintf(why, TLS_WHY, "a server needs a certificate and its key");
    tls_config_release(c);
    return NULL;
}

char *tls_staple_file(const char *cert) {
    char *file = NULL;
    return asprintf(&file, "%s.ocsp", cert) < 0 ? NULL : file;
}

void tls_config_hold(tls_config *c) {
    refs_hold(&c->refs);
}

void tls_config_release(tls_config *c) {
    if (!c || !refs_drop(&c->refs)) return;
    for (int i = 0; i < c->n_ctxs; i++)
        SSL_CTX_free(c->ctxs[i]);
    for (int i = 0; i < c->n_names; i++)
        free(c->names[i].name);
    staple_free(c->staples);
    free(c->names);
    free(c->ctxs);
    free(c);
}

/* ---- connections ---- */

/* A client's: the name that the certificate has to have, and SNI. An address stands in no SNI. */
static bool set_name(const tls_config *c, SSL *ssl, const char *name) {
    unsigned char ip[sizeof(struct in6_addr)];
    bool is_ip = inet_pton(AF_INET, name, ip) == 1 || inet_pton(AF_INET6, name, ip) == 1;
    if (!is_ip && SSL_set_tlsext_host_name(ssl, name) != 1) return false;
    if (c->insecure) return true;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (is_ip) return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    return SSL_set1_host(ssl, name) == 1;
}

SSL *tls_config_ssl(tls_config *c, const char *name) {
    SSL *ssl = SSL_new(c->ctxs[0]);
    if (!ssl) return NULL;
    if (c->server) {
        SSL_set_accept_state(ssl);
        return ssl;
    }
    SSL_set_connect_state(ssl);
    if (!name || set_name(c, ssl, name)) return ssl;
    SSL_free(ssl);
    return NULL;
}

bool tls_config_pinned(const tls_config *c, SSL *ssl) {
    if (!c->pinned) return true;
    X509 *cert = SSL_get0_peer_certificate(ssl);
    unsigned char *der = NULL, digest[PIN];
    int n = cert ? i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der) : -1;
    bool ok = n > 0 && EVP_Digest(der, (size_t)n, digest, NULL, EVP_sha256(), NULL) == 1 &&
              CRYPTO_memcmp(digest, c->pin, PIN) == 0;
    OPENSSL_free(der);
    return ok;
}
