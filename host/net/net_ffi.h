/* Sockets and names, for Lua. The rules of vm_ffi.h hold. */
#ifndef NET_FFI_H
#define NET_FFI_H

#include "../vm/vm_ffi.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- sockets (sock.c) ---- */

typedef struct host_sock host_sock;

/* Bytes read but not yet taken stand at data[pos .. end). */
typedef struct host_rbuf {
    uint8_t *data;
    int32_t pos, end, cap;
} host_rbuf;

/* Every int of the functions below is 0 or a count, -errno, or one of RT_E...; host_strerror names the errors. */
const char *host_strerror(int err);

/* A socket that listens at, or connects to, an address (host_addr_check). NULL: *err says why. */
host_sock *host_sock_listen(const char *addr, int *err);
host_sock *host_sock_dial(const char *addr, int *err);

/* After host_sock_dial and a wait for writability: 0, -EAGAIN, or why connecting failed. */
int host_sock_connected(host_sock *s);

/* An accepted connection; NULL: *err says why, -EAGAIN: there is none now. */
host_sock *host_sock_accept(host_sock *s, int *err);

/* Reads what there is into the socket's buffer. wanted: bytes that the caller would like to have in one piece, or 0.
 * Returns the count; 0: the end of the stream; -EAGAIN. */
int host_sock_fill(host_sock *s, size_t wanted);
host_rbuf *host_sock_rbuf(host_sock *s);

/* The offset of s[0 .. len) in the buffer, at `from` or behind it; -1: nowhere. */
int host_rbuf_find(const host_rbuf *b, int from, const char *s, size_t len);

/* Writes: the bytes of data[0 .. len) that the kernel took, or -EAGAIN. */
int host_sock_write(host_sock *s, const char *data, size_t len);
int host_sock_close_write(host_sock *s);

/* Closes at once; waiting Gs get "closed". Closing twice is harmless. */
void host_sock_close(host_sock *s);

/* Closes, and gives the memory back. */
void host_sock_free(host_sock *s);

/* The finalizer: as host_sock_free, and counts a socket that was still open. */
void host_sock_forget(host_sock *s);

/* The number of sockets of the process that only the collector closed. */
double host_forgotten(void);

/* mode 1: reads, 2: writes, 3: both. delay_ns from now; negative clears. */
void host_sock_set_deadline(host_sock *s, int mode, int64_t delay_ns);
int host_sock_set_nodelay(host_sock *s, int on);

/* From now on a wait for s answers "timeout" after so long at most: the other side is silent, or reads nothing. Waits
 * in progress begin anew. 0: no bound. */
void host_sock_set_idle(host_sock *s, int64_t idle_ns);

/* Probes of a silent peer after so many seconds; 0: none. */
int host_sock_set_keepalive(host_sock *s, int seconds);

/* Writes the address into buf, NUL-terminated. Returns its length. peer: 0 own, 1 the other side's. */
int host_sock_addr(host_sock *s, int peer, char *buf, size_t cap);

/* A socket for waits for fd, which belongs to other code: closing the socket leaves fd open. NULL: *err is -EBUSY: fd
 * is the runtime's own; -EPERM: no wait is possible for files like fd. */
host_sock *host_sock_foreign(int fd, int *err);

/* A socket that reads our stdin. The descriptor is not ours alone and may block: host_sock_ready comes before each
 * read. NULL: *err is -EPERM: stdin is a file, and never waited for. */
host_sock *host_sock_stdin(int *err);

/* 1: s is readable (mode 1) or writable (mode 2), or broken, now; 0: it is not; else why it can't be said. */
int host_sock_ready(host_sock *s, int mode);

/* ---- TLS (tls_sock.c) ---- */

typedef struct tls_config host_tls;

/* The files of a certificate and its key, PEM. A chain follows its certificate. */
typedef struct host_tls_pair {
    const char *cert, *key;
} host_tls_pair;

typedef struct host_tls_settings {
    bool server;
    /* A server: the first one answers clients that ask for no name, or for one that none has. A client: none or one. */
    const host_tls_pair *pairs;
    int n_pairs;
    const char *
        ca; /* file with certificates to trust. NULL: a client trusts the system's, a server asks for none */
    bool optional;    /* a server with `ca`: clients without a certificate are served, too */
    bool insecure;    /* a client: any certificate will do, of any name */
    const char *pin;  /* a client: SHA-256 of the server's public key, as hex; NULL: any */
    const char *alpn; /* protocols, in the order of preference, separated by commas; NULL: none */
    bool self_signed; /* a server: has a certificate that the process made, behind its pairs */
} host_tls_settings;

