/* TLS: a kind of stream, over OpenSSL. Nothing else in the host knows of it but listeners, sockets of Lua and options.
 *
 * tls_begin makes an open stream a TLS stream: from then on its operations carry plain bytes, and what the descriptor
 * carries is encrypted. The holder calls stream_shake until that is done, and waits in between as for a read or a
 * write: for stream_wants(s, mode), since either may need the other direction. */
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

/* After the handshake. Only the holder of s. Does not wait. */
void tls_agreed_on(const stream *s, tls_agreed *a);

/* A write of s was broken off: some of its bytes may stand in a record that is partly out. No other write may follow:
 * it would answer STREAM_ETLS. Only the holder of s. Does not wait. */
void tls_abandon_write(stream *s);

/* Of stream_close. Says the peer, if that takes no wait, that the stream ends, and gives all memory back. */
void tls_end(stream *s);

#endif
