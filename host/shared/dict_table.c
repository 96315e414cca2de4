/* The entries of a dict that all VMs share: a hash table in memory of the process, with nothing of any VM in it.
 *
 * A dict is cut into shards by the hash of the key. Each shard has an rt_lock of its own: sections are a lookup and a
 * few stores; unlinked entries are freed after them, and memory for new entries is taken before them. So no G waits
 * under a lock, no lock outlives an FFI call, and a dropped VM holds none: a signal ends Lua, never C (runaway.c).
 *
 * The buckets grow with the entries, by linear hashing (W. Litwin, 1980). A shard with more entries than buckets gets
 * up to two further buckets with each call that changes it; a further bucket takes its entries out of an existing one.
 * So no caller ever waits for a whole table to be rehashed. Buckets lie in segments, each as large as all before it,
 * and never move. A segment is made without the lock; without memory for one the chains grow longer. A shard that
 * becomes empty gives its segments back; an empty dict has 5 kB.
 *
 * The budget is the dict's, not the shard's: one value may take all of it. A put that brings the dict over its budget
 * evicts the least recently used entries, first in its own shard, then in the others in turn. Within a shard the order
 * is exact; a dict below 1 MiB has one shard.
 *
 * The hash is keyed (hash.c), so that no client can send keys that share a bucket.
 *
 * An entry whose time has come is dropped by the lookup that finds it, or evicted like any other. Each change gives the
 * entry a new version, never used before in its shard, which compare-and-swap compares.
 *
 * Rejected: reference counts, to hand out values without a copy (a dropped VM would keep its references); values inside
 * the buckets (most are strings); a lock per dict (two VMs that count met in the kernel).
 */
#include "dict_table.h"

#include "../../runtime/runtime.h"
#include "../base/base.h"
#include "../base/hash.h"
#include "../vm/vm.h"

#include <stdlib.h>
#include <string.h>

enum {
    SPLITS = 2, /* buckets that are added at a time */
    MALLOC_HEAD = 16,
    KEY_MAX = 1 << 30,
    ONE_SHARD = 1 << 20, /* a dict with a smaller budget has one shard */
};

/* ---- buckets: all with the shard's lock held, but for making and freeing segments ---- */

static dict_entry **bucket(dict_shard *s, uint32_t i) {
    if (i < DICT_FIRST) return &s->first[i];
    int k = 31 - __builtin_clz(i) - DICT_FIRST_BITS;
    return &s->more[k][i - ((uint32_t)DICT_FIRST << k)];
}

static dict_entry **bucket_of(dict_shard *s, uint32_t hash) {
    uint32_t i = hash & s->mask;
    return bucket(s, i < s->n_buckets ? i : i & s->mask >> 1);
}

/* Adds a bucket; there is room. */
static void split(dict_shard *s) {
    uint32_t i = s->n_buckets++;
    if (i > s->mask) s->mask = s->mask * 2 + 1;
    dict_entry **to = bucket(s, i), **at = bucket(s, i & s->mask >> 1);
    while (*at) {
        dict_entry *e = *at;
        if ((e->hash & s->mask) == i) {
            *at = e->next;
            e->next = *to;
            *to = e;
        } else {
            at = &e->next;
        }
    }
}

static bool is_crowded(const dict_shard *s) {
    return s->n > s->n_buckets;
}

static void spread(dict_shard *s) {
    for (int k = 0; k < SPLITS && is_crowded(s) && s->n_buckets < s->room; k++)
        split(s);
}

static bool wants_room(const dict_shard *s) {
    return is_crowded(s) && s->n_buckets == s->room &&
           s->room < (uint32_t)DICT_FIRST << DICT_SEGMENTS;
}

static bool wants_less(const dict_shard *s) {
    return s->n == 0 && s->room > DICT_FIRST;
}

/* Adds a segment. Without the lock. */
__attribute__((noinline, cold)) static void add_segment(dict_shard *s) {
    rt_lock_acquire(&s->lock);
    uint32_t room = s->room;
    rt_lock_release(&s->lock);
    dict_entry **segment = calloc(room, sizeof *segment);
    if (!segment) return;
    rt_lock_acquire(&s->lock);
    bool mine = s->room == room && wants_room(s);
    if (mine) {
        s->more[31 - __builtin_clz(room) - DICT_FIRST_BITS] = segment;
        s->room = room * 2;
    }
    rt_lock_release(&s->lock);
    if (!mine) free(segment);
}

