/* Output of a connection: what is queued for its client, in pieces, in order.
 *
 * A piece is copied bytes, or a range of a file. The first piece of bytes comes from a spare of the thread, since
 * nearly always all queued output leaves in the same call. So a connection has memory for output only while its client
 * does not take the output.
 *
 * The owner of the output keeps the bound of what is queued: OUT_FULL, see conn.c. Bytes count as they are. A file
 * counts as OUT_FULL, however long it is: its bytes take no memory here, but it holds a descriptor, which is dearer. So
 * a connection has one file queued at a time, or some ranges of it.
 *
 * Only the holder of the connection calls these functions. None waits, except for a disk that has to read a file's
 * bytes. */
#ifndef OUT_H
#define OUT_H

#include "../base/refs.h"
#include "../net/stream.h"

enum { OUT_FULL = 65536 /* queued output that makes the writer wait */ };

/* The descriptor of a regular file that outputs, and others, share. The last holder closes it. */
typedef struct out_fd {
    refs refs;
    int fd;
} out_fd;

/* A holder of fd, which it takes over. NULL: no memory, and fd is closed. */
out_fd *out_fd_new(int fd);
void out_fd_drop(out_fd *f);

typedef struct out_piece out_piece;

typedef struct host_out {
    out_piece *first; /* NULL: none */
    size_t n;         /* how much is queued, as it counts; 0: nothing */
} host_out;

/* out_room: room for n more bytes, at least 1, behind the queued ones; NULL: no memory. out_took: the room was used up
 * to `end`. */
char *out_room(host_out *o, size_t n);
void out_took(host_out *o, const char *end);

/* Queues a copy of data[0 .. n). 0 or -ENOMEM. */
int out_bytes(host_out *o, const char *data, size_t n);

/* Queues n bytes of a file from `at` on; n 0: nothing. Holds f until they are sent or dropped. 0 or -ENOMEM. */
int out_file(host_out *o, out_fd *f, off_t at, size_t n);

/* Writes the queued output, then tail[0 .. *n_tail), which is not queued. *sent grows by what was written. 0: all is
 * written. -EAGAIN: the kernel takes no more; *n_tail is what is left of the tail. -EINPROGRESS: much of a file was
 * sent, so let other Gs run and call again. -ENODATA: a file has become shorter, so the response cannot be completed.
 * Another -errno: the stream is broken, or a file cannot be read. */
int out_send(host_out *o, stream *s, const char *tail, size_t *n_tail, size_t *sent);

/* Drops the queued output. */
void out_drop(host_out *o);

#endif
