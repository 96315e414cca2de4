/* What Lua sees of requests and servers. The rules of vm_ffi.h hold here, too. */
#ifndef HTTP_FFI_H
#define HTTP_FFI_H

#include "../net/net_ffi.h"

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- a request and its response (request.c, response.c, hijack.c) ---- */

typedef struct host_span {
    uint32_t off, len; /* bytes of host_req.buf */
} host_span;

typedef struct host_header {
    host_span name, value;
} host_header;

/* An exchange: a whole request head, and the state of its answer. buf may move at each call of a host_req function, so
 * add offsets to the present buf.
 *
 * Memory of a host_req is never used for anything else, and serves one request after the other. So a request is named
 * by pointer and id. The id changes when the handler has ended, in whatever way. Each function below takes both and
 * does nothing if the id is not the present one; a reader of a field compares the ids first. The comparison is safe for
 * ever: only the VM whose handler has the request changes an id that its Lua knows. */
typedef struct host_req {
    double id; /* of the request, in this process, 1 or more; 0: no request that a handler has */
    const char *buf;
    const host_header *headers;
    host_span target;      /* as sent: path, query */
    host_span path;        /* raw, before '?', without scheme and host of an absolute form */
    host_span query;       /* raw, after '?' */
    uint16_t nheaders;     /* fields in headers */
    uint16_t label;        /* Lua sets it: host_label of the request's route; 0: none */
    uint8_t method;        /* its number: host_method_name */
    uint8_t minor;         /* HTTP/1.minor */
    uint8_t plain;         /* 1: the path has no '%', no "//", no "." or ".." segment */
    uint8_t has_body;      /* 1: Content-Length > 0 or chunked */
    uint8_t body_complete; /* 1: the whole body is in `body` */
    uint8_t close;         /* Lua may set it to 1: the connection ends with this response */
    uint8_t queued;        /* C's: output waits to be sent with more, see http1_exchange.c */
    uint8_t state;         /* 0 no response yet, 1 head sent or queued, 2 response complete */
    uint16_t
        status; /* of the response; 0: none yet. Of a refused request also before: what C would answer */
    uint16_t vm; /* C's: 1 + the number of the VM that answers; 0: none does, or a larger number */
    int64_t content_length; /* -1: chunked or none */
    uint8_t *body; /* body bytes read so far and not yet dropped: body[body_pos .. body_len) */
    size_t body_pos, body_len;
} host_req;

/* The name of a method; "": no method has this number. */
const char *host_method_name(int method);

/* The number of a method, which stands for good and for all VMs; -1: none, so requests with this method are answered
 * 501. */
int host_method_id(const char *name, size_t len);

/* The number of a method, which gets one if it has none. -1: the name is no token of at most 64 bytes, or there are 255
 * methods. */
int host_method_add(const char *name, size_t len);

/* 1: a field of a head may have this value: it has no control character but tabs. */
int host_is_field_value(const char *s, size_t n);

/* The reason phrase, "OK" for 200; "" if unknown. */
const char *host_status_reason(int status);

/* The field line, with its CRLF, that an answer of this status has if the request was refused; "": none. */
const char *host_status_field(int status);

/* 1: a client with this Accept field likes JSON better than text. */
int host_likes_json(const char *accept, size_t n);

/* Has the handler lost its client? 0: no; 1: the client has hung up, and waits answer "canceled", or the request is
 * over; 504, 502: the host has answered the client so. After 504 and 502 every function below answers -EPIPE or
 * -ECONNRESET, as for a request that is over. */
int host_req_lost(host_req *r, double id);

/* How many header fields have this name, whatever its case. *value: the first one's value. */
int host_req_header(const host_req *r, const char *name, size_t len, host_span *value);

/* Reads more of the body. 1: body_complete is set now; 0: some came; -EAGAIN: wait for readability; -EMSGSIZE: over
 * max_body (413); -EPROTO: malformed (400); -ECONNRESET: the client is gone. */
int host_req_fill(host_req *r, double id);

/* The trailers of a body that is complete, as lines, each with its CRLF, checked as the fields of a head are: *len bytes
 * that stand as long as the request. NULL: none. */
const char *host_req_trailers(host_req *r, double id, size_t *len);

/* How many bytes were sent of the response so far, with its head; -EPIPE: the request is over, or has lost its
 * connection. */
double host_req_sent(host_req *r, double id);

/* Writes the peer's address into buf, NUL-terminated. Its length, or -EPIPE or another -errno. */
int host_req_remote(host_req *r, double id, char *buf, size_t cap);

/* What is known of the client, by proxies that are trusted (forwarded.c): writes it into buf, of 256 bytes,
 * NUL-terminated. Its length; 0: nothing is known; IP always is, and SCHEME if the connection speaks TLS; -EPIPE or
 * another -errno. */
enum { HOST_CLIENT_IP, HOST_CLIENT_SCHEME, HOST_CLIENT_HOST, HOST_CLIENT_ID };
int host_req_client(host_req *r, double id, int what, char *buf);