static void begin_buckets(dict_shard *s) {
    s->n_buckets = s->room = DICT_FIRST;
    s->mask = DICT_FIRST - 1;
}

/* Without the lock: gives the segments back, if there are no entries. */
__attribute__((noinline, cold)) static void drop_segments(dict_shard *s) {
    dict_entry **segments[DICT_SEGMENTS];
    rt_lock_acquire(&s->lock);
    bool drop = wants_less(s);
    if (drop) {
        memcpy(segments, s->more, sizeof segments);
        memset(s->more, 0, sizeof s->more);
        begin_buckets(s);
    }
    rt_lock_release(&s->lock);
    for (int k = 0; drop && k < DICT_SEGMENTS; k++)
        free(segments[k]);
}

/* ---- a shard: all with its lock held ---- */

static size_t size_of(const dict_entry *e) {
    return sizeof *e + e->key_len + e->len + MALLOC_HEAD;
}

static dict_entry **place_of(dict_shard *s, uint32_t hash, const char *key, size_t len) {
    dict_entry **at = bucket_of(s, hash);
    for (; *at; at = &(*at)->next)
        if ((*at)->hash == hash && (*at)->key_len == len && memcmp((*at)->bytes, key, len) == 0)
            break;
    return at;
}

static void age_out(dict_shard *s, dict_entry *e) {
    if (e->newer)
        e->newer->older = e->older;
    else
        s->newest = e->older;
    if (e->older)
        e->older->newer = e->newer;
    else
        s->oldest = e->newer;
}

static void age_in(dict_shard *s, dict_entry *e) {
    e->newer = NULL;
    e->older = s->newest;
    if (s->newest)
        s->newest->newer = e;
    else
        s->oldest = e;
    s->newest = e;
}

static void touch(dict_shard *s, dict_entry *e) {
    if (s->newest == e) return;
    age_out(s, e);
    age_in(s, e);
}

/* Takes *at out and puts it before *gone, to be freed later. */
static void take_out(host_dict *d, dict_shard *s, dict_entry **at, dict_entry **gone) {
    dict_entry *e = *at;
    *at = e->next;
    age_out(s, e);
    s->n--;
    atomic_fetch_sub_explicit(&d->bytes, (int64_t)size_of(e), memory_order_relaxed);
    e->next = *gone;
    *gone = e;
}

int64_t dict_now(void) {
    const host_vm *vm = vm_here();
    return vm && vm->view.virtual_ns != 0 ? (int64_t)vm->view.virtual_ns : rt_nanotime();
}

static bool has_expired(const dict_entry *e) {
    return e->expires_ns != 0 && e->expires_ns <= dict_now();
}

static void free_all(dict_entry *gone) {
    while (gone) {
        dict_entry *next = gone->next;
        free(gone);
        gone = next;
    }
}

/* ---- a lookup ---- */

dict_entry *dict_enter(host_dict *d, const char *key, size_t len, dict_lookup *l) {
    uint64_t h = hash_bytes(key, len);
    l->hash = (uint32_t)h;
    l->s = &d->shards[(h >> 32) & (d->n_shards - 1)];
    l->gone = NULL;
    rt_lock_acquire(&l->s->lock);
    l->at = place_of(l->s, l->hash, key, len);
    dict_entry *e = *l->at;
    if (!e || !has_expired(e)) return e;
    take_out(d, l->s, l->at, &l->gone);
    l->s->expired++;
    l->at = place_of(l->s, l->hash, key, len);
    return NULL;
}

void dict_leave(dict_lookup *l) {
    dict_shard *s = l->s;
    if (__builtin_expect(is_crowded(s), 0)) spread(s);
    bool more = wants_room(s), less = wants_less(s);
    rt_lock_release(&s->lock);
    if (__builtin_expect(more, 0)) add_segment(s);
    if (__builtin_expect(less, 0)) drop_segments(s);
    free_all(l->gone);
}

/* ---- the budget ---- */

