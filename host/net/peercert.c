/* A peer's certificate as text: for req.tls.client_cert. See peercert.h.
 *
 * The subject is written as RFC 2253 says, which escapes what could be taken for something else, control characters
 * among them. A name with a byte that no name of a host, mailbox or service has is left out: it was made to be
 * misread. */
#include "peercert.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { NAME_MAX_TEXT = 1024 };

void texts_add(texts *t, const char *text, size_t n) {
    size_t room = (size_t)(t->end - t->at);
    if (room == 0) return;
    if (n >= room) n = 0;
    memcpy(t->at, text, n);
    t->at[n] = 0;
    t->at += n + 1;
}

static void add_fingerprint(X509 *cert, texts *to) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
    unsigned int n = 0;
    if (X509_digest(cert, EVP_sha256(), digest, &n) != 1) n = 0;
    for (unsigned int i = 0; i < n; i++)
        snprintf(hex + 2 * (size_t)i, 3, "%02x", digest[i]);
    texts_add(to, hex, 2 * (size_t)n);
}

static void add_subject(X509 *cert, texts *to) {
    char *text;
    BIO *bio = BIO_new(BIO_s_mem());
    int flags = (XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) | ASN1_STRFLGS_ESC_CTRL;
    bool ok =
        bio && X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0, (unsigned long)flags) >= 0;
    long n = ok ? BIO_get_mem_data(bio, &text) : 0;
    texts_add(to, n > 0 ? text : "", n > 0 ? (size_t)n : 0);
    BIO_free(bio);
}

static void add_string(texts *to, const char *kind, const ASN1_STRING *s) {
    char name[NAME_MAX_TEXT];
    const unsigned char *data = ASN1_STRING_get0_data(s);
    int len = ASN1_STRING_length(s);
    for (int i = 0; i < len; i++)
        if (data[i] <= ' ' || data[i] > '~') return;
    int n = snprintf(name, sizeof name, "%s:%.*s", kind, len, (const char *)data);
    if (n > 0 && (size_t)n < sizeof name) texts_add(to, name, (size_t)n);
}

static void add_address(texts *to, const ASN1_OCTET_STRING *s) {
    char ip[INET6_ADDRSTRLEN], name[INET6_ADDRSTRLEN + 4];
    int len = ASN1_STRING_length(s);
    if (len != 4 && len != 16) return;
    inet_ntop(len == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(s), ip, sizeof ip);
    texts_add(to, name, (size_t)snprintf(name, sizeof name, "IP:%s", ip));
}

static void add_names(X509 *cert, texts *to) {
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type == GEN_DNS)
            add_string(to, "DNS", name->d.dNSName);
        else if (name->type == GEN_EMAIL)
            add_string(to, "email", name->d.rfc822Name);
        else if (name->type == GEN_URI)
            add_string(to, "URI", name->d.uniformResourceIdentifier);
        else if (name->type == GEN_IPADD)
            add_address(to, name->d.iPAddress);
    }
    GENERAL_NAMES_free(names);
}

void peercert_print(SSL *ssl, texts *to) {
    X509 *cert = SSL_get0_peer_certificate(ssl);
    if (!cert) return;
    texts_add(to, SSL_get_verify_result(ssl) == X509_V_OK ? "1" : "0", 1);
    add_fingerprint(cert, to);
    add_subject(cert, to);
    add_names(cert, to);
    ERR_clear_error();
}
