/* OCSP staples: what a client gets that asks for one, and what is wrong with a file. Certificates are made by openssl(1),
 * what their issuer says of them here. */
#include "../net/tls.h"

#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../runtime/test/harness.h"

static char dir[64];

static const char *path(const char *name) {
    static char paths[8][128];
    static unsigned int n;
    char *p = paths[n++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", dir, name);
    return p;
}

static void run(const char *command) {
    char whole[512];
    snprintf(whole, sizeof whole, "cd %s && %s", dir, command);
    if (system(whole) != 0) fprintf(stderr, "failed: %s\n", whole);
}

static X509 *cert_of(const char *name) {
    FILE *f = fopen(path(name), "r");
    X509 *cert = f ? PEM_read_X509(f, NULL, NULL, NULL) : NULL;
    if (f) fclose(f);
    return cert;
}

static EVP_PKEY *key_of(const char *name) {
    FILE *f = fopen(path(name), "r");
    EVP_PKEY *key = f ? PEM_read_PrivateKey(f, NULL, NULL, NULL) : NULL;
    if (f) fclose(f);
    return key;
}

/* Writes a.pem.ocsp: that the certificate in `of` is good, until so many seconds from now on. */
static void say_good(const char *of, long until_s) {
    X509 *cert = cert_of(of), *signer = cert_of("a.pem");
    EVP_PKEY *key = key_of("a.key");
    OCSP_BASICRESP *basic = OCSP_BASICRESP_new();
    ASN1_TIME *since = X509_gmtime_adj(NULL, -3600), *until = X509_gmtime_adj(NULL, until_s);
    OCSP_CERTID *id = OCSP_cert_to_id(NULL, cert, cert);
    CHECK(OCSP_basic_add1_status(basic, id, V_OCSP_CERTSTATUS_GOOD, 0, NULL, since, until) != NULL);
    CHECK_EQ(OCSP_basic_sign(basic, signer, key, EVP_sha256(), NULL, 0), 1);
    OCSP_RESPONSE *answer = OCSP_response_create(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic);
    unsigned char *der = NULL;
    int n = i2d_OCSP_RESPONSE(answer, &der);
    FILE *f = fopen(path("a.pem.ocsp"), "w");
    CHECK(f && fwrite(der, 1, (size_t)n, f) == (size_t)n);
    fclose(f);
    OPENSSL_free(der);
    OCSP_RESPONSE_free(answer);
    OCSP_BASICRESP_free(basic);
    OCSP_CERTID_free(id);
    ASN1_TIME_free(since);
    ASN1_TIME_free(until);
    X509_free(cert);
    X509_free(signer);
    EVP_PKEY_free(key);
}

static tls_config *server(char why[TLS_WHY]) {
    tls_pair pair = {path("a.pem"), path("a.key")};
    return tls_config_new(&(tls_settings){.server = true, .pairs = &pair, .n_pairs = 1}, why);
}

/* *n: how many bytes a client gets that asks for a staple; -1: none. */
static void ask(int version, long *n) {
    char why[TLS_WHY];
    int sv[2];
    stream s;
    tls_config *sc = server(why), *cc = tls_config_new(&(tls_settings){.insecure = true}, why);
    CHECK(sc && cc);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv), 0);
    CHECK_EQ(stream_open(&s, sv[0], &stream_socket), 0);
    CHECK_EQ(tls_begin(&s, sc, NULL), 0);
    SSL *ssl = tls_config_ssl(cc, "a.example");
    SSL_set_fd(ssl, sv[1]);
    SSL_set_max_proto_version(ssl, version);
    SSL_set_tlsext_status_type(ssl, TLSEXT_STATUSTYPE_ocsp);
    bool done = false;
    for (int i = 0; i < 10 && !done; i++) {
        int r = SSL_do_handshake(ssl);
        stream_doubt(&s);
        done = r == 1 && s.ops->shake(&s) == 0;
        if (!done) (void)s.ops->shake(&s);
    }
    CHECK(done);
    const unsigned char *got;
    *n = SSL_get_tlsext_status_ocsp_resp(ssl, &got);
    SSL_free(ssl);
    close(sv[1]);
    stream_close(&s, false);
    tls_config_release(sc);
    tls_config_release(cc);
}

static long stapled(int version) {
    long n = -2;
    ask(version, &n);
    return n;
}

static void a_valid_answer_is_sent(void *arg) {
    (void)arg;
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (int i = 0; i < 2; i++) {
        unlink(path("a.pem.ocsp"));
        EXPECT_EQ(stapled(versions[i]), -1);
        say_good("a.pem", 3600);
        struct stat st;
        CHECK_EQ(stat(path("a.pem.ocsp"), &st), 0);
        EXPECT_EQ(stapled(versions[i]), st.st_size);
    }
}

static void an_answer_that_is_over_is_not(void *arg) {
    (void)arg;
    say_good("a.pem", -60);
    EXPECT_EQ(stapled(TLS1_3_VERSION), -1);
}

static void is_wrong(const char *said) {
    char why[TLS_WHY];
    tls_config *c = server(why);
    EXPECT(c == NULL);
    expect_at(strstr(why, said) && strstr(why, "a.pem.ocsp"), __FILE__, __LINE__, "%s", why);
    if (c) tls_config_release(c);
}

static void a_wrong_file_is_named(void *arg) {
    (void)arg;
    say_good("b.pem", 3600);
    is_wrong("of another certificate");
    run("echo nothing > a.pem.ocsp");
    is_wrong("no OCSP response");
    run("printf '0\\003\\012\\001\\003' > a.pem.ocsp"); /* tryLater */
    is_wrong("did not answer");
    say_good("a.pem", 3600);
    run("echo more >> a.pem.ocsp");
    is_wrong("no OCSP response");
    say_good("a.pem", 3600);
    run("head -c 70000 /dev/zero >> a.pem.ocsp");
    is_wrong("no OCSP response");
    run("rm a.pem.ocsp && mkfifo a.pem.ocsp"); /* nobody writes */
    is_wrong("no OCSP response");
    unlink(path("a.pem.ocsp"));
}

static void remove_all(void) {
    run("rm -rf \"$PWD\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        in_g_test(a_valid_answer_is_sent),
        in_g_test(an_answer_that_is_over_is_not),
        in_g_test(a_wrong_file_is_named),
    };
    snprintf(dir, sizeof dir, "/tmp/test_staple.%d", (int)getpid());
    if (mkdir(dir, 0700) < 0) return 1;
    atexit(remove_all);
    run("for n in a b; do openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        "-keyout $n.key -out "
        "$n.pem -subj /CN=$n -days 30 2>/dev/null || exit 1; done");
    RUN_TESTS("staple", tests);
}