static bool is_over(host_dict *d) {
    return atomic_load_explicit(&d->bytes, memory_order_relaxed) >
           atomic_load_explicit(&d->max_bytes, memory_order_relaxed);
}

/* The least recently used entry of s; `spare`: not if it is the only one. */
static dict_entry *evict_one(host_dict *d, dict_shard *s, bool spare) {
    dict_entry *gone = NULL;
    rt_lock_acquire(&s->lock);
    dict_entry *e = s->oldest;
    if (e && !(spare && e == s->newest)) {
        dict_entry **at = bucket_of(s, e->hash);
        while (*at != e)
            at = &(*at)->next;
        take_out(d, s, at, &gone);
        s->evicted++;
    }
    rt_lock_release(&s->lock);
    return gone;
}

/* Evicts entries after a put into `own`, whose newest entry stays. No lock held. */
static void evict(host_dict *d, dict_shard *own) {
    uint32_t first = (uint32_t)(own - d->shards), fruitless = 0;
    for (uint32_t i = 0; is_over(d) && fruitless < d->n_shards; i++) {
        dict_shard *s = &d->shards[(first + i) % d->n_shards];
        dict_entry *e = evict_one(d, s, s == own);
        fruitless = e ? 0 : fruitless + 1;
        free(e);
    }
}

void dict_keep_budget(host_dict *d, const dict_lookup *l) {
    if (is_over(d) && atomic_load_explicit(&d->evicts, memory_order_relaxed)) evict(d, l->s);
}

void dict_set_budget(host_dict *d, double max_bytes) {
    atomic_store(&d->max_bytes, (int64_t)max_bytes);
    if (atomic_load(&d->evicts)) evict(d, &d->shards[0]);
}

int64_t dict_reserve(host_dict *d, const dict_entry *e, const dict_entry *old) {
    int64_t more = (int64_t)size_of(e) - (old ? (int64_t)size_of(old) : 0);
    if (more <= 0 || atomic_load_explicit(&d->evicts, memory_order_relaxed)) return 0;
    int64_t had = atomic_fetch_add_explicit(&d->bytes, more, memory_order_relaxed);
    if (had + more <= atomic_load_explicit(&d->max_bytes, memory_order_relaxed)) return more;
    dict_unreserve(d, more);
    return -1;
}

void dict_unreserve(host_dict *d, int64_t bytes) {
    atomic_fetch_sub_explicit(&d->bytes, bytes, memory_order_relaxed);
}

/* Takes the expired entries out of some buckets of s, from *i on. */
static dict_entry *sweep_some(host_dict *d, dict_shard *s, uint32_t *i) {
    enum { AT_A_TIME = 256 };
    dict_entry *gone = NULL;
    rt_lock_acquire(&s->lock);
    for (int k = 0; k < AT_A_TIME && *i < s->n_buckets; k++, ++*i)
        for (dict_entry **at = bucket(s, *i); *at;) {
            if (!has_expired(*at)) {
                at = &(*at)->next;
                continue;
            }
            take_out(d, s, at, &gone);
            s->expired++;
        }
    if (*i >= s->n_buckets) *i = UINT32_MAX;
    rt_lock_release(&s->lock);
    return gone;
}

bool dict_sweep(host_dict *d) {
    int64_t now = rt_nanotime(), last = atomic_load(&d->swept_ns);
    if ((last && now - last < NS_PER_SEC) ||
        !atomic_compare_exchange_strong(&d->swept_ns, &last, now))
        return false;
    bool any = false;
    for (uint32_t n = 0; n < d->n_shards; n++)
        for (uint32_t i = 0; i != UINT32_MAX;) {
            dict_entry *gone = sweep_some(d, &d->shards[n], &i);
            any = any || gone;
            free_all(gone);
        }
    return any;
}

host_dict *dict_new(double max_bytes) {
    host_dict *d = aligned_alloc(64, sizeof *d);
    if (!d) return NULL;
    memset(d, 0, sizeof *d);
    d->n_shards = max_bytes < ONE_SHARD ? 1 : DICT_SHARDS;
    atomic_store(&d->evicts, true);
    for (uint32_t i = 0; i < d->n_shards; i++)
        begin_buckets(&d->shards[i]);
    dict_set_budget(d, max_bytes);
    return d;
}

/* ---- entries ---- */

