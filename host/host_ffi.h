/* What Lua sees of the host: between the two marks stands what `make` copies into lunapark.cdef.
 * Plain C types only, no macros. None of these functions ever waits: they try, and say -EAGAIN;
 * the Lua side then calls a waiting function of lunapark.core (luacore.c), which is a lua_CFunction.
 * All are called by the VM that owns the object, so no object here needs a lock. */
#ifndef HOST_FFI_H
#define HOST_FFI_H

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- the VM (vm.c) ---- */

/* One per VM; lunapark.core.view is a pointer to it. */
typedef struct host_view {
    int32_t slot;     /* which coroutine of the VM runs: key of its G in Lua's tables */
    int32_t vm_id;    /* 0 .. */
    double serial;    /* which G of that slot it is: never used again in this VM */
    uint8_t *scratch; /* for one FFI call at a time */
    uint32_t scratch_size;
    int32_t n_live;    /* Lua Gs of the VM */
    int64_t mapped;    /* bytes that LuaJIT has mapped for it */
    int32_t index;     /* of the waiter that was fired last */
    int32_t retired;   /* its generation serves no more: no requests will come */
    double virtual_ns; /* what time it is for the G that runs, if it stands in a bubble; else 0 */
    double seed;       /* --seed and 1; 0: without */
} host_view;

/* The deadline of the running Lua G, in rt_nanotime's nanoseconds; 0: none. Every wait ends there
 * with "timeout"; Gs that it starts inherit it. */
double host_deadline(void);

/* The one that was set for this G alone, without its request's; 0: none. */
double host_own_deadline(void);
void host_set_deadline(double ns);

/* Which Lua G has `slot` now: its serial, 0 if none. */
double host_serial(int32_t slot);

/* Wakes the Lua G of `slot` from lunapark.core.wait. 1: it was waiting, 0: it was not. */
int host_wake(int32_t slot);

/* The Lua G of `slot` has no part in the request any more that it was started in, nor its deadline. */
void host_detach(int32_t slot);

/* Ends any wait of the Lua G of `slot`, now or when it begins: it answers "canceled". */
void host_cancel(int32_t slot);

/* The same because a scope that it stands in has failed. Unlike host_cancel's, it ends with the scope. */
void host_cancel_scope(int32_t slot);

/* Why the waits of the running Lua G answer "canceled": 0 they do not, else a sum of 1 host_cancel,
 * 2 host_cancel_scope, 4 its request's client is gone, 8 its bubble ends. */
int host_canceled(void);
void host_set_canceled(int why);

/* Until it is turned off, what ends the waits of the running Lua G ends only the one it is in: those that begin
 * later know neither its deadlines nor its cancellation. For who has to wait for the end of others. */
void host_shelter(int on);

/* ---- virtual time (bubble.c) ---- */

enum { HOST_BUBBLE_NONE, HOST_BUBBLE_DEADLOCK, HOST_BUBBLE_TIMEOUT };
enum { HOST_EVIRTUAL = -20001 }; /* of sockets: the G that asks has virtual time */

/* The running G makes a bubble and enters it; start_s: the seconds since 1970 then. 0; -EBUSY: it stands in one;
 * -EPERM: it answers a request; -ENOMEM. All that follow are for Gs inside. */
int host_bubble_enter(double start_s);

/* Seconds of virtual time since it was made; start_s. */
double host_bubble_elapsed(void);
double host_bubble_start(void);

/* Who made it is done: cancels the others. others: how many have not ended, 0 also when they never will; when that is
 * 0 the running G is woken. */
void host_bubble_end(void);
int host_bubble_others(void);

/* HOST_BUBBLE_...: what has become of it, and what there is to say, or NULL; until the running G leaves. */
int host_bubble_verdict(void);
const char *host_bubble_text(void);
void host_bubble_leave(void);

/* The Lua G of `slot`, which has not begun, is in no bubble. */
void host_bubble_put_out(int32_t slot);

