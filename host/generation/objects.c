/* An object is a file objects/AB/CDEF..., named by its id in hexadecimal digits: "TYPE LENGTH", a NUL and the bytes,
 * compressed by zlib. `git cat-file` reads the file, and `git fsck` checks it. Objects that git has packed are not
 * read.
 *
 * An object that has its name is whole, after a power failure, too: a batch is written to files without a name, then
 * these are brought to the disk (syncfs: one call for all of them), then they are named.
 */
#include "objects.h"

#include "../base/array.h"
#include "../sys/replace.h"
#include "diskfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sha1.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { PIECE = 32 << 10, HEAD = 40 /* bytes of "TYPE LENGTH" and its NUL at most */ };

struct object_pending {
    char *temp, *path;
};

/* ---- writing a stream ---- */

typedef struct stream {
    int fd;
    z_stream z;
    uint8_t out[PIECE];
} stream;

/* Writes what the compressor makes of its input. last: the input ends. */
static int pump(stream *s, bool last) {
    int r = Z_OK;
    do {
        s->z.next_out = s->out;
        s->z.avail_out = sizeof s->out;
        r = deflate(&s->z, last ? Z_FINISH : Z_NO_FLUSH);
        int err = replace_write_all(s->fd, (char *)s->out, sizeof s->out - s->z.avail_out);
        if (err) return err;
    } while (last ? r == Z_OK || r == Z_BUF_ERROR : s->z.avail_out == 0);
    return !last || r == Z_STREAM_END ? 0 : -EIO;
}

static int put(stream *s, const void *bytes, size_t len) {
    s->z.next_in = (uint8_t *)bytes;
    s->z.avail_in = (uInt)len; /* less than 4 GiB: DISKFILE_MAX, or a piece */
    return pump(s, false);
}

/* A stream of an object of that length to fd; stream_free frees it. NULL: *err. */
static stream *stream_new(int fd, const char *head, size_t head_len, int *err) {
    stream *s = calloc(1, sizeof *s);
    *err = -ENOMEM;
    if (!s || deflateInit(&s->z, Z_DEFAULT_COMPRESSION) != Z_OK) {
        free(s);
        return NULL;
    }
    s->fd = fd;
    *err = put(s, head, head_len);
    return s;
}

static void stream_free(stream *s) {
    if (s) (void)deflateEnd(&s->z);
    free(s);
}

/* Writes "TYPE LENGTH" and a NUL to head; how many bytes these are. */
static size_t print_head(char head[HEAD], const char *type, uint64_t len) {
    return (size_t)snprintf(head, HEAD, "%s %llu", type, (unsigned long long)len) + 1;
}

/* ---- a batch ---- */

static int object_path(const char *dir, const git_id *id, char path[PATH_MAX]) {
    char digits[GIT_ID_DIGITS + 1];
    git_print(id, digits);
    int n = snprintf(path, PATH_MAX, "%s/%.2s/%s", dir, digits, digits + 2);
    return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* A new file for an object, which the batch names later. The descriptor; -EEXIST: the object is there. */
static int open_new(object_batch *b, const git_id *id) {
    char path[PATH_MAX], temp[PATH_MAX];
    int err = object_path(b->dir, id, path);
    if (err) return err;
    if (access(path, F_OK) == 0) return -EEXIST;
    char *slash = strrchr(path, '/');
    *slash = 0;
    if (mkdir(path, 0777) < 0 && errno != EEXIST) return -errno;
    *slash = '/';
    if (!ARRAY_ROOM(b->list, b->n)) return -ENOMEM;
    int fd = replace_open_beside(path, temp, sizeof temp, 0444);
    if (fd < 0) return fd;
    object_pending *p = &b->list[b->n++];
    *p = (object_pending){strdup(temp), strdup(path)};
    if (p->temp && p->path) return fd;
    close(fd);
    unlink(temp);
    return -ENOMEM;
}

int objects_write(object_batch *b, const char *type, const git_id *id, const void *bytes,
                  size_t len) {
    int fd = open_new(b, id);
    if (fd == -EEXIST) return 0;
    if (fd < 0) return fd;
    char head[HEAD];
    int err;
    stream *s = stream_new(fd, head, print_head(head, type, len), &err);
    if (!err) err = put(s, bytes, len);
    if (!err) err = pump(s, true);
    stream_free(s);
    return replace_close(fd, err);
}

/* The next len bytes of a file. */
static int put_file(stream *s, int from, uint64_t len, SHA1_CTX *sha) {
    char *piece = malloc(PIECE);
    int err = piece ? 0 : -ENOMEM;
    while (!err && len > 0) {
        ssize_t n = read(from, piece, len < PIECE ? (size_t)len : PIECE);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) err = n < 0 ? -errno : -ESTALE;
        if (n <= 0) break;
        SHA1Update(sha, (const uint8_t *)piece, (size_t)n);
        err = put(s, piece, (size_t)n);
        len -= (uint64_t)n;
    }
    free(piece);
    return err;
}

