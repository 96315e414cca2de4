/* TLS streams. See tls.h.
 *
 * OpenSSL reads and writes through a BIO of ours. Its reads are reads of the plain stream beneath, with the rule of
 * edges (stream.h). OpenSSL asks for as much as it has room for (read_ahead), so that one call brings a whole record, or
 * several. What it holds undecrypted is invisible to the poller: as long as there is any, the stream is not drained.
 *
 * Its writes are gathered in a buffer of the thread, and leave in one send at the end of each call of ours: a flight of
 * the handshake, an answer, an alert. What the kernel does not take of them waits in `left`. A write answers -EAGAIN
 * then, though its bytes are encrypted already; how many they are stands in `held`. The next write begins with the same
 * bytes (stream.h), which are not encrypted again: when `left` has gone out, the write answers `held`. So a byte counts
 * as written when the kernel has it, as with plain streams, and a writer that stops has nothing that it thinks gone.
 *
 * Records are small at the beginning and after a pause, so that the client can decrypt the first bytes before a
 * window's worth has come; then as large as they may be (HAProxy's maxrecord, Cloudflare's dynamic records).
 *
 * A peer may ask for new keys, or for a renegotiation, as often as it likes, and each costs us more than the peer.
 * OpenSSL sets no limit: after SHAKES_MAX of them without a byte of data the connection ends.
 *
 * Nothing here waits, so what belongs to the thread (buffer, OpenSSL's error queue) is never another thread's in
 * between. The queue is emptied before each call whose outcome is asked for. */
#include "tls.h"

#include "../../runtime/io.h"
#include "../base/count.h"
#include "peercert.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    RECORD_MAX = 16384,    /* plain bytes of a record, by the protocol */
    RECORD_SMALL = 1350,   /* a record that fits into one segment */
    SMALL_UNTIL = 65536,   /* plain bytes until records grow */
    TURN_MAX = 49152,      /* plain bytes that one write takes at most */
    WIRE_MAX = 65536,      /* their records, and what else there is to say */
    LEFT_MAX = 256 * 1024, /* of a handshake that sends long chains to a peer that reads nothing */
    SHAKES_MAX = 64,
};
#define PAUSE_NS (1000 * 1000 * 1000) /* after such a pause records are small again */

typedef struct tls {
    SSL *ssl;
    tls_config *config;
    char *left; /* encrypted bytes [left_pos .. left_end) that the kernel has not taken */
    uint32_t left_pos, left_end;
    uint32_t held;   /* plain bytes whose records are not out yet */
    uint32_t sent;   /* plain bytes since the beginning or the last pause, up to SMALL_UNTIL */
    int64_t sent_ns; /* when the last of them was sent */
    int err;         /* -errno of the BIO's last call */
    uint16_t shakes; /* messages of handshakes, and alerts of ours, since the last byte of data */
    uint8_t read_wants,
        write_wants; /* RT_R or RT_W: what the last -EAGAIN of a read, a write waits for */
    bool shaken, abandoned, shut;
    bool dry; /* the BIO found nothing to read in the call that is under way */
    bool eof; /* the plain stream has ended */
    char why[256];
} tls;

/* What the BIO has written in the call that is under way. */
static __thread struct {
    size_t n;
    char bytes[WIRE_MAX];
} wire;

/* atomic; relaxed: a count says nothing of other memory. Not by P, as counts of requests are: an addition is nothing
 * beside a handshake. */
static struct { _Atomic int64_t done, resumed, failed; } handshakes;

static void count_handshake(const SSL *ssl, bool ok) {
    if (!SSL_is_server(ssl)) return;
    atomic_fetch_add_explicit(ok ? &handshakes.done : &handshakes.failed, 1, memory_order_relaxed);
    if (ok && SSL_session_reused(ssl) == 1)
        atomic_fetch_add_explicit(&handshakes.resumed, 1, memory_order_relaxed);
}

void host_read_handshakes(host_handshakes *sum) {
    *sum = (host_handshakes){(double)count_now(&handshakes.done),
                             (double)count_now(&handshakes.resumed),
                             (double)count_now(&handshakes.failed)};
}

static int fail(stream *s, const char *why) {
    tls *t = s->tls;
    if (!t->why[0]) snprintf(t->why, sizeof t->why, "%s", why);
    return STREAM_ETLS;
}

/* ---- the BIO ---- */

static int bio_read(BIO *bio, char *buf, int n) {
    stream *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t r = s->tls->shakes > SHAKES_MAX ? -EPROTO : stream_socket.read(s, buf, (size_t)n);
    s->tls->dry = r == -EAGAIN;
    s->tls->eof = r == 0;
    if (r >= 0) return (int)r;
    if (r == -EAGAIN)
        BIO_set_retry_read(bio);
    else
        s->tls->err = (int)r;
    return -1;
}