/* --seed leaves the running Lua G alone: it runs when it is ready, before others, and draws nothing. For who watches
 * over others by the clock. */
void host_steady(void);

/* ---- queues of Gs (queue.c) ---- */

typedef struct host_waiter host_waiter;

/* Lua Gs of one VM that wait for something. Zeroed: empty. */
typedef struct host_queue {
    int32_t n; /* so many */
    host_waiter *head, *tail;
} host_queue;

/* Ends the wait of the first G in q: its slot, and its waiter's index in host_view.index; -1: there is none.
 * Its wait answers 2 * index + (ok ? 1 : 0). */
int host_queue_fire(host_queue *q, int ok);

/* The slot of the first G in q; -1: there is none. */
int host_queue_first(const host_queue *q);

/* For a wait in several queues: room for n waiters, 0 or -1 without memory; then join each of them, with an
 * index of 1 or more; then lunapark.core.rest. leave: out of all of them. */
int host_queue_prepare(int n);
void host_queue_join(host_queue *q, int index);
void host_queue_leave(void);

/* ---- loads of modules (load.c) ---- */

enum { HOST_LOADING, HOST_LOADED, HOST_LOAD_FAILED };

typedef struct host_load {
    host_queue queue; /* Gs that wait for its end */
    int32_t state;    /* HOST_LOAD... */
    int32_t key;      /* where the registry has what came of it */
} host_load;

/* ---- C functions on other threads (offload.c) ---- */

/* A call: fn and its arguments, by class and in the order of its parameters; then what came of it. */
typedef struct host_call {
    void (*fn)(void);
    int64_t ints[6];  /* whole numbers and pointers */
    double floats[8]; /* floating-point numbers; a float in the first 4 bytes */
    int32_t result;   /* which of these it has: 0 none, 1 i, 2 d, 3 f */
    int32_t err;      /* errno after it */
    int64_t i;
    double d;
    float f;
} host_call;

/* NULL: no memory. To be freed, also while it runs. */
host_call *host_call_new(void);
/* Starts it: then wait (lunapark.core.wait_call) until it is done. */
void host_call_start(host_call *c);
int host_call_done(const host_call *c);
void host_call_free(host_call *c);

/* ---- sockets (sock.c) ---- */

typedef struct host_sock host_sock;

/* Bytes read but not yet taken stand at data[pos .. end). */
typedef struct host_rbuf {
    uint8_t *data;
    int32_t pos, end, cap;
} host_rbuf;

/* Every int below: 0 or a count, -errno, or the RT_E... codes; host_strerror names them. */
const char *host_strerror(int err);

/* A listening socket, or a connected or connecting one, of an address `host:port`, `[v6]:port` with
 * numeric host, or `unix:path`. NULL and *err on failure. */
host_sock *host_sock_listen(const char *addr, int *err);
host_sock *host_sock_dial(const char *addr, int *err);

/* 0: addr is such an address; else -EINVAL. */
int host_addr_check(const char *addr);

/* An IP address as text from its 4 or 16 bytes: its length, or -EINVAL; and back: how many bytes, 0: text is none. */
int host_ip_text(const char *bytes, size_t len, char *buf, size_t cap);
int host_ip_bytes(const char *text, uint8_t *bytes);

/* After host_sock_dial and a wait for writability: 0, or -EAGAIN, or why it failed. */
int host_sock_connected(host_sock *s);

/* One accepted connection; NULL with *err -EAGAIN when there is none now. */
host_sock *host_sock_accept(host_sock *s, int *err);

/* Reads what there is into the socket's buffer; `wanted`: bytes that the caller would like to have in
 * one piece, or 0. The count, 0 at the end of the stream, or -EAGAIN. */
int host_sock_fill(host_sock *s, size_t wanted);
host_rbuf *host_sock_rbuf(host_sock *s);