static int write_from(int fd, int from, const git_id *id) {
    struct stat st;
    SHA1_CTX sha;
    git_id got;
    char head[HEAD];
    int err;
    if (fstat(from, &st) < 0) return -errno;
    size_t n = print_head(head, "blob", (uint64_t)st.st_size);
    SHA1Init(&sha);
    SHA1Update(&sha, (const uint8_t *)head, n);
    stream *s = stream_new(fd, head, n, &err);
    if (!err) err = put_file(s, from, (uint64_t)st.st_size, &sha);
    if (!err) err = pump(s, true);
    stream_free(s);
    SHA1Final(got.sha1, &sha);
    return !err && memcmp(&got, id, sizeof got) != 0 ? -ESTALE : err;
}

int objects_write_file(object_batch *b, const git_id *id, const char *path) {
    int fd = open_new(b, id);
    if (fd == -EEXIST) return 0;
    if (fd < 0) return fd;
    int from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* it may have become a pipe */
    int err = from < 0 ? (errno == ENOENT ? -ESTALE : -errno) : write_from(fd, from, id);
    if (from >= 0) close(from);
    return replace_close(fd, err);
}

static int sync_all(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int err = syncfs(fd) < 0 ? -errno : 0;
    close(fd);
    return err;
}

int objects_end(object_batch *b, int err) {
    if (!err && b->n) err = sync_all(b->dir);
    for (size_t i = 0; i < b->n; i++) {
        object_pending *p = &b->list[i];
        if (!err && rename(p->temp, p->path) < 0) err = -errno;
        if (err && p->temp) (void)unlink(p->temp); /* or it has its name already */
        free(p->temp);
        free(p->path);
    }
    if (!err && b->n) err = sync_all(b->dir);
    free(b->list);
    b->list = NULL;
    b->n = 0;
    return err;
}

/* ---- reading ---- */

/* The length that the head of an object says, which ends in a NUL; -1: text is no head of this type. */
static int64_t scan_head(const char *text, const char *type) {
    size_t n = strlen(type);
    if (strncmp(text, type, n) != 0 || text[n] != ' ' || text[n + 1] < '0' || text[n + 1] > '9')
        return -1;
    char *end;
    errno = 0;
    long long len = strtoll(text + n + 1, &end, 10);
    return errno || *end || len > DISKFILE_MAX ? -1 : len;
}

/* Decompresses an object: its bytes, malloc'd, with a NUL behind them. */
static int decode(z_stream *z, const char *type, char **bytes, size_t *len) {
    char head[HEAD + 1] = "";
    z->next_out = (uint8_t *)head;
    z->avail_out = HEAD;
    int r = inflate(z, Z_SYNC_FLUSH);
    size_t got = HEAD - z->avail_out, n = strlen(head) + 1; /* with the NUL */
    int64_t size = n <= got ? scan_head(head, type) : -1;
    if (size < 0 || got - n > (size_t)size) return -EBADMSG;
    char *out = malloc((size_t)size + 1);
    if (!out) return -ENOMEM;
    memcpy(out, head + n, got - n);
    z->next_out = (uint8_t *)out + (got - n);
    z->avail_out = (uInt)((size_t)size - (got - n) +
                          1); /* one more than there are: else the end is not looked for */
    if (r == Z_OK) r = inflate(z, Z_FINISH);
    if (r != Z_STREAM_END || z->avail_out != 1) {
        free(out);
        return -EBADMSG;
    }
    out[size] = 0;
    *bytes = out;
    *len = (size_t)size;
    return 0;
}

int objects_read(const char *dir, const git_id *id, const char *type, char **bytes, size_t *len) {
    char path[PATH_MAX], *file;
    size_t file_len;
    bool opened;
    int err = object_path(dir, id, path);
    if (!err) err = -disk_read(path, &file, &file_len, NULL, &opened);
    if (err) return err;
    z_stream z = {.next_in = (uint8_t *)file, .avail_in = (uInt)file_len};
    err = inflateInit(&z) == Z_OK ? decode(&z, type, bytes, len) : -ENOMEM;
    (void)inflateEnd(&z);
    free(file);
    if (err) return err;
    git_id got = git_object(type, *bytes, *len);
    if (memcmp(&got, id, sizeof got) == 0) return 0;
    free(*bytes);
    return -EBADMSG;
}

int objects_remove(const char *dir, const git_id *id) {
    char path[PATH_MAX];
    int err = object_path(dir, id, path);
    if (err) return err;
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}
