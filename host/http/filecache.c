/* See filecache.h.
 *
 * A small file is opened, looked at and read more slowly than it is sent, and a page asks for many. So the bytes of a
 * file of SMALL bytes at most are kept with its header lines, and the answer is one write. Of a larger file the open
 * descriptor is kept. Whether it is still the file of that name is asked in each use (fstat): a file that was replaced,
 * removed or written to is opened anew. What the bytes in memory cannot tell is noticed when they are older than the
 * option `cache` of app:static says.
 *
 * A name is opened only as far as the kernel needs no disk for it (beneath_open_cached), and small files are read only
 * from its memory (RWF_NOWAIT). In all other cases the answer is no, and Lua opens the file, on another thread if need
 * be. Then the kernel knows it, and the next client gets it from here. Of names that are not there, or of which Lua has
 * more to say (folders), the hash alone is remembered, in a place that another name may take: clients can make up many.
 *
 * A full cache forgets everything, which costs a moment's openings. A native G looks once in a second for files that are
 * too old, and ends with the last of them: else the space of a removed file would not be free, and its descriptor be
 * lost, until somebody asks for the name again.
 *
 * One lock guards the chains. It is held for a few dozen instructions: files are opened, closed and freed without it.
 * Whoever uses a file holds it, so a file may leave the cache at any time. */
#include "filecache.h"

#include "../../runtime/lock.h"
#include "../../runtime/runtime.h"
#include "../base/base.h"
#include "../base/hash.h"
#include "../sys/beneath.h"
#include "date.h"
#include "out.h"
#include "site.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    SMALL = 16384,       /* bytes of a file that is kept in memory */
    BYTES_MAX = 4 << 20, /* of all kept files and their heads */
    FILES_MAX = 1000,
    FDS_MAX = 256, /* and at most a part of what the limit of descriptors allows */
    FDS_PART = 32,
    NAMES_MAX = 256, /* bytes of a name that is kept */
    CHAINS = 256,
    MISSES = 512,
};
#define SWEEP_NS NS_PER_SEC

struct filecache {
    refs refs; /* the owner, and the G that sweeps */
    int fds_max;
    rt_lock lock;
    cached_file *chains[CHAINS]; /* lock, as all that follows */
    int n_files, n_fds;
    size_t n_bytes;
    bool sweeping; /* the G is there */
    struct {
        uint64_t hash;
        int64_t ends_ns;
    } misses[MISSES]; /* by hash */
};

static const struct {
    unsigned bit;
    const char *name, *ending;
} variants[] = {
    {CODING_BR, "br", ".br"}, {CODING_ZSTD, "zstd", ".zst"}, {CODING_GZIP, "gzip", ".gz"}};
enum { N_VARIANTS = sizeof variants / sizeof *variants, ENDING_MAX = sizeof ".zst" - 1 };

/* ---- opening ---- */