/* Where s[0 .. len) begins in the bytes that stand in the buffer, the first `from` left out; counted from
 * the first of all. -1: nowhere. */
int host_rbuf_find(const host_rbuf *b, int from, const char *s, size_t len);

/* How much of data[0 .. len) the kernel took, or -EAGAIN. */
int host_sock_write(host_sock *s, const char *data, size_t len);
int host_sock_close_write(host_sock *s);

/* Closes at once; waiting Gs get "closed". Closing twice is harmless. */
void host_sock_close(host_sock *s);

/* Closes and gives the memory back. forget: the finalizer, which counts those that were still open. */
void host_sock_free(host_sock *s);
void host_sock_forget(host_sock *s);

/* How many sockets of the process nobody closed but the collector. */
double host_forgotten(void);

/* mode 1: reads, 2: writes, 3: both. delay_ns from now; negative clears. */
void host_sock_set_deadline(host_sock *s, int mode, int64_t delay_ns);
int host_sock_set_nodelay(host_sock *s, int on);

/* Probes of a silent peer after so many seconds; 0: none. */
int host_sock_set_keepalive(host_sock *s, int seconds);

/* Writes the address into buf, NUL-terminated; its length. peer: 0 own, 1 the other side's. */
int host_sock_addr(host_sock *s, int peer, char *buf, size_t cap);

/* A descriptor of somebody else, to be waited for: closing this one leaves it open. -EBUSY: it is the
 * runtime's own; -EPERM: files like it can't be waited for. */
host_sock *host_sock_foreign(int fd, int *err);

/* Is it readable (mode 1) or writable (2), or broken, now? 1, 0, or why it can't be said. */
int host_sock_ready(host_sock *s, int mode);

/* ---- datagrams (udp.c) ---- */

/* Bound to addr, as above. */
host_sock *host_sock_udp(const char *addr, int *err);

/* From now on it speaks with addr alone. */
int host_sock_connect(host_sock *s, const char *addr);

/* One datagram; addr: where to, NULL on a connected one. Its length, -EAGAIN, or why not. */
int host_sock_send(host_sock *s, const char *data, size_t len, const char *addr);

/* The length of the datagram, which may be more than cap: then its end is lost. Its sender's address is written
 * to `from`, NUL-terminated, empty if it has none. */
int host_sock_recv(host_sock *s, uint8_t *buf, size_t cap, char *from, size_t from_cap);

/* ---- copying (transfer.c) ---- */

typedef struct host_pipe host_pipe;

/* Where bytes stand between drain and pump. */
host_pipe *host_pipe_open(int *err);
void host_pipe_free(host_pipe *p);
int host_pipe_len(host_pipe *p);

/* Moves at most so many bytes from src into the empty pipe, past src's buffer, which is empty: the count, 0 at
 * the end of the stream, -EAGAIN. pump: from there to dst. unread: back, in front of what src has. -EINVAL and
 * the like: the kernel does not do it with these. */
int host_pipe_drain(host_pipe *p, host_sock *src, double most);
int host_pipe_pump(host_pipe *p, host_sock *dst);
int host_pipe_unread(host_pipe *p, host_sock *src);

/* At most so many bytes of the file (an io file) from there: the count, 0 at its end, -EAGAIN. */
int host_sock_sendfile(host_sock *dst, void *file, double offset, double most);

/* ---- a request and its response (conn.c, response.c) ---- */

typedef struct host_span {
    uint32_t off, len; /* bytes of host_req.buf */
} host_span;

typedef struct host_header {
    host_span name, value;
} host_header;

/* A whole request head. Valid from the call of the server's handler until that returns; buf may
 * move at each call of a host_req function, so add offsets to the current one. */