/* The handler takes the connection over and speaks there what it likes: the connection as a socket of Lua, which reads
 * first what came behind the request. The request must be read to its end, and no response have begun. From then on only
 * the socket touches the connection, the handler has no deadline, and its end closes the socket. NULL: *err: -EAGAIN:
 * wait for writability and call again (earlier responses are queued); -EBUSY: the body is not read; -EALREADY; -EPIPE;
 * -ETIMEDOUT; -ENOMEM; -EOPNOTSUPP: the protocol has other requests on the connection. */
host_sock *host_req_hijack(host_req *r, double id, int *err);

/* What the client's connection has agreed on with us: writes it into buf, as texts, each with its NUL: version, cipher,
 * the name that the client asked for, ALPN (both empty: none), "1" or "0": the session was resumed. If the client has
 * shown a certificate, further: "1" or "0": it was verified; the SHA-256 of the certificate, hexadecimal; its subject;
 * its names, as "DNS:a.example". A text that does not fit is empty. How many bytes; 0: the connection speaks no TLS;
 * -EPIPE. */
int host_req_tls(host_req *r, double id, char *buf, size_t cap);

enum { HOST_TYPE_ALONE = 4 };

/* The whole response in one call. ctype: 0 none, 1 text/plain; charset=utf-8, 2 text/html; charset=utf-8, 3
 * application/json, each with X-Content-Type-Options: nosniff; with HOST_TYPE_ALONE added, without: `head` has one of
 * its own. head: further header lines, each with its CRLF, or empty; copied. The host adds Content-Length, Date and
 * Connection; a HEAD request, 204 and 304 get no body. 0; -EALREADY: a response has begun before; -EPIPE: the client is
 * gone. What the kernel does not take at once is copied if it is short, else -EAGAIN: wait for writability and call
 * host_respond_rest. -ETIMEDOUT: the client reads too slowly. */
int host_respond(host_req *r, double id, int status, int ctype, const char *head, size_t head_len,
                 const char *body, size_t body_len);

/* Goes on with a response for which host_respond answered -EAGAIN, with the same body. all: the caller can wait no
 * more, so what the kernel does not take is copied. 0, -EAGAIN, -ETIMEDOUT, -EPIPE as host_respond. */
int host_respond_rest(host_req *r, double id, const char *body, size_t len, int all);

/* A whole response whose body is `size` bytes of a regular file, from `at` on. fd stays the caller's, who may close it
 * after the call. The connection sends what the kernel does not take at once. If the file becomes shorter meanwhile,
 * the connection ends. 0, -EALREADY, -EPIPE as host_respond; another -errno: no response has begun. */
int host_respond_file(host_req *r, double id, int status, int ctype, const char *head,
                      size_t head_len, int fd, int64_t at, int64_t size);

/* A streamed response: begin, write ..., end. length: bytes of the body, or -1 (chunked on HTTP/1.1, until close on
 * 1.0). The host adds Content-Length or Transfer-Encoding, Date, Connection. write: 0; -EAGAIN: all is kept, but wait
 * for writability and ask again by an empty write; -EPIPE; -E2BIG: more than `length`. flush: 0; -EAGAIN: wait and call
 * again; -EPIPE. end: 0 or -EPIPE. -ETIMEDOUT in place of -EAGAIN: the client reads too slowly, its connection ends. */
int host_stream_begin(host_req *r, double id, int status, int ctype, const char *head,
                      size_t head_len, int64_t length);
int host_stream_write(host_req *r, double id, const char *data, size_t len);
int host_stream_flush(host_req *r, double id);
int host_stream_end(host_req *r, double id);

/* ---- ranges (ranges.c) ---- */

/* A part of a representation: its first and its last byte, from 0. */
typedef struct host_range {
    double at, last;
} host_range;

enum { HOST_RANGES = 8 /* parts of an answer at most */ };

/* The parts of a representation of `size` bytes that a Range field means, HOST_RANGES at most, none of which touches
 * another. How many; 0: there are no such bytes (416); -1: the field does not count. Any thread. Does not wait. */
int host_ranges(const char *field, size_t len, double size, host_range *ranges);

/* ---- paths (path.c) ---- */

/* Why something is no path: it does not begin with a slash; has a bad escape; a NUL; dots behind an escaped slash; leads
 * above the root. */
enum {
    HOST_PATH_NONE = -1,
    HOST_PATH_ESCAPE = -2,
    HOST_PATH_NUL = -3,
    HOST_PATH_DOTS = -4,
    HOST_PATH_ABOVE = -5
};

/* Cuts a raw path into decoded segments: slashes in a row are one, "." and ".." are resolved. text, with room for len
 * bytes, gets the segments, each behind a slash. Segment i is text[at[i] .. at[i + 1] - 1); at has room for len + 1
 * numbers. How many there are; HOST_PATH_*. */
int host_path_split(const char *raw, size_t len, char *text, uint32_t *at);

/* Percent-decodes s once, into out, which has room for n bytes. The number of bytes; HOST_PATH_ESCAPE. */
int host_path_decode(const char *s, size_t n, char *out);

