/* Dicts that all VMs share: a hash table per name, in memory of the process, with nothing of any VM in it.
 *
 * A dict is cut into shards by the hash of the key; each has a lock of its own (rt_lock: sections are a lookup
 * and a few stores; what a section has unlinked is freed after it, and memory for new entries is taken
 * before it). So nobody waits under a lock, none outlives an FFI call, and a VM that is dropped holds none: a
 * signal ends Lua, never C (runaway.c).
 *
 * The buckets are fixed by the budget, one per 128 bytes of it. They are never rehashed beneath a
 * caller, and the kernel commits their pages as they are touched. The price: a dict whose budget was raised
 * 16 times has chains 16 times as long until it is opened with the new budget, which makes new buckets once.
 *
 * The budget is the dict's, not the shard's: one value may take all of it. Whoever puts the dict over its
 * budget evicts what was used longest ago, first in its own shard, then in the others in turn. Within
 * a shard the order is exact; a dict below 1 MiB has one shard.
 *
 * The hash is keyed by 24 random bytes of this process, so that nobody can send keys that share a bucket.
 *
 * An entry whose time has come is dropped by who finds it, or evicted like any other. Each change gives it
 * a new version, never used before in its shard: what compare-and-swap compares.
 *
 * Rejected: reference counts, to hand out values without a copy (a dropped VM would keep its references);
 * values inside of the buckets (most are strings); a lock per dict (two VMs that count met in the kernel).
 */
#include "host.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

typedef struct entry {
    struct entry *next;          /* of its bucket, or of what is to be freed */
    struct entry *newer, *older; /* by last use */
    int64_t expires_ns;          /* 0: never */
    uint64_t version;
    double number;
    size_t len; /* of the value's bytes, behind the key */
    uint32_t hash, key_len;
    int type;
    char bytes[];
} entry;

typedef struct shard {
    rt_lock lock;
    size_t n_buckets;       /* lock, as all that follows; a power of two */
    entry **buckets;        /* */
    entry *newest, *oldest; /* */
    uint64_t version;       /* of the last change */
    int64_t n, evicted, expired;
} __attribute__((aligned(64))) shard;

enum { SHARDS = 16, BYTES_PER_BUCKET = 128, MIN_BUCKETS = 64, MALLOC_HEAD = 16, KEY_MAX = 1 << 30 };
enum { DEFAULT_BYTES = 16 << 20, ONE_SHARD = 1 << 20 };

struct host_dict {
    host_dict *next; /* of the list; constant */
    char *name;      /* constant, as the next two */
    size_t name_len;
    uint32_t n_shards;
    _Atomic int64_t max_bytes; /* atomic: opening writes */
    _Atomic int64_t bytes;     /* atomic */
    shard shards[SHARDS];
};

static struct {
    rt_lock lock;               /* held while one is opened */
    _Atomic(host_dict *) first; /* lock writes; a dict that was seen stays */
    uint64_t seed[3];           /* constant after need_seed */
} dicts;

/* ---- hash ---- */