typedef struct host_req {
    const char *buf;
    const host_header *headers;
    host_span target;       /* as sent: path, query */
    host_span path;         /* raw, before '?', without scheme and host of an absolute form */
    host_span query;        /* raw, after '?' */
    uint32_t nheaders;      /* */
    uint8_t method;         /* llhttp's number; host_method_name */
    uint8_t minor;          /* HTTP/1.minor */
    uint8_t plain;          /* 1: the path has no '%', no "//", no "." or ".." segment */
    uint8_t has_body;       /* 1: Content-Length > 0 or chunked */
    uint8_t body_complete;  /* 1: all of it stands in body */
    uint8_t close;          /* Lua may set it to 1: the connection ends with this response */
    uint8_t state;          /* 0 no response yet, 1 head sent or queued, 2 response complete */
    int16_t server;         /* index of the server it came to */
    int64_t content_length; /* -1: chunked or none */
    uint64_t id;            /* of the request in this process */
    uint8_t *body; /* body bytes read so far and not yet dropped: body[body_pos .. body_len) */
    size_t body_pos, body_len;
} host_req;

const char *host_method_name(int method);

/* Number of the method of that name, -1 if llhttp does not know it. */
int host_method_id(const char *name, size_t len);

/* "OK" for 200; "" if unknown. */
const char *host_status_reason(int status);

/* Has the handler lost its client? 0: no; 1: it has hung up, and the waits answer "canceled"; 504, 502:
 * it was answered so by the host. Every function below then answers -EPIPE or -ECONNRESET. */
int host_req_lost(host_req *r);

/* Reads more of the body. 1: body_complete is set now, 0: some came, -EAGAIN: wait for readability,
 * -EMSGSIZE: over max_body (413), -EPROTO: malformed (400), -ECONNRESET: the client went away. */
int host_req_fill(host_req *r);

/* The peer's address into buf, NUL-terminated; its length. */
int host_req_remote(host_req *r, char *buf, size_t cap);

/* The whole response in one call. `ctype`: 0 none, 1 text/plain; charset=utf-8, 2 text/html;
 * charset=utf-8, 3 application/json. head: further header lines, each with its CRLF, or empty. The
 * host adds Content-Length, Date and Connection; a HEAD request, 204 and 304 get no body.
 * 0; -EALREADY when a response was begun before; -EPIPE when the client is gone. What the kernel
 * does not take at once is copied. */
int host_respond(host_req *r, int status, int ctype, const char *head, size_t head_len,
                 const char *body, size_t body_len);

/* A streamed response: begin, write ..., end. length: the body's, or -1 (chunked on HTTP/1.1, until
 * close on 1.0). The host adds Content-Length or Transfer-Encoding, Date, Connection.
 * write: 0, or -EAGAIN: all is kept, but wait for writability before the next one; -EPIPE; -E2BIG:
 * more than `length`. flush: 0, -EAGAIN: wait and call again, -EPIPE. end: 0 or -EPIPE. */
int host_stream_begin(host_req *r, int status, int ctype, const char *head, size_t head_len,
                      int64_t length);
int host_stream_write(host_req *r, const char *data, size_t len);
int host_stream_flush(host_req *r);
int host_stream_end(host_req *r);

/* ---- the log (log.c) ---- */

enum { HOST_LOG_STRING, HOST_LOG_NUMBER, HOST_LOG_JSON };

/* A key and its value: a string, a number, or JSON that is written as it is, of 4096 bytes at most. */
typedef struct host_log_pair {
    const char *key, *text;
    double number;
    uint32_t key_len, text_len;
    int32_t kind;
} host_log_pair;

/* Appends to the log, if the level is enabled: 0 debug .. 3 error. Line breaks in msg are kept in text, where what
 * follows them is indented. */
void host_log(int level, const char *msg, size_t len);
void host_log_pairs(int level, const char *msg, size_t len, const host_log_pair *pairs, int n);
int host_log_enabled(int level);

/* The lowest level that is logged, in all VMs. */
int host_log_level(void);
void host_log_set_level(int level);

/* Lines that were 0 queued, 1 lost; 2 those that are not written yet. */
double host_log_count(int which);

