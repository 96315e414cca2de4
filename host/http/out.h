/* Output of a connection: what is queued for its client, in pieces, in order.
 *
 * A piece is bytes that were copied. The first one comes from a place of the thread, since nearly always all that is
 * queued goes out in the same call, so a connection has memory for output only while its client does not take it.
 *
 * The bound of what is queued is its owner's to keep: OUT_FULL, see conn.c. By whoever has the connection; nothing here
 * waits. */
#ifndef OUT_H
#define OUT_H

#include "../net/stream.h"

typedef struct out_piece out_piece;

typedef struct host_out {
    out_piece *first, *last; /* NULL: none */
    size_t n;                /* bytes queued */
} host_out;

/* Room for n more bytes, at least 1, behind what is queued; out_took says how far it was used. NULL: no memory. */
char *out_room(host_out *o, size_t n);
void out_took(host_out *o, const char *end);

/* Queues a copy of the bytes. 0 or -ENOMEM. */
int out_bytes(host_out *o, const char *data, size_t n);

/* Writes what is queued, and then tail[0 .. *n_tail), which is not queued. 0: all of it. -EAGAIN: the kernel takes no
 * more; *n_tail is what is left of the tail. -errno: the stream is broken. *sent grows by what was written. */
int out_send(host_out *o, stream *s, const char *tail, size_t *n_tail, size_t *sent);

/* Forgets what is queued. */
void out_drop(host_out *o);

#endif
