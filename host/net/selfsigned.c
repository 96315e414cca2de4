/* A certificate for localhost. See selfsigned.h.
 *
 * An ECDSA key on P-256 and a certificate for the names by which a machine calls itself, signed by the key, valid for
 * thirty days. The key is in memory only: whoever trusts the certificate trusts this process alone, and the next one
 * makes another. Made once per process, so that certificates that are loaded anew keep it. */
#include "selfsigned.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

enum { DAY_S = 24 * 3600, VALID_S = 30 * DAY_S, EARLY_S = 3600 };

/* Written once, by make_once; afterwards any thread reads. */
static struct {
    X509 *cert; /* NULL: no memory */
    EVP_PKEY *key;
} made;

static bool extend(X509 *cert, int nid, const char *value) {
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = e && X509_add_ext(cert, e, -1) == 1;
    X509_EXTENSION_free(e);
    return ok;
}

static bool name_it(X509 *cert) {
    static const unsigned char name[] = "localhost";
    X509_NAME *subject = X509_get_subject_name(cert);
    return X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_ASC, name, -1, -1, 0) ==
               1 &&
           X509_set_issuer_name(cert, subject) == 1;
}

/* A serial number of 63 random bits. */
static bool number_it(X509 *cert) {
    uint64_t serial;
    return RAND_bytes((unsigned char *)&serial, sizeof serial) == 1 &&
           ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1) == 1;
}

static bool fill(X509 *cert, EVP_PKEY *key) {
    return X509_set_version(cert, X509_VERSION_3) == 1 && number_it(cert) && name_it(cert) &&
           X509_gmtime_adj(X509_getm_notBefore(cert), -EARLY_S) &&
           X509_gmtime_adj(X509_getm_notAfter(cert), VALID_S) && X509_set_pubkey(cert, key) == 1 &&
           extend(cert, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1,IP:::1") &&
           extend(cert, NID_basic_constraints, "critical,CA:FALSE") &&
           extend(cert, NID_key_usage, "critical,digitalSignature") &&
           extend(cert, NID_ext_key_usage, "serverAuth") &&
           extend(cert, NID_subject_key_identifier, "hash") &&
           X509_sign(cert, key, EVP_sha256()) > 0;
}

static void make(void) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = key ? X509_new() : NULL;
    if (cert && fill(cert, key)) {
        made.cert = cert;
        made.key = key;
        return;
    }
    X509_free(cert);
    EVP_PKEY_free(key);
    ERR_clear_error();
}

X509 *selfsigned_cert(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make);
    return made.cert;
}

bool selfsigned_use(SSL_CTX *ctx) {
    return selfsigned_cert() && SSL_CTX_use_certificate(ctx, made.cert) == 1 &&
           SSL_CTX_use_PrivateKey(ctx, made.key) == 1;
}

void selfsigned_print(char to[SELFSIGNED_PRINT]) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    to[0] = 0;
    if (!selfsigned_cert() || X509_digest(made.cert, EVP_sha256(), digest, &n) != 1) return;
    for (unsigned int i = 0; i < n && i < SELFSIGNED_PRINT / 3; i++)
        snprintf(to + 3 * (size_t)i, 4, i + 1 < n ? "%02X:" : "%02X", digest[i]);
}

int selfsigned_write(const char *file) {
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return -errno;
    FILE *f = fdopen(fd, "w");
    if (!f) {
        close(fd);
        return -ENOMEM;
    }
    bool ok = selfsigned_cert() && PEM_write_X509(f, made.cert) == 1;
    if (fclose(f) != 0) return -errno;
    ERR_clear_error();
    return ok ? 0 : -EIO;
}