/* s as a JSON string into buf, of cap bytes, 64 at least: its length. It is cut if it is too long. */
int host_log_quote(const char *s, size_t len, char *buf, size_t cap);

/* ---- blocks of specs (block.c) ---- */

/* --block-timeout: seconds; 0: no limit. */
double host_block_timeout(void);

/* From now on the Lua of this VM may not run past that moment without waiting; 0: no limit. what: the block, in words,
 * for who has to say that it did. */
void host_block_begin(const char *what, double until_ns);

/* Whether all Lua Gs of this VM but the running one wait for each other, so that none will ever go on unless the running
 * one helps: 0, or a number that changes when one of them runs. */
double host_block_asleep(void);

/* The Lua G of `slot` is to end: its wait is ended, and its Lua raises an error wherever it is, again and again. */
void host_block_doom(int32_t slot);

/* ---- servers (server.c) ---- */

/* Serves `addr` with this VM's handler number `handler` alone. Its number, or -1 with *err. The
 * address in use is written to bound. */
int host_serve(const char *addr, int handler, char *bound, size_t cap, int *err);

/* Closes the listeners and, when what is in flight is done, its connections. */
void host_serve_stop(int server);

/* Requests that a P has handed to a handler; -1 without such a P. */
int64_t host_p_requests(int32_t p);

/* VMs: 0 those that serve, 1 those that are stuck, 2 those of 0 that are spare; 3 all that have not ended. */
int host_vms(int which);

/* Connections that a server has now. */
int host_serve_conns(int server);

/* ---- --dev (dev.c) ---- */

typedef struct host_dev {
    double run; /* of this process; no other one has had it */
    int32_t
        own; /* the number of this VM's generation; 0: it stands in for one that has not loaded */
    int32_t serving;     /* of the one that serves now */
    int32_t failing;     /* host_dev_failing */
    int32_t live_reload; /* --live-reload */
    char id[64];         /* of this VM's generation, NUL-terminated */
} host_dev;

/* How things are. */
void host_dev_read(host_dev *d);

/* 0: what serves is what has been saved; else which of the loads that failed was the last one. */
int host_dev_failing(void);

/* Why it has failed, a NUL, and names of the files it had loaded, each with a NUL: how many bytes. They are there if
 * that is no more than cap. 0: none has failed. *number is host_dev_failing's. */
size_t host_dev_failure(char *buf, size_t cap, int32_t *number);

/* ---- dicts that all VMs share (shared.c) ---- */

/* One of the process: any thread, at any time; none ever goes. */
typedef struct host_dict host_dict;

enum { HOST_NIL, HOST_BOOLEAN, HOST_NUMBER, HOST_STRING, HOST_TABLE };
enum { HOST_SET, HOST_ADD, HOST_REPLACE, HOST_SWAP };

/* What host_dict_get finds beside the bytes. */
typedef struct host_dict_value {
    double number;  /* HOST_NUMBER; HOST_BOOLEAN: 0 or 1 */
    double len;     /* HOST_STRING, HOST_TABLE: bytes */
    double version; /* for HOST_SWAP; 0: the key is missing */
} host_dict_value;

typedef struct host_dict_figures {
    double keys, bytes, max_bytes, evictions, expired;
} host_dict_figures;

/* The dict of that name, made if there is none. max_bytes: the budget of its entries from now on; 0: as it
 * is, 16 MiB at first. NULL: no memory. */
host_dict *host_dict_open(const char *name, size_t len, double max_bytes);

/* The type of what stands there, HOST_NIL: nothing. The bytes are copied to buf; if there are more than cap,
 * none is. */
int host_dict_get(host_dict *d, const char *key, size_t key_len, void *buf, size_t cap,
                  host_dict_value *v);

/* Puts a value; HOST_NIL deletes. ttl_ns: 0 never expires, negative: as before. how: HOST_ADD -EEXIST if there
 * is one; HOST_REPLACE -ENOENT if there is none; HOST_SWAP -EAGAIN unless `version` is still the one there.
 * 0; -EFBIG: larger than the whole budget; -ENOMEM. */