/* Keeps bytes that the kernel does not take. 0 or -errno. */
static int keep_left(tls *t, const char *data, size_t n) {
    size_t have = t->left_end - t->left_pos;
    if (have + n > LEFT_MAX) return -ENOBUFS;
    char *left = malloc(have + n);
    if (!left) return -ENOMEM;
    if (have) memcpy(left, t->left + t->left_pos, have);
    memcpy(left + have, data, n);
    free(t->left);
    t->left = left;
    t->left_pos = 0;
    t->left_end = (uint32_t)(have + n);
    return 0;
}

static int bio_write(BIO *bio, const char *data, int n) {
    stream *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if ((size_t)n > sizeof wire.bytes - wire.n) {
        /* More than a write of ours makes: a handshake with long chains. In order behind what there is. */
        if ((s->tls->err = keep_left(s->tls, wire.bytes, wire.n))) return -1;
        wire.n = 0;
        if ((size_t)n > sizeof wire.bytes)
            return (s->tls->err = keep_left(s->tls, data, (size_t)n)) ? -1 : n;
    }
    memcpy(wire.bytes + wire.n, data, (size_t)n);
    wire.n += (size_t)n;
    return n;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr) {
    (void)num, (void)ptr;
    if (cmd == BIO_CTRL_EOF) return ((stream *)BIO_get_data(bio))->tls->eof;
    return cmd == BIO_CTRL_FLUSH || cmd == BIO_CTRL_DUP;
}

/* Made once, by the first that needs it. Acquire and release: whoever sees the pointer sees the method whole. */
static BIO_METHOD *bio_method(void) {
    static BIO_METHOD *_Atomic method;
    BIO_METHOD *m = atomic_load_explicit(&method, memory_order_acquire), *none = NULL;
    if (m) return m;
    if (!(m = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "lunapark"))) return NULL;
    BIO_meth_set_read(m, bio_read);
    BIO_meth_set_write(m, bio_write);
    BIO_meth_set_ctrl(m, bio_ctrl);
    if (atomic_compare_exchange_strong_explicit(&method, &none, m, memory_order_acq_rel,
                                                memory_order_acquire))
        return m;
    BIO_meth_free(m);
    return none;
}

/* ---- calls of OpenSSL ---- */

/* Before each call. */
static void begin(tls *t) {
    ERR_clear_error();
    t->err = 0;
    t->dry = false;
    wire.n = 0;
}

/* Sends what was left over before. 0, -EAGAIN, or -errno. */
static int send_left(stream *s) {
    tls *t = s->tls;
    while (t->left_pos < t->left_end) {
        struct iovec iov = {t->left + t->left_pos, t->left_end - t->left_pos};
        ssize_t r = stream_socket.writev(s, &iov, 1, false);
        if (r < 0) return (int)r;
        t->left_pos += (uint32_t)r;
    }
    free(t->left);
    t->left = NULL;
    t->left_pos = t->left_end = 0;
    return 0;
}

/* After each call: sends what the BIO has written. 0; -EAGAIN: not all of it; -errno. */
static int send_wire(stream *s, bool more) {
    tls *t = s->tls;
    if (wire.n == 0) return t->left ? -EAGAIN : 0;
    size_t at = 0;
    int err = 0;
    while (!t->left && at < wire.n) {
        struct iovec iov = {wire.bytes + at, wire.n - at};
        ssize_t r = stream_socket.writev(s, &iov, 1, more);
        if (r < 0 && r != -EAGAIN) err = (int)r;
        if (r < 0) break;
        at += (size_t)r;
    }
    size_t n = wire.n - at;
    wire.n = 0;
    if (err || n == 0) return err;
    err = keep_left(t, wire.bytes + at, n);
    return err ? err : -EAGAIN;
}

/* OpenSSL wants to be called again, though what it has may suffice: it stops after messages of its own, like new keys,
 * with the next record in its buffer already, of which no edge will tell. */
static bool again(const tls *t, int r) {
    return r <= 0 && !t->dry && !t->err && SSL_get_error(t->ssl, r) == SSL_ERROR_WANT_READ;
}

/* What the failed call of OpenSSL that returned r means for a read or write (mode): -EAGAIN, -errno, STREAM_ETLS, or 0:
 * the peer has ended the stream in order. */
static int meaning(stream *s, int r, int mode) {
    tls *t = s->tls;
    int error = SSL_get_error(t->ssl, r);
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        uint8_t want = error == SSL_ERROR_WANT_READ ? RT_R : RT_W;
        if (mode == RT_R)
            t->read_wants = want;
        else
            t->write_wants = want;
        return -EAGAIN;
    }
    if (t->shakes > SHAKES_MAX) return fail(s, "the peer asks for new keys again and again");
    if (t->err) return t->err;
    tls_config_why(t->config, t->why, sizeof t->why);
    return STREAM_ETLS;
}