/* What both sides have agreed on. Texts live as long as the socket is open. */
typedef struct host_tls_agreed {
    const char *version; /* "TLSv1.3" */
    const char *cipher;
    const char *sni;  /* the name that the client asked for; NULL: none */
    const char *alpn; /* not NUL-terminated; NULL: none */
    size_t alpn_len;
    bool resumed;
} host_tls_agreed;

/* Handshakes of the process's servers since its start. done: those that have ended well; resumed: of these, those that
 * went on with a session; failed: those that have not, and connections that ended before. */
typedef struct host_handshakes {
    double done, resumed, failed;
} host_handshakes;

void host_read_handshakes(host_handshakes *sum);

/* Reads the files: may block for so long. NULL: `why`, of 512 bytes, says why. */
host_tls *host_tls_new(const host_tls_settings *settings, char *why);
void host_tls_free(host_tls *config);

/* From now on s speaks TLS; reads and writes begin with the handshake. name: of a client, what the server's
 * certificate has to name; NULL: s is the server's side. 0; -ENOMEM; -EALREADY: it does already; -EBUSY: bytes have
 * been read that nobody has taken, so that it would be unclear which of them were encrypted. */
int host_sock_tls(host_sock *s, host_tls *config, const char *name);

/* Goes on with the handshake. 0: it is done; -EAGAIN: wait for reading; or why not. */
int host_sock_shake(host_sock *s);

/* After HOST_ETLS: why, in words; "" otherwise. */
const char *host_sock_tls_why(host_sock *s);

/* A write was given up before all its bytes had gone out. With TLS no other may follow it. */
void host_sock_abandon(host_sock *s);

/* False: s does not speak TLS, or not yet. */
bool host_sock_tls_agreed(host_sock *s, host_tls_agreed *to);

/* ---- datagrams (udp.c) ---- */

/* A socket for datagrams that is bound to addr. NULL: *err says why. */
host_sock *host_sock_udp(const char *addr, int *err);

/* From now on s speaks with addr alone. */
int host_sock_connect(host_sock *s, const char *addr);

/* Sends a datagram to addr; NULL: s is connected. Its length, -EAGAIN, or why not. */
int host_sock_send(host_sock *s, const char *data, size_t len, const char *addr);

/* Receives a datagram: its length; if that is more than cap, its end is lost. Writes the sender's address to `from`,
 * NUL-terminated; empty: it has none. */
int host_sock_recv(host_sock *s, uint8_t *buf, size_t cap, char *from, size_t from_cap);

/* ---- copying (transfer.c) ---- */

typedef struct host_pipe host_pipe;

/* A pipe that holds bytes between host_pipe_drain and host_pipe_pump. */
host_pipe *host_pipe_open(int *err);
void host_pipe_free(host_pipe *p);
int host_pipe_len(host_pipe *p);

/* Moves at most so many bytes from src, whose buffer is empty, into the empty pipe: the count; 0: the end of the
 * stream; -EAGAIN; -EINVAL and the like: the kernel does not do it with this socket. */
int host_pipe_drain(host_pipe *p, host_sock *src, double most);

/* Moves bytes from the pipe to dst: as host_pipe_drain. */
int host_pipe_pump(host_pipe *p, host_sock *dst);

/* Gives the bytes of the pipe back to src, in front of what its buffer has. 0 or -ENOMEM. */
int host_pipe_unread(host_pipe *p, host_sock *src);

/* Sends at most so many bytes of `file` (an io file) from offset on: the count; 0: its end; -EAGAIN. */
int host_sock_sendfile(host_sock *dst, void *file, double offset, double most);

/* ---- names (dns.c) ---- */

/* The name servers to ask, and how. The default resolver is the process's. */
typedef struct host_resolver host_resolver;

/* servers: `address` or `address:port`, separated by commas. search: domains, separated by spaces. NULL: the system's.
 * ndots: names with so many dots are first tried as they are; negative: the system's. NULL: no memory. */
host_resolver *host_resolver_new(const char *servers, const char *search, int timeout_ms, int tries,
                                 int ndots);
host_resolver *host_resolver_default(void);
/* A number that no other resolver of the process has, or had. */
int host_resolver_id(const host_resolver *r);
/* The finalizer; not for the default resolver. */
void host_resolver_free(host_resolver *r);

/* A job that looks for the addresses of a host, in the hosts file or by its A and AAAA records. family: 4, 6, or 0 for
 * both. The answer is text, `address SP ttl LF` each. NULL: no memory. */
host_job *host_dns_lookup(host_resolver *r, const char *name, int family);

/* A job that asks for the records of a type (its number). The answer is the reply as it came. NULL: no memory. */
host_job *host_dns_query(host_resolver *r, const char *name, int type);

/* Of a job that has ended: why there is no answer; NULL: there is one. The answer lives as long as the job. */
const char *host_dns_error(host_job *job);
const char *host_dns_answer(host_job *job, size_t *len);
/* ffi:end */

#endif