int host_dict_put(host_dict *d, const char *key, size_t key_len, int type, double number,
                  const void *data, size_t len, double ttl_ns, int how, double version);

/* Adds `by` to the number there, which is `init` with this ttl_ns if there is none and has_init; the sum is
 * in *sum. 0, -ENOENT, -EINVAL: no number, -EFBIG, -ENOMEM. */
int host_dict_incr(host_dict *d, const char *key, size_t key_len, double by, int has_init,
                   double init, double ttl_ns, double *sum);

/* 1: it was there. */
int host_dict_delete(host_dict *d, const char *key, size_t key_len);

/* Sets, or gets, after how many ns it expires, 0: never. 0 or -ENOENT. */
int host_dict_expire(host_dict *d, const char *key, size_t key_len, double ttl_ns);
int host_dict_ttl(host_dict *d, const char *key, size_t key_len, double *ttl_ns);

/* Keys from *cursor on (0 at first) into buf, each behind its length, a uint32_t: how many bytes; *cursor is -1
 * after the last. -need: buf is too small for the next ones. */
int64_t host_dict_keys(host_dict *d, double *cursor, char *buf, size_t cap);

/* Deletes everything. */
void host_dict_flush(host_dict *d);
void host_dict_read(host_dict *d, host_dict_figures *f);

/* ---- channels that all VMs share (shared_chan.c, shared_wait.c) ---- */

/* A VM's handle; what it stands for is the process's. */
typedef struct host_chan host_chan;

enum { HOST_CHAN_RECV, HOST_CHAN_SEND };

/* What a value is beside its type and bytes. */
typedef struct host_chan_value {
    double number; /* HOST_NUMBER; HOST_BOOLEAN: 0 or 1 */
    double len;    /* HOST_STRING, HOST_TABLE: bytes; else 0 */
} host_chan_value;

/* The channel of that name, made if there is none, with a buffer of cap values; *has_cap: how many it has. max_bytes:
 * the budget of the buffer from now on, if cap is right; 0: as it is, 16 MiB at first. NULL: no memory. */
host_chan *host_chan_open(const char *name, size_t len, double cap, double max_bytes,
                          double *has_cap);
/* Lets go of it: the finalizer. */
void host_chan_free(host_chan *h);

/* 0, RT_ECLOSED, -EFBIG: larger than the whole budget, -ENOMEM, -EAGAIN: it would have to wait. */
int host_chan_send(host_chan *h, int type, double number, const void *data, size_t len);

/* The type of what is received, its bytes in buf; if they are more than cap, it was not received.
 * RT_ECLOSED, -EAGAIN. */
int host_chan_recv(host_chan *h, void *buf, size_t cap, host_chan_value *v);

/* Would such an operation (of a small value) not wait now? */
int host_chan_can(host_chan *h, int op);

/* For a wait: the running G will stand in it with this index, 1 or more after host_queue_prepare; 0: in nothing else.
 * 0, -ENOMEM, -EFBIG. Then lunapark.core.rest, which answers as for host_queue_join, or nothing if the caller is to
 * try again. */
int host_chan_join_recv(host_chan *h, int index);
int host_chan_join_send(host_chan *h, int index, int type, double number, const void *data,
                        size_t len);

/* What such a wait has received, as host_chan_recv. */
int host_chan_take(void *buf, size_t cap, host_chan_value *v);

/* 0, or RT_ECLOSED: it was. */
int host_chan_close(host_chan *h);
int host_chan_closed(host_chan *h);

/* Values in its buffer. */
double host_chan_len(host_chan *h);

/* How many channels have a name. */
int host_chans(void);

/* ---- jobs on other threads (job.c) ---- */

/* Made by the functions that return one, started and waited for by lunapark.core.wait_job. */
typedef struct host_job host_job;