dict_entry *dict_entry_new(const char *key, size_t key_len, int type, double number,
                           const void *data, size_t len) {
    dict_entry *e = malloc(sizeof *e + key_len + len);
    if (!e) return NULL;
    *e = (dict_entry){.type = type, .number = number, .len = len, .key_len = (uint32_t)key_len};
    if (key_len) memcpy(e->bytes, key, key_len);
    if (len) memcpy(e->bytes + key_len, data, len);
    return e;
}

bool dict_fits(host_dict *d, size_t key_len, size_t len) {
    double size = (double)(sizeof(dict_entry) + MALLOC_HEAD) + (double)key_len + (double)len;
    return key_len <= KEY_MAX && size <= (double)atomic_load(&d->max_bytes);
}

void dict_take_out(host_dict *d, dict_lookup *l) {
    take_out(d, l->s, l->at, &l->gone);
}

void dict_touch(dict_lookup *l, dict_entry *e) {
    touch(l->s, e);
}

void dict_put_in(host_dict *d, dict_lookup *l, dict_entry *e) {
    if (*l->at) {
        e->expires_ns = (*l->at)->expires_ns;
        dict_take_out(d, l);
    }
    e->hash = l->hash;
    e->next = *l->at;
    *l->at = e;
    age_in(l->s, e);
    l->s->n++;
    atomic_fetch_add_explicit(&d->bytes, (int64_t)size_of(e), memory_order_relaxed);
}

/* ---- all of it ---- */

/* The keys of one bucket behind buf[used]: where they end, or, if they do not fit, 0 with *need. */
static size_t copy_bucket(const dict_entry *e, char *buf, size_t used, size_t cap, size_t *need) {
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

enum { BUCKETS_AT_A_TIME = 1024 };

/* The lock is released now and then. */
int64_t dict_copy(host_dict *d, double *cursor, char *buf, size_t cap,
                  size_t (*copy)(const dict_entry *e, char *buf, size_t used, size_t cap,
                                 size_t *need)) {
    uint64_t at = (uint64_t)*cursor;
    uint32_t n = (uint32_t)(at >> 40); /* the shard; below it the bucket */
    size_t i = at & ((UINT64_C(1) << 40) - 1), used = 0;
    for (int left = BUCKETS_AT_A_TIME * 8; n < d->n_shards && left > 0;) {
        dict_shard *s = &d->shards[n];
        bool full = false;
        rt_lock_acquire(&s->lock);
        for (int k = 0; k < BUCKETS_AT_A_TIME && i < s->n_buckets && !full; k++) {
            size_t need, end = used;
            const dict_entry *e = *bucket(s, (uint32_t)i);
            if (e) end = copy(e, buf, used, cap, &need);
            full = e && need > cap;
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

int64_t host_dict_keys(host_dict *d, double *cursor, char *buf, size_t cap) {
    return dict_copy(d, cursor, buf, cap, copy_bucket);
}

void host_dict_flush(host_dict *d) {
    for (uint32_t n = 0; n < d->n_shards; n++) {
        dict_shard *s = &d->shards[n];
        dict_entry *gone = NULL;
        rt_lock_acquire(&s->lock);
        for (uint32_t i = 0; i < s->n_buckets; i++)
            *bucket(s, i) = NULL;
        for (dict_entry *e = s->newest, *older; e; e = older) {
            older = e->older;
            atomic_fetch_sub_explicit(&d->bytes, (int64_t)size_of(e), memory_order_relaxed);
            e->next = gone;
            gone = e;
        }
        s->newest = s->oldest = NULL;
        s->n = 0;
        rt_lock_release(&s->lock);
        drop_segments(s);
        free_all(gone);
    }
}

void host_dict_read(host_dict *d, host_dict_figures *f) {
    *f = (host_dict_figures){
        .bytes = (double)atomic_load(&d->bytes),
        .max_bytes = (double)atomic_load(&d->max_bytes),
    };
    for (uint32_t n = 0; n < d->n_shards; n++) {
        dict_shard *s = &d->shards[n];
        rt_lock_acquire(&s->lock);
        f->keys += (double)s->n;
        f->evictions += (double)s->evicted;
        f->expired += (double)s->expired;
        rt_lock_release(&s->lock);
    }
}
