/* Dicts that all VMs share: their names, and Lua's operations on their entries. The entries: dict_table.c.
 *
 * Names are never given back: VMs hold pointers to dicts.
 *
 * Memory for a value is taken before the lock of its place, and an entry that was taken out is freed after it. A number
 * in the place of a number, and a deletion, need no memory.
 */
#include "../../runtime/lock.h"
#include "../base/hash.h"
#include "dict_table.h"

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

/* A number in the place of a number, or a deletion, needs no memory. 1: it needs some. */
static int put_at_once(host_dict *d, const char *key, size_t key_len, int type, double number,
                       double ttl_ns, int how, double version) {
    dict_lookup l;
    dict_entry *old = dict_enter(d, key, key_len, &l);
    int err = may_put(old, how, version);
    if (err) {
        dict_leave(&l);
        return err;
    }
    if (type == HOST_NIL) {
        if (old) dict_take_out(d, &l);
    } else if (old && is_scalar(old->type)) {
        old->type = type;
        old->number = number;
        changed(&l, old, ttl_ns);
    } else {
        err = 1;
    }
    dict_leave(&l);
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
    dict_entry *e = dict_entry_new(key, key_len, type, number, data, len);
    if (!e) return -ENOMEM;
    dict_lookup l;
    dict_entry *old = dict_enter(d, key, key_len, &l);
    int err = may_put(old, how, version);
    if (!err) {
        dict_put_in(d, &l, e);
        changed(&l, e, ttl_ns);
    }
    dict_leave(&l);
    if (err)
        free(e);
    else
        dict_keep_budget(d, &l);
    return err;
}

int host_dict_incr(host_dict *d, const char *key, size_t key_len, double by, int has_init,
                   double init, double ttl_ns, double *sum) {
    for (;;) {
        dict_lookup l;
        dict_entry *e = dict_enter(d, key, key_len, &l);
        int err = e ? e->type == HOST_NUMBER ? 0 : -EINVAL : -ENOENT;
        if (!err) {
            *sum = e->number += by;
            changed(&l, e, -1);
        }
        dict_leave(&l);
        if (err != -ENOENT || !has_init) return err;
        *sum = init + by;
        err = host_dict_put(d, key, key_len, HOST_NUMBER, *sum, NULL, 0, ttl_ns, HOST_ADD, 0);
        if (err != -EEXIST) return err;
    }
}

int host_dict_delete(host_dict *d, const char *key, size_t key_len) {
    dict_lookup l;
    dict_entry *e = dict_enter(d, key, key_len, &l);
    if (e) dict_take_out(d, &l);
    dict_leave(&l);
    return e != NULL;
}

int host_dict_expire(host_dict *d, const char *key, size_t key_len, double ttl_ns) {
    dict_lookup l;
    dict_entry *e = dict_enter(d, key, key_len, &l);
    if (e) e->expires_ns = expiry(ttl_ns);
    dict_leave(&l);
    return e ? 0 : -ENOENT;
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