static uint64_t fold(uint64_t a, uint64_t b) {
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint64_t load64(const char *p) {
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

static void draw_seed(void) {
    if (getrandom(dicts.seed, sizeof dicts.seed, 0) != sizeof dicts.seed)
        rt_throw("the kernel has no random bytes");
}

static void need_seed(void) {
    static pthread_once_t drawn = PTHREAD_ONCE_INIT;
    pthread_once(&drawn, draw_seed);
}

static uint64_t hash_of(const char *key, size_t len) {
    uint64_t h = dicts.seed[0] ^ len;
    size_t left = len;
    for (; left >= 16; left -= 16, key += 16)
        h = fold(load64(key) ^ dicts.seed[1], load64(key + 8) ^ h);
    char tail[16] = {0};
    memcpy(tail, key, left);
    h = fold(load64(tail) ^ dicts.seed[1], load64(tail + 8) ^ h);
    return fold(h ^ dicts.seed[2], dicts.seed[1] | 1);
}

uint64_t shared_hash(const char *name, size_t len) {
    need_seed();
    return hash_of(name, len);
}

/* ---- a shard: all with its lock held ---- */

static size_t size_of(const entry *e) {
    return sizeof *e + e->key_len + e->len + MALLOC_HEAD;
}

static entry **place_of(shard *s, uint32_t hash, const char *key, size_t len) {
    entry **at = &s->buckets[hash & (s->n_buckets - 1)];
    for (; *at; at = &(*at)->next)
        if ((*at)->hash == hash && (*at)->key_len == len && memcmp((*at)->bytes, key, len) == 0)
            break;
    return at;
}

static void age_out(shard *s, entry *e) {
    if (e->newer)
        e->newer->older = e->older;
    else
        s->newest = e->older;
    if (e->older)
        e->older->newer = e->newer;
    else
        s->oldest = e->newer;
}

static void age_in(shard *s, entry *e) {
    e->newer = NULL;
    e->older = s->newest;
    if (s->newest)
        s->newest->newer = e;
    else
        s->oldest = e;
    s->newest = e;
}

static void touch(shard *s, entry *e) {
    if (s->newest == e) return;
    age_out(s, e);
    age_in(s, e);
}

/* Takes *at out and puts it before *gone, to be freed later. */
static void take_out(host_dict *d, shard *s, entry **at, entry **gone) {
    entry *e = *at;
    *at = e->next;
    age_out(s, e);
    s->n--;
    atomic_fetch_sub_explicit(&d->bytes, (int64_t)size_of(e), memory_order_relaxed);
    e->next = *gone;
    *gone = e;
}

/* For a G with virtual time that. */
static int64_t now_ns(void) {
    const host_vm *vm = vm_here();
    return vm && vm->view.virtual_ns != 0 ? (int64_t)vm->view.virtual_ns : rt_nanotime();
}

static bool has_expired(const entry *e) {
    return e->expires_ns != 0 && e->expires_ns <= now_ns();
}

static void free_all(entry *gone) {
    while (gone) {
        entry *next = gone->next;
        free(gone);
        gone = next;
    }
}

/* ---- a lookup: from enter to leave the shard's lock is held ---- */

typedef struct lookup {
    shard *s;
    entry **at;  /* of the key, or where it would stand */
    entry *gone; /* freed by leave */
    uint32_t hash;
} lookup;

/* The entry, which is not expired, or NULL. */
static entry *enter(host_dict *d, const char *key, size_t len, lookup *l) {
    uint64_t h = hash_of(key, len);
    l->hash = (uint32_t)h;
    l->s = &d->shards[(h >> 32) & (d->n_shards - 1)];
    l->gone = NULL;
    rt_lock_acquire(&l->s->lock);
    l->at = place_of(l->s, l->hash, key, len);
    entry *e = *l->at;
    if (!e || !has_expired(e)) return e;
    take_out(d, l->s, l->at, &l->gone);
    l->s->expired++;
    l->at = place_of(l->s, l->hash, key, len);
    return NULL;
}

static void leave(lookup *l) {
    rt_lock_release(&l->s->lock);
    free_all(l->gone);
}

/* ---- the budget ---- */

static bool is_over(host_dict *d) {
    return atomic_load_explicit(&d->bytes, memory_order_relaxed) >
           atomic_load_explicit(&d->max_bytes, memory_order_relaxed);
}

/* What was used longest ago in s; `spare`: not if it is the only one. */
static entry *evict_one(host_dict *d, shard *s, bool spare) {
    entry *gone = NULL;
    rt_lock_acquire(&s->lock);
    entry *e = s->oldest;
    if (e && !(spare && e == s->newest)) {
        entry **at = &s->buckets[e->hash & (s->n_buckets - 1)];
        while (*at != e)
            at = &(*at)->next;
        take_out(d, s, at, &gone);
        s->evicted++;
    }
    rt_lock_release(&s->lock);
    return gone;
}

/* After something was put into `own`, which is its newest. No lock held. */
static void keep_budget(host_dict *d, shard *own) {
    uint32_t first = (uint32_t)(own - d->shards), fruitless = 0;
    for (uint32_t i = 0; is_over(d) && fruitless < d->n_shards; i++) {
        shard *s = &d->shards[(first + i) % d->n_shards];
        entry *e = evict_one(d, s, s == own);
        fruitless = e ? 0 : fruitless + 1;
        free(e);
    }
}

/* ---- dicts ---- */

static size_t buckets_for(double max_bytes, uint32_t n_shards) {
    size_t want = (size_t)max_bytes / BYTES_PER_BUCKET / n_shards, n = MIN_BUCKETS;
    while (n < want)
        n *= 2;
    return n;
}

/* Moves the entries of s into n new buckets. */
static bool rebucket(shard *s, size_t n) {
    entry **buckets = calloc(n, sizeof(entry *));
    if (!buckets) return false;
    rt_lock_acquire(&s->lock);
    entry **old = s->buckets;
    s->buckets = buckets;
    s->n_buckets = n;
    for (entry *e = s->newest; e; e = e->older) {
        entry **at = &buckets[e->hash & (n - 1)];
        e->next = *at;
        *at = e;
    }
    rt_lock_release(&s->lock);
    free(old);
    return true;
}

static bool set_budget(host_dict *d, double max_bytes) {
    size_t n = buckets_for(max_bytes, d->n_shards);
    for (uint32_t i = 0; i < d->n_shards; i++)
        if (d->shards[i].n_buckets != n && !rebucket(&d->shards[i], n)) return false;
    atomic_store(&d->max_bytes, (int64_t)max_bytes);
    keep_budget(d, &d->shards[0]);
    return true;
}

static host_dict *find_dict(const char *name, size_t len) {
    host_dict *d = atomic_load(&dicts.first);
    while (d && !(d->name_len == len && memcmp(d->name, name, len) == 0))
        d = d->next;
    return d;
}

static void free_dict(host_dict *d) {
    for (uint32_t i = 0; i < d->n_shards; i++)
        free(d->shards[i].buckets);
    free(d->name);
    free(d);
}

static host_dict *make_dict(const char *name, size_t len, double max_bytes) {
    host_dict *d = aligned_alloc(64, sizeof *d);
    if (!d) return NULL;
    memset(d, 0, sizeof *d);
    d->n_shards = max_bytes < ONE_SHARD ? 1 : SHARDS;
    d->name = malloc(len + 1);
    d->name_len = len;
    if (!d->name || !set_budget(d, max_bytes)) {
        free_dict(d);
        return NULL;
    }
    memcpy(d->name, name, len);
    return d;
}

/* dicts.lock held. */
static host_dict *open_dict(const char *name, size_t len, double max_bytes) {
    host_dict *d = find_dict(name, len);
    if (d) {
        bool same = max_bytes == 0 || (int64_t)max_bytes == atomic_load(&d->max_bytes);
        return same || set_budget(d, max_bytes) ? d : NULL;
    }
    need_seed();
    d = make_dict(name, len, max_bytes == 0 ? DEFAULT_BYTES : max_bytes);
    if (!d) return NULL;
    d->next = atomic_load(&dicts.first);
    atomic_store(&dicts.first, d);
    return d;
}

host_dict *host_dict_open(const char *name, size_t len, double max_bytes) {
    rt_lock_acquire(&dicts.lock);
    host_dict *d = open_dict(name, len, max_bytes);
    rt_lock_release(&dicts.lock);
    return d;
}

/* ---- values ---- */

int host_dict_get(host_dict *d, const char *key, size_t key_len, void *buf, size_t cap,
                  host_dict_value *v) {
    lookup l;
    entry *e = enter(d, key, key_len, &l);
    int type = HOST_NIL;
    v->version = 0;
    if (e) {
        type = e->type;
        v->number = e->number;
        v->len = (double)e->len;
        v->version = (double)e->version;
        if (e->len && e->len <= cap) memcpy(buf, e->bytes + e->key_len, e->len);
        touch(l.s, e);
    }
    leave(&l);
    return type;
}

static int64_t expiry(double ttl_ns) {
    if (ttl_ns == 0) return 0;
    int64_t now = now_ns();
    return ttl_ns < (double)(INT64_MAX / 2) ? now + (int64_t)ttl_ns : INT64_MAX;
}

/* Without a place in the dict yet. */
static entry *new_entry(const char *key, size_t key_len, int type, double number, const void *data,
                        size_t len) {
    entry *e = malloc(sizeof *e + key_len + len);
    if (!e) return NULL;
    *e = (entry){.type = type, .number = number, .len = len, .key_len = (uint32_t)key_len};
    if (key_len) memcpy(e->bytes, key, key_len);
    if (len) memcpy(e->bytes + key_len, data, len);
    return e;
}

/* May `old` (NULL: nothing) become something else? */
static int may_put(const entry *old, int how, double version) {
    if (how == HOST_ADD && old) return -EEXIST;
    if (how == HOST_REPLACE && !old) return -ENOENT;
    if (how == HOST_SWAP && (old ? (double)old->version : 0) != version) return -EAGAIN;
    return 0;
}

static void changed(lookup *l, entry *e, double ttl_ns) {
    e->version = ++l->s->version;
    if (ttl_ns >= 0) e->expires_ns = expiry(ttl_ns);
    touch(l->s, e);
}

/* Puts e in the place of what stands there. */
static void put_in(host_dict *d, lookup *l, entry *e, double ttl_ns) {
    if (*l->at) {
        e->expires_ns = (*l->at)->expires_ns;
        take_out(d, l->s, l->at, &l->gone);
    }
    e->hash = l->hash;
    e->next = *l->at;
    *l->at = e;
    age_in(l->s, e);
    l->s->n++;
    atomic_fetch_add_explicit(&d->bytes, (int64_t)size_of(e), memory_order_relaxed);
    changed(l, e, ttl_ns);
}

static bool is_scalar(int type) {
    return type == HOST_NUMBER || type == HOST_BOOLEAN;
}

/* A number in the place of a number, or a deletion, needs no memory. 1: it needs some. */
static int put_at_once(host_dict *d, const char *key, size_t key_len, int type, double number,
                       double ttl_ns, int how, double version) {
    lookup l;
    entry *old = enter(d, key, key_len, &l);
    int err = may_put(old, how, version);
    if (err) {
        leave(&l);
        return err;
    }
    if (type == HOST_NIL) {
        if (old) take_out(d, l.s, l.at, &l.gone);
    } else if (old && is_scalar(old->type)) {
        old->type = type;
        old->number = number;
        changed(&l, old, ttl_ns);
    } else {
        err = 1;
    }
    leave(&l);
    return err;
}

static int fits(host_dict *d, size_t key_len, size_t len) {
    double size = (double)(sizeof(entry) + MALLOC_HEAD) + (double)key_len + (double)len;
    return key_len <= KEY_MAX && size <= (double)atomic_load(&d->max_bytes) ? 0 : -EFBIG;
}

int host_dict_put(host_dict *d, const char *key, size_t key_len, int type, double number,
                  const void *data, size_t len, double ttl_ns, int how, double version) {
    if (type == HOST_NIL || is_scalar(type)) {
        len = 0;
        int r = put_at_once(d, key, key_len, type, number, ttl_ns, how, version);
        if (r <= 0) return r;
    }
    int err = fits(d, key_len, len);
    if (err) return err;
    entry *e = new_entry(key, key_len, type, number, data, len);
    if (!e) return -ENOMEM;
    lookup l;
    entry *old = enter(d, key, key_len, &l);
    err = may_put(old, how, version);
    if (!err) put_in(d, &l, e, ttl_ns);
    leave(&l);
    if (err)
        free(e);
    else if (is_over(d))
        keep_budget(d, l.s);
    return err;
}

int host_dict_incr(host_dict *d, const char *key, size_t key_len, double by, int has_init,
                   double init, double ttl_ns, double *sum) {
    for (;;) {
        lookup l;
        entry *e = enter(d, key, key_len, &l);
        int err = e ? e->type == HOST_NUMBER ? 0 : -EINVAL : -ENOENT;
        if (!err) {
            *sum = e->number += by;
            changed(&l, e, -1);
        }
        leave(&l);
        if (err != -ENOENT || !has_init) return err;
        *sum = init + by;
        err = host_dict_put(d, key, key_len, HOST_NUMBER, *sum, NULL, 0, ttl_ns, HOST_ADD, 0);
        if (err != -EEXIST) return err;
    }
}

int host_dict_delete(host_dict *d, const char *key, size_t key_len) {
    lookup l;
    entry *e = enter(d, key, key_len, &l);
    if (e) take_out(d, l.s, l.at, &l.gone);
    leave(&l);
    return e != NULL;
}

int host_dict_expire(host_dict *d, const char *key, size_t key_len, double ttl_ns) {
    lookup l;
    entry *e = enter(d, key, key_len, &l);
    if (e) e->expires_ns = expiry(ttl_ns);
    leave(&l);
    return e ? 0 : -ENOENT;
}

int host_dict_ttl(host_dict *d, const char *key, size_t key_len, double *ttl_ns) {
    lookup l;
    entry *e = enter(d, key, key_len, &l);
    if (e) {
        int64_t left = e->expires_ns - now_ns();
        *ttl_ns = e->expires_ns == 0 ? 0 : left > 0 ? (double)left : 1;
    }
    leave(&l);
    return e ? 0 : -ENOENT;
}

/* ---- all of it ---- */

/* The keys of one bucket behind buf[used]: where they end, or, if they do not fit, 0 with *need. */
static size_t copy_bucket(const entry *e, char *buf, size_t used, size_t cap, size_t *need) {
    for (; e; e = e->next) {
        if (has_expired(e)) continue;
        size_t end = used + sizeof e->key_len + e->key_len;
        if (end <= cap) {
            memcpy(buf + used, &e->key_len, sizeof e->key_len);
            memcpy(buf + used + sizeof e->key_len, e->bytes, e->key_len);
        }
        used = end;
    }
    *need = used;
    return used <= cap ? used : 0;
}

/* From bucket *i of s on. The lock is given back now and then. */
enum { BUCKETS_AT_A_TIME = 1024 };

int64_t host_dict_keys(host_dict *d, double *cursor, char *buf, size_t cap) {
    uint64_t at = (uint64_t)*cursor;
    uint32_t n = (uint32_t)(at >> 40); /* the shard; below it the bucket */
    size_t i = at & ((UINT64_C(1) << 40) - 1), used = 0;
    for (int left = BUCKETS_AT_A_TIME * 8; n < d->n_shards && left > 0;) {
        shard *s = &d->shards[n];
        bool full = false;
        rt_lock_acquire(&s->lock);
        for (int k = 0; k < BUCKETS_AT_A_TIME && i < s->n_buckets && !full; k++) {
            size_t need, end = used;
            if (s->buckets[i]) end = copy_bucket(s->buckets[i], buf, used, cap, &need);
            full = s->buckets[i] && need > cap;
            if (full && used == 0) {
                rt_lock_release(&s->lock);
                *cursor = (double)(((uint64_t)n << 40) | i);
                return -(int64_t)need;
            }
            if (!full) {
                used = end;
                i++;
            }
        }
        bool done = i >= s->n_buckets;
        rt_lock_release(&s->lock);
        if (full) break;
        left -= BUCKETS_AT_A_TIME;
        if (done) {
            n++;
            i = 0;
        }
    }
    *cursor = n < d->n_shards ? (double)(((uint64_t)n << 40) | i) : -1;
    return (int64_t)used;
}

void host_dict_flush(host_dict *d) {
    for (uint32_t n = 0; n < d->n_shards; n++) {
        shard *s = &d->shards[n];
        entry *gone = NULL;
        rt_lock_acquire(&s->lock);
        memset(s->buckets, 0, s->n_buckets * sizeof(entry *));
        for (entry *e = s->newest, *older; e; e = older) {
            older = e->older;
            atomic_fetch_sub_explicit(&d->bytes, (int64_t)size_of(e), memory_order_relaxed);
            e->next = gone;
            gone = e;
        }
        s->newest = s->oldest = NULL;
        s->n = 0;
        rt_lock_release(&s->lock);
        free_all(gone);
    }
}

void host_dict_read(host_dict *d, host_dict_figures *f) {
    *f = (host_dict_figures){
        .bytes = (double)atomic_load(&d->bytes),
        .max_bytes = (double)atomic_load(&d->max_bytes),
    };
    for (uint32_t n = 0; n < d->n_shards; n++) {
        shard *s = &d->shards[n];
        rt_lock_acquire(&s->lock);
        f->keys += (double)s->n;
        f->evictions += (double)s->evicted;
        f->expired += (double)s->expired;
        rt_lock_release(&s->lock);
    }
}