/* 1: it has ended. */
int host_job_done(host_job *job);

/* Lets go of it: the finalizer. It runs on if it runs. */
void host_job_free(host_job *job);

/* A job that waits until what was logged is written, so many ns at most. NULL: no memory. Of one that has ended: 1: all
 * is. */
host_job *host_log_flush(double timeout_ns);
int host_log_flushed(host_job *job);

/* ---- signals (signals.c) ---- */

/* What the scripts of this VM want of signals; there may be one. NULL: no memory. free: the finalizer. */
typedef struct host_signals host_signals;
host_signals *host_signals_new(void);
void host_signals_free(host_signals *s);

/* on: from now on the VM is told of the signal, by a call of lunapark.signaled in its registry with the number. 0;
 * -EBUSY: it is the host's here; -EINVAL: nobody can catch it. */
int host_signals_want(host_signals *s, int signo, int on);

/* ---- names (dns.c) ---- */

/* Whom to ask, and how. The default one is the process's. */
typedef struct host_resolver host_resolver;

/* servers: `address` or `address:port`, by commas; search: domains, by spaces; NULL: the system's. ndots: names with so
 * many dots are tried as they are first; negative: the system's. NULL: no memory. */
host_resolver *host_resolver_new(const char *servers, const char *search, int timeout_ms, int tries,
                                 int ndots);
host_resolver *host_resolver_default(void);
/* No other resolver of the process has, or had, this number. */
int host_resolver_id(const host_resolver *r);
/* Lets go of it: the finalizer. Not for the default one. */
void host_resolver_free(host_resolver *r);

/* Jobs. lookup: the addresses of a host, from the hosts file or by its A and AAAA records, family 4 or 6 or, 0, both;
 * the answer is text, `address SP ttl LF` each. query: the records of a type (its number); the answer is the reply as
 * it came. NULL: no memory. */
host_job *host_dns_lookup(host_resolver *r, const char *name, int family);
host_job *host_dns_query(host_resolver *r, const char *name, int type);

/* Of a job that is done. NULL: there is an answer, else why there is none. The answer lives as long as the job. */
const char *host_dns_error(host_job *job);
const char *host_dns_answer(host_job *job, size_t *len);

/* ---- processes (exec.c) ---- */

typedef struct host_proc host_proc;

/* What a standard stream of a new process is; HOST_STDOUT: for stderr, the same as its stdout. */
enum { HOST_PIPE, HOST_INHERIT, HOST_NOTHING, HOST_STDOUT };

/* A job that starts a process in a group of its own. argv and env are argc and envc strings, each with its
 * NUL; envc -1: our environment. cwd: NULL: ours. NULL: no memory. */
host_job *host_exec(const char *argv, size_t argv_len, int argc, const char *env, size_t env_len,
                    int envc, const char *cwd, int in, int out, int err);

/* The process that an ended job has started, once. NULL and *err: why not; then host_exec_bad_cwd tells
 * whether it was cwd that there was not. */
host_proc *host_exec_take(host_job *job, int *err);
int host_exec_bad_cwd(host_job *job);
int host_proc_pid(host_proc *p);

/* Our end of its stream 0 .. 2, once; NULL: it has none, or, with *err not 0, none can be made. */
host_sock *host_proc_stream(host_proc *p, int i, int *err);

/* Becomes readable when the process ends; NULL and *err. It belongs to p. */
host_sock *host_proc_watch(host_proc *p, int *err);

/* 1: it has ended, and is a zombie unless it was reaped. */
int host_proc_ended(host_proc *p);

/* Reaps one that has ended. Its exit code, or minus the signal that ended it; -1000: it has not ended. */
int host_proc_reap(host_proc *p);

/* Sends its group a signal. 0; -ESRCH: it was reaped. */
int host_proc_kill(host_proc *p, int signo);

/* on: who lets go of p before it was reaped kills its group. */
void host_proc_bind(host_proc *p, int on);