static void count_shakes(const SSL *ssl, int where, int ret) {
    (void)ret;
    stream *s = SSL_get_app_data(ssl);
    if (!s || !s->tls || !s->tls->shaken) return;
    if (where & SSL_CB_LOOP || (where & SSL_CB_WRITE_ALERT) == SSL_CB_WRITE_ALERT) s->tls->shakes++;
}

int tls_begin(stream *s, tls_config *c, const char *name) {
    tls *t = calloc(1, sizeof *t);
    BIO_METHOD *method = bio_method();
    BIO *bio = t && method ? BIO_new(method) : NULL;
    SSL *ssl = bio ? tls_config_ssl(c, name) : NULL;
    if (!ssl) {
        BIO_free(bio);
        free(t);
        return -ENOMEM;
    }
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_app_data(ssl, s);
    SSL_set_info_callback(ssl, count_shakes);
    t->ssl = ssl;
    t->config = c;
    tls_config_hold(c);
    t->read_wants = RT_R;
    t->write_wants = RT_W;
    s->tls = t;
    s->ops = &stream_tls;
    return 0;
}

static int shake(stream *s) {
    tls *t = s->tls;
    int err = t->left ? send_left(s) : 0, r = 0;
    if (!err && !t->shaken) {
        begin(t);
        do
            r = SSL_do_handshake(t->ssl);
        while (again(t, r));
        if (r == 1 && !tls_config_pinned(t->config, t->ssl)) {
            err = fail(
                s, "the server's key is not the pinned one"); /* and again at each further call */
        } else if (r == 1) {
            t->shaken = true;
            count_handshake(t->ssl, true);
            if (SSL_has_pending(t->ssl)) s->drained = false; /* data came with the last message */
        } else {
            err = meaning(s, r, RT_R);
            if (err == 0) err = fail(s, "the peer ended the stream in the handshake");
        }
        int out = send_wire(s, false); /* an alert, too */
        if (out && (!err || (err == -EAGAIN && out != -EAGAIN))) err = out;
    }
    if (t->left && err == -EAGAIN) t->read_wants = RT_W;
    return err;
}

static ssize_t read_tls(stream *s, void *buf, size_t n) {
    tls *t = s->tls;
    int unshaken = t->shaken ? 0 : shake(s);
    if (unshaken) return unshaken;
    begin(t);
    int r;
    do
        r = SSL_read(t->ssl, buf, n > INT32_MAX ? INT32_MAX : (int)n);
    while (again(t, r));
    ssize_t answer = r > 0 ? r : meaning(s, r, RT_R);
    int err = wire.n ? send_wire(s, false)
                     : 0; /* new keys, alerts; what is left of them goes with the next write */
    if (r > 0) {
        t->shakes = 0;
        if (SSL_has_pending(t->ssl)) s->drained = false;
        return answer;
    }
    return err && err != -EAGAIN && answer == -EAGAIN ? err : answer;
}

/* ---- writing ---- */

/* How many bytes the next record takes. */
static size_t record_size(tls *t) {
    return t->sent < SMALL_UNTIL ? RECORD_SMALL : RECORD_MAX;
}

/* Encrypts data[0 .. n). 0, -errno, STREAM_ETLS. */
static int encrypt(stream *s, const char *data, size_t n) {
    tls *t = s->tls;
    while (n > 0) {
        size_t most = record_size(t), written = 0;
        int r = SSL_write_ex(t->ssl, data, n < most ? n : most, &written);
        if (r != 1) {
            int err = meaning(s, 0, RT_W);
            return err ? err : -EPIPE;
        }
        data += written;
        n -= written;
        t->held += (uint32_t)written;
        if (t->sent < SMALL_UNTIL) t->sent += (uint32_t)written;
    }
    return 0;
}

/* Records are small again after a pause. */
static void look_at_pause(tls *t) {
    if (t->sent < SMALL_UNTIL) return;
    int64_t now = rt_nanotime();
    if (now - t->sent_ns > PAUSE_NS) t->sent = 0;
    t->sent_ns = now;
}

/* How much of iov[0 .. n) is written now. A writer that has lost its bytes in between (hold.c) may offer fewer than are
 * held. */
static ssize_t take_held(tls *t, const struct iovec *iov, int n) {
    size_t offered = 0;
    for (int i = 0; i < n; i++)
        offered += iov[i].iov_len;
    size_t taken = t->held < offered ? t->held : offered;
    t->held -= (uint32_t)taken;
    return (ssize_t)taken;
}

