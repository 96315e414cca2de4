/* Dicts that all VMs share: their names, and Lua's operations on their entries. The entries: dict_table.c.
 *
 * Names are never given back: VMs hold pointers to dicts.
 *
 * Memory for a value is taken before the lock of its place, and an entry that was taken out is freed after it. A number
 * in the place of a number, and a deletion, need no memory, unless the dict has a file: then each change has a record,
 * which is made before the lock, too.
 */
#include "../../runtime/lock.h"
#include "../base/hash.h"
#include "dict_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_BYTES = 16 << 20 };

static struct {
    rt_lock lock;               /* held while one is opened */
    _Atomic(host_dict *) first; /* lock writes; a dict that was seen stays */
} dicts;

/* ---- names ---- */

static host_dict *find_dict(const char *name, size_t len) {
    host_dict *d = atomic_load(&dicts.first);
    while (d && !(d->name_len == len && memcmp(d->name, name, len) == 0))
        d = d->next;
    return d;
}

static host_dict *make_dict(const char *name, size_t len, double max_bytes) {
    host_dict *d = dict_new(max_bytes);
    if (!d) return NULL;
    d->name = malloc(len + 1);
    d->name_len = len;
    if (!d->name) {
        free(d);
        return NULL;
    }
    memcpy(d->name, name, len);
    return d;
}

