/* An object is a file objects/AB/CDEF..., named by its id in hexadecimal digits: "TYPE LENGTH", a NUL and the bytes, as a
 * stream of zlib's format. `git cat-file` reads it, and `git fsck` checks it.
 *
 * The stream is of blocks that are stored, not compressed: a file of Lua is small, most are shared by all generations,
 * and zlib would be one more library in every process. What git has compressed or packed is not read.
 *
 * An object that has its name is whole, after a power failure too: a batch is written to files without a name, then
 * these are brought to the disk (syncfs: one call, however many they are), then they are named.
 */
#include "objects.h"

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

enum {
    BLOCK = 65535, /* bytes that a stored block has at most */
    BLOCK_HEAD = 5,
    ADLER_BASE = 65521,
    ADLER_RUN = 5552, /* bytes until its sums may overflow */
};

struct object_pending {
    char *temp, *path;
};

/* ---- writing a stream ---- */

typedef struct stream {
    int fd;
    size_t n; /* in the block */
    uint32_t a, b;
    uint8_t block[BLOCK_HEAD + BLOCK];
} stream;

static int flush(stream *s, bool last) {
    uint16_t n = (uint16_t)s->n;
    uint8_t *head = s->block;
    head[0] = last;
    head[1] = (uint8_t)n;
    head[2] = (uint8_t)(n >> 8);
    head[3] = (uint8_t)~head[1];
    head[4] = (uint8_t)~head[2];
    s->n = 0;
    return replace_write_all(s->fd, (char *)s->block, BLOCK_HEAD + (size_t)n);
}

static void add_up(stream *s, const uint8_t *bytes, size_t len) {
    while (len > 0) {
        size_t run = len < ADLER_RUN ? len : ADLER_RUN;
        for (size_t i = 0; i < run; i++) {
            s->a += bytes[i];
            s->b += s->a;
        }
        s->a %= ADLER_BASE;
        s->b %= ADLER_BASE;
        bytes += run;
        len -= run;
    }
}

static int put(stream *s, const void *bytes, size_t len) {
    add_up(s, bytes, len);
    for (size_t at = 0; at < len;) {
        size_t n = len - at < BLOCK - s->n ? len - at : BLOCK - s->n;
        memcpy(s->block + BLOCK_HEAD + s->n, (const char *)bytes + at, n);
        s->n += n;
        at += n;
        int err = s->n == BLOCK ? flush(s, false) : 0;
        if (err) return err;
    }
    return 0;
}

static int begin(stream *s, int fd, const char *type, uint64_t len) {
    char head[40];
    int n = snprintf(head, sizeof head, "%s %llu", type, (unsigned long long)len);
    s->fd = fd;
    s->n = 0;
    s->a = 1;
    s->b = 0;
    int err = replace_write_all(fd, "\x78\x01", 2);
    return err ? err : put(s, head, (size_t)n + 1);
}

static int end(stream *s) {
    uint32_t sum = s->b << 16 | s->a;
    uint8_t bytes[] = {(uint8_t)(sum >> 24), (uint8_t)(sum >> 16), (uint8_t)(sum >> 8),
                       (uint8_t)sum};
    int err = flush(s, true);
    return err ? err : replace_write_all(s->fd, (char *)bytes, sizeof bytes);
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
    if ((b->n & (b->n - 1)) == 0) { /* 0 or a power of two: full */
        object_pending *grown = realloc(b->list, (b->n ? b->n * 2 : 1) * sizeof *grown);
        if (!grown) return -ENOMEM;
        b->list = grown;
    }
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
    stream *s = malloc(sizeof *s);
    int err = s ? begin(s, fd, type, len) : -ENOMEM;
    if (!err) err = put(s, bytes, len);
    if (!err) err = end(s);
    free(s);
    return replace_close(fd, err);
}

/* The next len bytes of a file. */
static int put_file(stream *s, int from, uint64_t len, SHA1_CTX *sha) {
    enum { PIECE = 32 << 10 };
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
    char head[40];
    if (fstat(from, &st) < 0) return -errno;
    int n = snprintf(head, sizeof head, "blob %llu", (unsigned long long)st.st_size);
    SHA1Init(&sha);
    SHA1Update(&sha, (const uint8_t *)head, (size_t)n + 1);
    stream *s = malloc(sizeof *s);
    int err = s ? begin(s, fd, "blob", (uint64_t)st.st_size) : -ENOMEM;
    if (!err) err = put_file(s, from, (uint64_t)st.st_size, &sha);
    if (!err) err = end(s);
    free(s);
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

/* What the stream holds, malloc'd, with a NUL behind it. */
static int decode(const uint8_t *from, size_t len, char **to, size_t *n) {
    size_t at = 2;
    bool last = false;
    char *out = malloc(len + 1);
    if (!out) return -ENOMEM;
    *n = 0;
    if (len < 2 || from[0] != 0x78 || from[1] != 0x01) goto bad;
    while (!last) {
        if (len - at < BLOCK_HEAD || from[at] > 1) goto bad;
        size_t block = from[at + 1] | (size_t)from[at + 2] << 8;
        size_t check = from[at + 3] | (size_t)from[at + 4] << 8;
        last = from[at];
        at += BLOCK_HEAD;
        if ((block ^ check) != 0xffff || len - at < block) goto bad;
        memcpy(out + *n, from + at, block);
        *n += block;
        at += block;
    }
    out[*n] = 0;
    *to = out;
    return 0;

bad:
    free(out);
    return -EBADMSG;
}

int objects_read(const char *dir, const git_id *id, const char *type, char **bytes, size_t *len) {
    char path[PATH_MAX], *file, *whole;
    size_t file_len, n;
    bool opened;
    int err = object_path(dir, id, path);
    if (!err) err = -disk_read(path, &file, &file_len, NULL, &opened);
    if (err) return err;
    err = decode((const uint8_t *)file, file_len, &whole, &n);
    free(file);
    if (err) return err;
    size_t head = strlen(whole) + 1; /* a NUL ends it, at n at the latest */
    char expected[40];
    int digits = snprintf(expected, sizeof expected, "%s %zu", type, n - head);
    bool good = head <= n && (size_t)digits == head - 1 && strcmp(whole, expected) == 0;
    git_id got = git_object(type, good ? whole + head : "", good ? n - head : 0);
    if (!good || memcmp(&got, id, sizeof got) != 0) {
        free(whole);
        return -EBADMSG;
    }
    memmove(whole, whole + head, n - head + 1);
    *bytes = whole;
    *len = n - head;
    return 0;
}

int objects_remove(const char *dir, const git_id *id) {
    char path[PATH_MAX];
    int err = object_path(dir, id, path);
    if (err) return err;
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}