/* The descriptor of a regular file, or -errno; -EAGAIN: only a wait could tell. */
static int open_regular(const site_mount *m, const char *name, struct stat *st) {
    int fd = beneath_open_cached(m->dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return fd;
    if (fstat(fd, st) == 0 && S_ISREG(st->st_mode)) return fd;
    close(fd);
    return -EISDIR;
}

/* Opens the variant that we like best. path: the file's, with room behind it. As open_regular. */
static int open_variant(const site_mount *m, char *path, size_t n, unsigned codings,
                        struct stat *st, const char **coding) {
    int fd = -ENOENT;
    for (int i = 0; i < N_VARIANTS && fd < 0 && fd != -EAGAIN; i++) {
        if (!(codings & variants[i].bit)) continue;
        memcpy(path + n, variants[i].ending, strlen(variants[i].ending) + 1);
        fd = open_regular(m, path, st);
        *coding = variants[i].name;
    }
    return fd;
}

static int64_t mtime_of(const struct stat *st) {
    return (int64_t)((uint64_t)st->st_mtim.tv_sec * NS_PER_SEC + (uint64_t)st->st_mtim.tv_nsec);
}

/* What becomes of a head: its text, and where its parts are. */
typedef struct head {
    char text[FILE_HEAD_MAX];
    int n, n_304, etag, etag_len, modified; /* modified: 0, or where the date is */
    int type, type_len;
} head;

/* Appends to h->text; a text that is too long counts as it is. */
static __attribute__((format(printf, 2, 3))) void put(head *h, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    size_t room = h->n < FILE_HEAD_MAX ? (size_t)(FILE_HEAD_MAX - h->n) : 0;
    h->n += vsnprintf(h->text + (room ? h->n : 0), room, fmt, args);
    va_end(args);
}

/* The lines that file.lua gives the file (fields_of), in another order. False: they are too long. */
static bool print_head(head *h, const site_mount *m, const struct stat *st, const site_type *type,
                       const char *coding) {
    int64_t mtime = mtime_of(st);
    char date[DATE_SIZE], hex[17] = "";
    h->n = h->modified = 0;
    if (mtime) snprintf(hex, sizeof hex, "%llx", (unsigned long long)mtime);
    put(h, "ETag: ");
    h->etag = h->n;
    put(h, "\"%llx-%s-%llx%s%s\"", (unsigned long long)st->st_size, hex,
        (unsigned long long)st->st_ino, coding ? "-" : "", coding ? coding : "");
    h->etag_len = h->n - h->etag;
    put(h, "\r\n");
    if (m->cache_control) put(h, "Cache-Control: %s\r\n", m->cache_control);
    if (m->precompressed && type->compresses) put(h, "Vary: Accept-Encoding\r\n");
    h->n_304 = h->n;
    put(h, "Accept-Ranges: bytes\r\n");
    /* A date after that of the answer would be wrong (RFC 9110, 8.8.2.1). */
    if (st->st_mtim.tv_sec >= 0 && st->st_mtim.tv_sec <= time(NULL)) {
        date_print(date, st->st_mtim.tv_sec);
        put(h, "Last-Modified: ");
        h->modified = h->n;
        put(h, "%s\r\n", date);
    }
    if (coding) put(h, "Content-Encoding: %s\r\n", coding);
    h->type = h->n;
    put(h, "Content-Type: %s\r\n", type->type);
    h->type_len = h->n - h->type;
    put(h, "X-Content-Type-Options: nosniff\r\n");
    return h->n < FILE_HEAD_MAX;
}

/* Reads a small file. False: only the disk has all of it, or it has changed. */
static bool read_all(int fd, char *to, size_t n) {
    struct iovec iov = {to, n};
    ssize_t r = n > 0 ? preadv2(fd, &iov, 1, 0, RWF_NOWAIT) : 0;
    if (r < 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) r = pread(fd, to, n, 0);
    return r == (ssize_t)n;
}

/* Makes the file of an open descriptor, which it takes over. NULL: no memory, or it cannot be read now. */
static cached_file *make(int fd, const struct stat *st, const head *h, const char *name, size_t n) {
    bool small = st->st_size <= SMALL;
    size_t size = small ? (size_t)st->st_size : 0;
    cached_file *f = malloc(sizeof *f + n + (size_t)h->n + size);
    if (!f) goto fail;
    char *at = f->name + n;
    *f = (cached_file){.mtime_ns = mtime_of(st),
                       .size = st->st_size,
                       .head = at,
                       .etag = at + h->etag,
                       .modified = h->modified ? at + h->modified : NULL,
                       .head_len = (uint16_t)h->n,
                       .head_304 = (uint16_t)h->n_304,
                       .etag_len = (uint16_t)h->etag_len,
                       .type_at = (uint16_t)h->type,
                       .type_len = (uint16_t)h->type_len,
                       .name_len = (uint16_t)n};
    refs_init(&f->refs, 1);
    memcpy(f->name, name, n);
    memcpy(at, h->text, (size_t)h->n);
    f->bytes = at + h->n;
    if (!small) {
        if ((f->fd = out_fd_new(fd))) return f;
        free(f);
        return NULL;
    }
    if (!read_all(fd, at + h->n, size)) goto fail;
    close(fd);
    return f;
fail:
    free(f);
    close(fd);
    return NULL;
}

/* Opens a file that is not in the cache. NULL as filecache_find; *missing: there is no regular file. */
static cached_file *open_file(const site_mount *m, const char *name, size_t n, unsigned codings,
                              bool *missing) {
    char path[NAMES_MAX + ENDING_MAX + 1];
    memcpy(path, name, n);
    path[n] = 0;
    struct stat st, st_variant;
    site_type type = site_type_of(m->site, path);
    const char *coding = NULL;
    int fd = open_regular(m, path, &st);
    *missing = fd < 0 && fd != -EAGAIN;
    if (fd < 0) return NULL;
    bool varies = m->precompressed && type.compresses;
    int variant = varies ? open_variant(m, path, n, codings, &st_variant, &coding) : -ENOENT;
    if (variant >= 0 || variant == -EAGAIN) {
        close(fd);
        fd = variant;
        st = st_variant;
    } else {
        coding = NULL;
    }
    if (fd < 0) return NULL;
    head h;
    if (!print_head(&h, m, &st, &type, coding)) {
        close(fd);
        return NULL;
    }
    cached_file *f = make(fd, &st, &h, name, n);
    if (f) f->codings = varies ? (uint8_t)codings : CODING_ANY;
    return f;
}

void filecache_drop(cached_file *f) {
    if (!refs_drop(&f->refs)) return;
    if (f->fd) out_fd_drop(f->fd);
    free(f);
}

/* ---- the chains ---- */

static size_t weight(const cached_file *f) {
    return sizeof *f + f->name_len + f->head_len + (f->fd ? 0 : (size_t)f->size);
}

static cached_file **chain_of(filecache *c, uint64_t hash) {
    return &c->chains[hash % CHAINS];
}

/* lock held. Takes *at out of its chain, whose next is *at then. */
static cached_file *take(filecache *c, cached_file **at) {
    cached_file *f = *at;
    *at = f->next;
    c->n_files--;
    c->n_fds -= f->fd != NULL;
    c->n_bytes -= weight(f);
    return f;
}

/* lock held. Where in its chain the file is; *it is NULL: it is not there. */
static cached_file **find(filecache *c, uint64_t hash, const site_mount *m, const char *name,
                          size_t n, unsigned codings) {
    cached_file **at = chain_of(c, hash);
    for (cached_file *f; (f = *at); at = &f->next)
        if (f->hash == hash && f->mount == m && f->name_len == n &&
            (f->codings == codings || f->codings == CODING_ANY) && memcmp(f->name, name, n) == 0)
            break;
    return at;
}

static void drop_all(cached_file *list) {
    while (list) {
        cached_file *f = list;
        list = f->next;
        filecache_drop(f);
    }
}

/* Drops what ends at until_ns or before. */
static void drop_until(filecache *c, int64_t until_ns) {
    for (int i = 0; i < CHAINS; i++) {
        cached_file *old = NULL;
        rt_lock_acquire(&c->lock);
        for (cached_file **at = &c->chains[i]; *at;) {
            if ((*at)->ends_ns > until_ns) {
                at = &(*at)->next;
                continue;
            }
            cached_file *f = take(c, at);
            f->next = old;
            old = f;
        }
        rt_lock_release(&c->lock);
        drop_all(old);
    }
}

void filecache_clear(filecache *c) {
    drop_until(c, INT64_MAX);
}

static void release(filecache *c) {
    if (!refs_drop(&c->refs)) return;
    filecache_clear(c);
    free(c);
}

static void sweep(void *arg) {
    filecache *c = arg;
    for (bool more = true; more;) {
        rt_sleep(SWEEP_NS);
        drop_until(c, rt_nanotime());
        rt_lock_acquire(&c->lock);
        more = c->sweeping = c->n_files > 0;
        rt_lock_release(&c->lock);
    }
    release(c);
}

static void begin_to_sweep(filecache *c) {
    refs_hold(&c->refs);
    if (rt_go(sweep, c)) return;
    rt_lock_acquire(&c->lock);
    c->sweeping = false; /* the next file that is kept tries again */
    rt_lock_release(&c->lock);
    release(c);
}

/* Keeps f, in the place of one that is too old. Descriptors are dear: if there are enough, the file is not kept. */
static void keep(filecache *c, cached_file *f) {
    rt_lock_acquire(&c->lock);
    bool full = c->n_files >= FILES_MAX || c->n_bytes + weight(f) > BYTES_MAX,
         enough = f->fd && c->n_fds >= c->fds_max;
    rt_lock_release(&c->lock);
    if (enough) return;
    if (full) filecache_clear(c);
    refs_hold(&f->refs);
    rt_lock_acquire(&c->lock);
    cached_file **at = find(c, f->hash, f->mount, f->name, f->name_len, f->codings);
    cached_file *old = *at ? take(c, at) : NULL;
    f->next = *at;
    *at = f;
    c->n_files++;
    c->n_fds += f->fd != NULL;
    c->n_bytes += weight(f);
    bool begin = !c->sweeping;
    c->sweeping = true;
    rt_lock_release(&c->lock);
    if (old) filecache_drop(old);
    if (begin) begin_to_sweep(c);
}

/* ---- */

/* True: the file of this descriptor has another content now, or no name any more. */
static bool has_changed(const cached_file *f) {
    struct stat st;
    return fstat(f->fd->fd, &st) < 0 || st.st_size != f->size || mtime_of(&st) != f->mtime_ns ||
           st.st_nlink == 0;
}

static void keep_miss(filecache *c, uint64_t hash, int64_t ends_ns) {
    rt_lock_acquire(&c->lock);
    c->misses[hash % MISSES].hash = hash;
    c->misses[hash % MISSES].ends_ns = ends_ns;
    rt_lock_release(&c->lock);
}

/* The file, if it is there and right; held. *missing: it is known that there is none. */
static cached_file *look_up(filecache *c, uint64_t hash, const site_mount *m, const char *name,
                            size_t n, unsigned codings, int64_t now_ns, bool *missing) {
    rt_lock_acquire(&c->lock);
    cached_file *f = *find(c, hash, m, name, n, codings);
    if (f && f->ends_ns <= now_ns) f = NULL;
    if (f) refs_hold(&f->refs);
    *missing =
        !f && c->misses[hash % MISSES].hash == hash && c->misses[hash % MISSES].ends_ns > now_ns;
    rt_lock_release(&c->lock);
    if (!f || !f->fd || !has_changed(f)) return f;
    filecache_drop(f);
    return NULL;
}

cached_file *filecache_find(filecache *c, const site_mount *m, const char *name, size_t n,
                            unsigned codings, int64_t now_ns) {
    if (n == 0 || n > NAMES_MAX) return NULL;
    bool missing;
    uint64_t hash = hash_fold(hash_bytes(name, n) ^ (uintptr_t)m, hash_key[2] | 1);
    cached_file *f = look_up(c, hash, m, name, n, codings, now_ns, &missing);
    if (f || missing) return f;
    f = open_file(m, name, n, codings, &missing);
    if (missing && m->age_ns > 0) keep_miss(c, hash, now_ns + m->age_ns);
    if (!f) return NULL;
    f->hash = hash;
    f->mount = m;
    f->ends_ns = now_ns + m->age_ns;
    if (m->age_ns > 0) keep(c, f);
    return f;
}

static int fds_max(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur / FDS_PART >= FDS_MAX) return FDS_MAX;
    return (int)(r.rlim_cur / FDS_PART);
}

filecache *filecache_new(void) {
    filecache *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    hash_begin();
    refs_init(&c->refs, 1);
    c->fds_max = fds_max();
    return c;
}

void filecache_free(filecache *c) {
    filecache_clear(c);
    release(c);
}
