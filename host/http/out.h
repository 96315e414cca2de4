/* Output of a connection: what is queued for its client, in pieces, in order.
 *
 * A piece is bytes that were copied, or a range of a file. The first piece of bytes comes from a place of the thread,
 * since nearly always all that is queued goes out in the same call, so a connection has memory for output only while
 * its client does not take it.
 *
 * The bound of what is queued is its owner's to keep: OUT_FULL, see conn.c. Bytes count as they are many. A file counts
 * as OUT_FULL, however long it is: its bytes are in no memory of ours, but it holds a descriptor, which is dearer. So a
 * connection has one file queued at a time.
 *
 * By whoever has the connection; nothing here waits, except for a disk that has to read what is sent of a file. */
#ifndef OUT_H
#define OUT_H

#include "../net/stream.h"

enum { OUT_FULL = 65536 /* queued output that makes the writer wait */ };

typedef struct out_piece out_piece;

typedef struct host_out {
    out_piece *first, *last; /* NULL: none */
    size_t n;                /* what is queued, as it counts; 0: nothing */
} host_out;

/* Room for n more bytes, at least 1, behind what is queued; out_took says how far it was used. NULL: no memory. */
char *out_room(host_out *o, size_t n);
void out_took(host_out *o, const char *end);

/* Queues a copy of the bytes. 0 or -ENOMEM. */
int out_bytes(host_out *o, const char *data, size_t n);

/* Queues n bytes of a regular file from `at` on; 0: nothing. Takes fd over, and closes it, also when it fails. 0 or
 * -ENOMEM. */
int out_file(host_out *o, int fd, off_t at, size_t n);

/* Writes what is queued, and then tail[0 .. *n_tail), which is not queued. 0: all of it. -EAGAIN: the kernel takes no
 * more; *n_tail is what is left of the tail. -EINPROGRESS: so much of a file was sent that others should have the
 * thread; call again. -ENODATA: a file has become shorter, so the response can not be completed. -errno: the stream is
 * broken, or a file can not be read. *sent grows by what was written. */
int out_send(host_out *o, stream *s, const char *tail, size_t *n_tail, size_t *sent);

/* Forgets what is queued. */
void out_drop(host_out *o);

#endif