/* dicts.lock held. */
static host_dict *open_dict(const char *name, size_t len, double max_bytes) {
    host_dict *d = find_dict(name, len);
    if (d) {
        if (max_bytes != 0 && (int64_t)max_bytes != atomic_load(&d->max_bytes))
            dict_set_budget(d, max_bytes);
        return d;
    }
    hash_begin();
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

void host_dict_set_evicts(host_dict *d, int evicts) {
    atomic_store(&d->evicts, evicts != 0);
}

/* dicts.lock held. */
static int keep(host_dict *d, const char *path, size_t len, int sync) {
    dict_file *f = atomic_load(&d->file);
    if (f) return dict_file_is(f, path, len, sync) ? 0 : -EEXIST;
    host_dict_figures figures;
    host_dict_read(d, &figures);
    if (figures.keys > 0) return -EEXIST;
    f = dict_file_new(d, path, len, sync);
    atomic_store(&d->file, f);
    return f ? 0 : -ENOMEM;
}

int host_dict_keep(host_dict *d, const char *path, size_t len, int sync) {
    rt_lock_acquire(&dicts.lock);
    int err = keep(d, path, len, sync);
    rt_lock_release(&dicts.lock);
    return err;
}

int host_dict_sync(host_dict *d) {
    dict_file *f = atomic_load(&d->file);
    return f ? dict_file_sync(f) : -1;
}

/* ---- changes, and their records ---- */

/* The record of a change of a dict with a file; else NULL. */
typedef struct change {
    dict_file *f;
    dict_record *r;
} change;

/* Before the lock of the key's place. False: no memory. */
static bool prepare(host_dict *d, change *c, int op, const char *key, size_t key_len,
                    const void *data, size_t len) {
    *c = (change){.f = atomic_load_explicit(&d->file, memory_order_acquire)};
    if (c->f) c->r = dict_record_new(op, key, key_len, data, len);
    return !c->f || c->r;
}

/* With the lock. 0: the change is to be made, and kept; -EBUSY. */
static int admit(const change *c) {
    return !c->f || dict_file_enter(c->f) ? 0 : -EBUSY;
}

/* The change that was admitted has been made; e: the entry there is now, NULL: none. */
static void keep_change(change *c, const dict_entry *e) {
    if (!c->f) return;
    if (e) dict_record_fill(c->r, e->type, e->number, e->expires_ns);
    if (!e) dict_record_fill(c->r, HOST_NIL, 0, 0);
    dict_file_add(c->f, c->r);
    c->r = NULL;
}

/* ---- values ---- */

int host_dict_get(host_dict *d, const char *key, size_t key_len, void *buf, size_t cap,
                  host_dict_value *v) {
    dict_lookup l;
    dict_entry *e = dict_enter(d, key, key_len, &l);
    int type = HOST_NIL;
    v->version = 0;
    if (e) {
        type = e->type;
        v->number = e->number;
        v->len = (double)e->len;
        v->version = (double)e->version;
        if (e->len && e->len <= cap) memcpy(buf, e->bytes + e->key_len, e->len);
        dict_touch(&l, e);
    }
    dict_leave(&l);
    return type;
}

static int64_t expiry(double ttl_ns) {
    if (ttl_ns == 0) return 0;
    int64_t now = dict_now();
    return ttl_ns < (double)(INT64_MAX / 2) ? now + (int64_t)ttl_ns : INT64_MAX;
}

/* May `old` (NULL: no entry) become another value? */
static int may_put(const dict_entry *old, int how, double version) {
    if (how == HOST_ADD && old) return -EEXIST;
    if (how == HOST_REPLACE && !old) return -ENOENT;
    if (how == HOST_SWAP && (old ? (double)old->version : 0) != version) return -EAGAIN;
    return 0;
}

static void changed(dict_lookup *l, dict_entry *e, double ttl_ns) {
    e->version = ++l->s->version;
    if (ttl_ns >= 0) e->expires_ns = expiry(ttl_ns);
    dict_touch(l, e);
}

static bool is_scalar(int type) {
    return type == HOST_NUMBER || type == HOST_BOOLEAN;
}

/* A number in the place of a number, or a deletion. 1: neither is asked for; memory is needed. */
static int put_at_once(host_dict *d, const char *key, size_t key_len, int type, double number,
                       double ttl_ns, int how, double version) {
    change c;
    dict_lookup l;
    if (!prepare(d, &c, type == HOST_NIL ? RECORD_DELETE : RECORD_PUT, key, key_len, NULL, 0))
        return -ENOMEM;
    dict_entry *old = dict_enter(d, key, key_len, &l);
    int err = may_put(old, how, version);
    bool deletes = type == HOST_NIL && old;
    if (!err && type != HOST_NIL && !(old && is_scalar(old->type))) err = 1;
    if (!err && (deletes || type != HOST_NIL)) err = admit(&c);
    if (!err && deletes) {
        dict_take_out(d, &l);
        keep_change(&c, NULL);
    } else if (!err && type != HOST_NIL) {
        old->type = type;
        old->number = number;
        changed(&l, old, ttl_ns);
        keep_change(&c, old);
    }
    dict_leave(&l);
    free(c.r);
    return err;
}

/* Puts e, which is then the dict's, in the place of its key. */
static int put_entry(host_dict *d, dict_entry *e, change *c, double ttl_ns, int how,
                     double version) {
    dict_lookup l;
    dict_entry *old = dict_enter(d, e->bytes, e->key_len, &l);
    int err = may_put(old, how, version);
    int64_t reserved = err ? 0 : dict_reserve(d, e, old);
    if (reserved < 0) err = -ENOSPC;
    if (!err) err = admit(c);
    if (!err) {
        dict_put_in(d, &l, e);
        changed(&l, e, ttl_ns);
        keep_change(c, e);
    }
    if (reserved > 0) dict_unreserve(d, reserved);
    dict_leave(&l);
    if (!err) dict_keep_budget(d, &l);
    return err;
}

int host_dict_put(host_dict *d, const char *key, size_t key_len, int type, double number,
                  const void *data, size_t len, double ttl_ns, int how, double version) {
    if (type == HOST_NIL || is_scalar(type)) {
        len = 0;
        int r = put_at_once(d, key, key_len, type, number, ttl_ns, how, version);
        if (r <= 0) return r;
    }
    if (!dict_fits(d, key_len, len)) return -EFBIG;
    change c;
    if (!prepare(d, &c, RECORD_PUT, key, key_len, data, len)) return -ENOMEM;
    dict_entry *e = dict_entry_new(key, key_len, type, number, data, len);
    int err = e ? put_entry(d, e, &c, ttl_ns, how, version) : -ENOMEM;
    if (err == -ENOSPC && dict_sweep(d)) err = put_entry(d, e, &c, ttl_ns, how, version);
    if (err) free(e);
    free(c.r);
    return err;
}

/* Adds to the number that key has. */
static int add(host_dict *d, const char *key, size_t key_len, double by, double *sum) {
    change c;
    dict_lookup l;
    if (!prepare(d, &c, RECORD_PUT, key, key_len, NULL, 0)) return -ENOMEM;
    dict_entry *e = dict_enter(d, key, key_len, &l);
    int err = e ? e->type == HOST_NUMBER ? 0 : -EINVAL : -ENOENT;
    if (!err) err = admit(&c);
    if (!err) {
        *sum = e->number += by;
        changed(&l, e, -1);
        keep_change(&c, e);
    }
    dict_leave(&l);
    free(c.r);
    return err;
}

int host_dict_incr(host_dict *d, const char *key, size_t key_len, double by, int has_init,
                   double init, double ttl_ns, double *sum) {
    for (;;) {
        int err = add(d, key, key_len, by, sum);
        if (err != -ENOENT || !has_init) return err;
        *sum = init + by;
        err = host_dict_put(d, key, key_len, HOST_NUMBER, *sum, NULL, 0, ttl_ns, HOST_ADD, 0);
        if (err != -EEXIST) return err;
    }
}

int host_dict_delete(host_dict *d, const char *key, size_t key_len) {
    int err = host_dict_put(d, key, key_len, HOST_NIL, 0, NULL, 0, 0, HOST_REPLACE, 0);
    return err == 0 ? 1 : err == -ENOENT ? 0 : err;
}

int host_dict_expire(host_dict *d, const char *key, size_t key_len, double ttl_ns) {
    change c;
    dict_lookup l;
    if (!prepare(d, &c, RECORD_EXPIRE, key, key_len, NULL, 0)) return -ENOMEM;
    dict_entry *e = dict_enter(d, key, key_len, &l);
    int err = e ? admit(&c) : -ENOENT;
    if (!err) {
        e->expires_ns = expiry(ttl_ns);
        keep_change(&c, e);
    }
    dict_leave(&l);
    free(c.r);
    return err;
}

int host_dict_ttl(host_dict *d, const char *key, size_t key_len, double *ttl_ns) {
    dict_lookup l;
    dict_entry *e = dict_enter(d, key, key_len, &l);
    if (e) {
        int64_t left = e->expires_ns - dict_now();
        *ttl_ns = e->expires_ns == 0 ? 0 : left > 0 ? (double)left : 1;
    }
    dict_leave(&l);
    return e ? 0 : -ENOENT;
}