/* Lets go of it: the finalizer. One that runs is reaped later. */
void host_proc_free(host_proc *p);

/* "TERM" for 15; NULL: no signal of Linux. */
const char *host_signal_name(int signo);

/* ---- files (fs.c) ---- */

typedef struct host_file host_file;

enum { HOST_FS_READ, HOST_FS_REPLACE, HOST_FS_APPEND, HOST_FS_STAT, HOST_FS_LIST };
enum { HOST_FILE_READ, HOST_FILE_WRITE, HOST_FILE_SEEK, HOST_FILE_SYNC, HOST_FILE_CLOSE };

typedef struct host_fs_result {
    int64_t n;           /* 0, a count, an offset; or -errno, RT_ECLOSED */
    const char *data;    /* what was read; a list's names, each with its NUL */
    size_t len;          /* bytes of it */
    int64_t size;        /* of stat: bytes */
    double mtime, atime; /* seconds since 1970 */
    double ctime;        /* */
    uint32_t mode;       /* type and permissions as in stat(2) */
    uint32_t uid, gid;   /* */
    uint32_t links;      /* */
    double ino, dev;     /* */
} host_fs_result;

/* Jobs. data is copied. NULL: no memory. */
host_job *host_fs(int op, const char *path, const char *data, size_t len);

/* flags as for open(2). */
host_job *host_fs_open(const char *path, int flags);

/* n: bytes to read at most, or the offset; whence as for lseek. */
host_job *host_file_job(host_file *f, int op, const char *data, size_t len, double n, int whence);

/* Of a job that has ended; NULL before. It lives as long as the job. */
const host_fs_result *host_fs_result_of(host_job *job);

/* The file that host_fs_open has opened, once. */
host_file *host_fs_take(host_job *job);

/* Closes it, when no job works on it any more: the finalizer. */
void host_file_free(host_file *f);

/* ---- lines that somebody types (repl.c) ---- */

/* Whether it is a terminal; then the history is in that file, if that is not NULL. Once, before the others. */
int host_repl_open(const char *history);

/* A job that reads a line from stdin. One at a time. */
host_job *host_repl_read(const char *prompt);

/* Of a read that has ended: 1 a line, without its break, 0 the end, -EINTR host_repl_interrupt, -errno. It lives as
 * long as the job. */
int host_repl_line(host_job *job, const char **line, size_t *len);

/* Ends a read, if there is one. */
void host_repl_interrupt(void);

/* A job that ends when the tab key asks what may follow; then what stands before the cursor. It wants an answer
 * within a second: what to insert, and what to list, each may be empty. */
host_job *host_repl_question(void);
const char *host_repl_before(host_job *job, size_t *len);
void host_repl_answer(const char *insert, const char *list);

/* ---- files that specs have loaded (changes.c) ---- */

/* A job that watches n names of files and folders, C strings one behind another, and nothing else from then on; and one
 * that ends when something has happened to one of them since. */
host_job *host_changes_watch(const char *names, size_t len, int n);
host_job *host_changes_wait(void);

/* ---- generations (generation.c, admin.c) ---- */

/* The number of the generation that serves, 0: none; and its id, cut off at cap. */
int host_generation(char *id, size_t cap);

/* A job that reloads: it ends with 0 a new generation serves, 1 the files are the same, 2 it has failed; and the id,
 * or why, as long as the job is there. */
host_job *host_reload(void);
const char *host_reload_result(host_job *job, int *result);

const char *host_version(void);

/* --rounds; 1 without. */
int host_rounds(void);

/* ---- singletons (singleton.c) ---- */

/* A job that ends when the running G holds the name. It stands for it, or holds it, until it says that it leaves. done:
 * no VM of this generation needs to run it again. */
host_job *host_singleton_stand(const char *text, size_t len);
void host_singleton_leave(const char *text, size_t len, int done);
/* ffi:end */

#endif