/* ---- routes (routes.c) ---- */

typedef struct host_routes host_routes;

enum { HOST_PARAMS_MAX = 32 };

/* What a path says of a route: the path, decoded, until the thread's next lookup; the segments that its names stand for, in
 * order, and the rest. */
typedef struct host_match {
    const char *text;
    uint32_t len;
    host_span params[HOST_PARAMS_MAX]; /* bytes of text */
} host_match;

/* No routes. NULL: no memory. */
host_routes *host_routes_new(void);
void host_routes_free(host_routes *t);

/* The number of the route for a method and a raw path, of which *m then tells; 0: there is none, m->text is the path;
 * HOST_PATH_*, and m->text is "". */
int host_route_find(const host_routes *t, int method, const char *raw, size_t len, host_match *m);

/* Sets the numbers of the methods that have a route for a path: set has room for 256; 0 is any. 0; HOST_PATH_*. */
int host_route_methods(const host_routes *t, const char *raw, size_t len, uint8_t *set);

/* ---- fields of queries and forms (form.c), cookies (cookie.c) ---- */

/* A field: out[name .. name + name_len), and its value. */
typedef struct host_field {
    uint32_t name, name_len, value, value_len;
} host_field;

/* Decodes the first `max` fields of s[*at .. len), `name=value` between '&', into out, which has room for len - *at bytes.
 * How many there are; *at: where the next one begins, len: there is none. */
int host_fields(const char *s, size_t len, uint32_t *at, char *out, host_field *fields, int max);

/* The value of the first cookie of that name in a Cookie field, decoded, into out, which has room for n bytes. Its length;
 * -1: there is none. */
int host_cookie_get(const char *field, size_t n, const char *name, size_t len, char *out);

/* ---- parts of multipart bodies (multipart.c) ---- */

enum { HOST_MULTIPART_MORE, HOST_MULTIPART_PART, HOST_MULTIPART_LAST };
enum { HOST_MULTIPART_START = 1, HOST_MULTIPART_WHOLE = 2 };

/* The bytes before `at` are data. A delimiter, if there is one, stands at [at .. stop). */
typedef struct host_multipart {
    uint32_t at, stop;
} host_multipart;

/* Looks for the first delimiter in buf[0 .. len). delimiter: CRLF "--" boundary, n bytes, with no other CR. flags:
 * START: the body begins at buf; WHOLE: the body ends at buf + len. Returns PART or LAST: a delimiter, followed by a
 * part or by no other; MORE: none is there, or not all of it. */
int host_multipart_find(const uint8_t *buf, size_t len, const char *delimiter, size_t n, int flags,
                        host_multipart *found);

/* The bytes of a part's head at buf, with the empty line that ends it; 0: it is not whole. */
int host_multipart_head(const uint8_t *buf, size_t len);

/* ---- files that C answers with (site.c) ---- */

/* Gives C the mounts of app:static that C may answer for, while the app of a generation loads; they count when the
 * generation serves. text: fields, each with its NUL, in records. First, for each ending of a name: "T", the ending,
 * its type, "1" if it is compressed well; the last of these for all other names, with an empty ending. Then for each
 * mount, longer prefixes first: "M", its prefix without a slash at its end, the folder, the index or "", the
 * Cache-Control or "", "1" if there may be variants, milliseconds for which a file is remembered, host_label of the
 * route. Behind each, for each
 * other route below the prefix: "O", the rest of its pattern. 0, -ENOMEM. */
int host_site_stage(const char *text, size_t len);

/* The app of this server of the VM has changed, so C answers for its files no more. server -1: the app that the VM has
 * loaded for its generation. */
void host_site_off(int server);

/* ---- servers (requests.c) ---- */

/* Serves addr with this VM's handler number `handler` alone. The number is free again some time after the server was
 * stopped. site: mounts as for host_site_stage, empty for none. tls: with these certificates; NULL: without TLS. Returns
 * the number of the server, and writes the bound address to `bound`. An error: *err, and -1; or -2: the server has to
 * end before the number is free. */
int host_serve(const char *addr, int handler, const char *site, size_t site_len, host_tls *tls,
               char *bound, size_t cap, int *err);

/* ---- exchanges that are over (over.c) ---- */

/* The number of requests that P number p has given to handlers; -1: there is no such P. */
int64_t host_p_requests(int32_t p);

/* Exchanges that are over. An exchange, a request and its answer, is over when the answer has left, or is queued behind
 * others. by_status: [0] no answer, [2] to [5] 2xx to 5xx, [1] all others. Bytes include heads. seconds: the sum of
 * their times, from the first byte of the request; answer_seconds: until the answer began. */
enum { HOST_STATUS_CLASSES = 6 };
typedef struct host_exchanges {
    double by_status[HOST_STATUS_CLASSES];
    double bytes_in, bytes_out, seconds, answer_seconds;
} host_exchanges;

/* Fills *sum with the sums of all Ps. */
void host_read_exchanges(host_exchanges *sum);
/* ffi:end */

#endif
