/* Handshakes with an HTTPS server on 127.0.0.1, for host/bench/tls.sh.
 *
 *     shake PORT full COUNT       COUNT connections by 8 threads, each with a handshake and a request; prints how many
 *     shake PORT resumed COUNT    of them resumed a session. resumed: all but each thread's first try to
 *     shake PORT idle COUNT       COUNT connections that have had an answer each; prints COUNT, and closes them when its
 *                                 input ends
 *
 * Exit 1 if a connection fails. Linked with nothing of the host: it measures from outside. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { THREADS = 8 };

static SSL_CTX *ctx;
static int port;
static bool resumes;
static _Atomic long left, resumed;

static _Noreturn void die(const char *what) {
    fprintf(stderr, "shake: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int dial(void) {
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) die("cannot connect");
    return fd;
}

static SSL *shake(SSL_SESSION *session) {
    SSL *ssl = SSL_new(ctx);
    if (!ssl || SSL_set_fd(ssl, dial()) != 1) die("no memory");
    if (session && SSL_set_session(ssl, session) != 1) die("cannot use a session");
    if (SSL_connect(ssl) != 1) die("a handshake failed");
    return ssl;
}

/* Sends a request and reads the beginning of its answer. */
static void ask(SSL *ssl, const char *request) {
    char buf[4096];
    if (SSL_write(ssl, request, (int)strlen(request)) <= 0) die("cannot write");
    int n = SSL_read(ssl, buf, sizeof buf);
    if (n < 12 || memcmp(buf + 9, "200", 3) != 0) die("no answer");
}

static void hang_up(SSL *ssl) {
    int fd = SSL_get_fd(ssl);
    (void)SSL_shutdown(ssl);
    SSL_free(ssl);
    close(fd);
}

static void *run(void *arg) {
    SSL_SESSION *session = NULL;
    while (atomic_fetch_sub(&left, 1) > 0) {
        SSL *ssl = shake(session);
        char rest[4096];
        ask(ssl, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        while (SSL_read(ssl, rest, sizeof rest) > 0) {
        }
        if (SSL_session_reused(ssl)) atomic_fetch_add(&resumed, 1);
        if (resumes && !session)
            session = SSL_get1_session(ssl); /* its ticket came before the answer */
        hang_up(ssl);
    }
    SSL_SESSION_free(session);
    return arg;
}

static void hold_idle(long count) {
    SSL **all = calloc((size_t)count, sizeof *all);
    if (!all) die("no memory");
    for (long i = 0; i < count; i++) {
        all[i] = shake(NULL);
        ask(all[i], "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    printf("%ld\n", count);
    fflush(stdout);
    while (getchar() != EOF) {
    }
    for (long i = 0; i < count; i++)
        hang_up(all[i]);
    free(all);
}

int main(int argc, char **argv) {
    if (argc != 4) die("usage: shake PORT full|resumed|idle COUNT");
    port = atoi(argv[1]);
    resumes = strcmp(argv[2], "resumed") == 0;
    long count = atol(argv[3]);
    ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1) die("no context");
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    if (strcmp(argv[2], "idle") == 0) {
        hold_idle(count);
        return 0;
    }
    pthread_t threads[THREADS];
    atomic_store(&left, count);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, run, NULL)) die("no thread");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%ld\n", atomic_load(&resumed));
    SSL_CTX_free(ctx);
    return 0;
}
