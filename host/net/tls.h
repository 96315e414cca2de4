/* TLS: a kind of stream, over OpenSSL. Nothing else in the host knows of it but listeners, sockets of Lua and options.
 *
 * tls_begin makes an open stream a TLS stream: from then on its operations carry plain bytes, and what the descriptor
 * carries is encrypted. The holder calls ops->shake until that is done, and waits in between for stream_wants(s, RT_R).
 *
 * After the handshake reads wait for RT_R and writes for RT_W alone: what OpenSSL writes is always taken, and what the
 * kernel does not take of it waits in the stream. */
#ifndef TLS_H
#define TLS_H

#include "stream.h"
#include "tls_config.h"

#include <stddef.h>

extern const stream_ops stream_tls;

typedef host_tls_agreed tls_agreed;

/* Makes s, which is open, has carried nothing in this direction yet and is plain, a TLS stream. It holds c from now on.
 * name: of a client, the server's name or address that the certificate has to name; NULL: of a server. 0, or -ENOMEM;
 * then s is as it was. Only the holder of s. Does not wait. */
int tls_begin(stream *s, tls_config *c, const char *name);

/* Why the last call on s answered STREAM_ETLS, in words. Lives as long as s. Only the holder of s. Does not wait. */
const char *tls_why(const stream *s);

/* s has moved to another place (stream_move). Only the holder of s. Does not wait. */
void tls_moved(stream *s);

/* After the handshake. Only the holder of s. Does not wait. */
void tls_agreed_on(const stream *s, tls_agreed *a);

/* After the handshake of a server: writes what host_req_tls (http/http_ffi.h) says into buf. How many bytes, cap at most.
 * Only the holder of s. Does not wait. */
size_t tls_print(const stream *s, char *buf, size_t cap);

/* A write of s was broken off: some of its bytes may stand in a record that is partly out. No other write may follow:
 * it would answer STREAM_ETLS. Only the holder of s. Does not wait. */
void tls_abandon_write(stream *s);

/* The bytes that s carries stop short of what the peer was promised: s ends without saying that it ends, so that the
 * peer takes no part for the whole. Only the holder of s. Does not wait. */
void tls_cut(stream *s);

/* s is plain from now on, as it was before tls_begin, and gives all memory back. Whatever was read and written before is
 * gone. After a failed handshake. Only the holder of s. Does not wait. */
void tls_leave(stream *s);

/* Of stream_close. Says the peer, if that takes no wait, that the stream ends, and gives all memory back. */
void tls_end(stream *s);

#endif