static ssize_t writev_tls(stream *s, const struct iovec *iov, int n, bool more) {
    static __thread char together[RECORD_MAX]; /* short pieces, in one record */
    tls *t = s->tls;
    if (!t->shaken) {
        int err = shake(s);
        t->write_wants = t->read_wants;
        if (err) return err;
    }
    t->write_wants = RT_W;
    if (t->abandoned) return fail(s, "an earlier write was broken off");
    int err = t->left ? send_left(s) : 0;
    if (err) return err;
    if (t->held) return take_held(t, iov, n);
    begin(t);
    look_at_pause(t);
    size_t turn = 0;
    int end = n;
    for (int i = 0; i < end && turn < TURN_MAX && !err;) {
        size_t size = 0;
        while (i < end && size + iov[i].iov_len <= sizeof together) {
            memcpy(together + size, iov[i].iov_base, iov[i].iov_len);
            size += iov[i++].iov_len;
        }
        if (size > 0) {
            err = encrypt(s, together, size);
        } else if (
            i < end) { /* a long piece: as much of it as this turn takes, which is then the last */
            size = iov[i].iov_len < TURN_MAX - turn ? iov[i].iov_len : TURN_MAX - turn;
            err = encrypt(s, iov[i].iov_base, size);
            if (size < iov[i++].iov_len) end = i;
        }
        turn += size;
    }
    if (err == -EAGAIN && t->held) err = 0;
    int out = send_wire(s, more);
    if (out || err) return out ? out : err;
    return take_held(t, iov, n);
}

static ssize_t sendfile_tls(stream *s, int file, off_t *at, size_t n) {
    (void)s, (void)file, (void)at, (void)n;
    return -EOPNOTSUPP; /* the caller reads the file, and writes */
}

/* Writes the alert that nothing follows, once. 0, -EAGAIN: wait for RT_W and call again, -errno. */
static int say_end(stream *s) {
    tls *t = s->tls;
    int err = t->left ? send_left(s) : 0;
    if (err || t->shut) return err;
    t->shut = true;
    begin(t);
    if (t->shaken && !t->why[0])
        (void)SSL_shutdown(t->ssl); /* writes the alert; the peer's is not waited for */
    return send_wire(s, false);
}

static int shutdown_tls(stream *s) {
    int err = say_end(s);
    return err ? err : stream_socket.shutdown(s);
}

static int wants_tls(const stream *s, int mode) {
    return mode == RT_R ? s->tls->read_wants : s->tls->write_wants;
}

const stream_ops stream_tls = {
    .read = read_tls,
    .writev = writev_tls,
    .sendfile = sendfile_tls,
    .shutdown = shutdown_tls,
    .shake = shake,
    .wants = wants_tls,
};

/* ---- the rest ---- */

void tls_end(stream *s) {
    tls *t = s->tls;
    if (!t->left && !t->held && !t->abandoned) (void)say_end(s); /* closing does the rest */
    tls_leave(s);
}

void tls_leave(stream *s) {
    tls *t = s->tls;
    if (!t->shaken) count_handshake(t->ssl, false);
    SSL_free(t->ssl);
    tls_config_release(t->config);
    free(t->left);
    free(t);
    s->tls = NULL;
    s->ops = &stream_socket; /* which may still be asked, and answers for a closed descriptor */
    s->drained = false;
    ERR_clear_error();
}

void tls_abandon_write(stream *s) {
    if (s->tls->held) s->tls->abandoned = true;
}

void tls_cut(stream *s) {
    s->tls->abandoned = true;
}

void tls_moved(stream *s) {
    SSL *ssl = s->tls->ssl;
    BIO_set_data(SSL_get_rbio(ssl), s);
    SSL_set_app_data(ssl, s);
}

const char *tls_why(const stream *s) {
    return s->tls->why;
}

void tls_agreed_on(const stream *s, tls_agreed *a) {
    SSL *ssl = s->tls->ssl;
    const unsigned char *alpn = NULL;
    unsigned int len = 0;
    SSL_get0_alpn_selected(ssl, &alpn, &len);
    *a = (tls_agreed){
        .version = SSL_get_version(ssl),
        .cipher = SSL_get_cipher_name(ssl),
        .sni = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name),
        .alpn = (const char *)alpn,
        .alpn_len = len,
        .resumed = SSL_session_reused(ssl) == 1,
    };
}

static void add_text(texts *to, const char *text) {
    texts_add(to, text ? text : "", text ? strlen(text) : 0);
}

size_t tls_print(const stream *s, char *buf, size_t cap) {
    tls_agreed a;
    texts to = {buf, buf + cap};
    tls_agreed_on(s, &a);
    add_text(&to, a.version);
    add_text(&to, a.cipher);
    add_text(&to, a.sni);
    texts_add(&to, a.alpn ? a.alpn : "", a.alpn_len);
    add_text(&to, a.resumed ? "1" : "0");
    peercert_print(s->tls->ssl, &to);
    return (size_t)(to.at - buf);
}
