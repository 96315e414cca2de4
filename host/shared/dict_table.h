/* The entries of a dict that all VMs share: a hash table that is cut into shards. See dict_table.c; what Lua calls is
 * in shared_ffi.h. Any thread. Does not wait. */
#ifndef DICT_TABLE_H
#define DICT_TABLE_H

#include "../../runtime/lock.h"
#include "shared_ffi.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct dict_entry {
    struct dict_entry *next;          /* of its bucket, or of what is to be freed */
    struct dict_entry *newer, *older; /* by last use */
    int64_t expires_ns;               /* 0: never */
    uint64_t version;
    double number;
    size_t len; /* of the value's bytes, behind the key */
    uint32_t hash, key_len;
    int type;
    char bytes[];
} dict_entry;

enum {
    DICT_SHARDS = 16,
    DICT_FIRST_BITS = 3,
    DICT_FIRST = 1 << DICT_FIRST_BITS, /* buckets of a shard that is empty */
    DICT_SEGMENTS = 20,                /* more: at most DICT_FIRST << DICT_SEGMENTS buckets */
};

typedef struct dict_shard {
    rt_lock lock;
    uint32_t n_buckets;          /* lock, as all that follows */
    uint32_t mask;               /* of the power of two that is not below it */
    uint32_t room;               /* buckets that there is memory for */
    dict_entry *newest, *oldest; /* by their last use */
    uint64_t version;            /* of the last change */
    int64_t n, evicted, expired;
    dict_entry *first[DICT_FIRST];
    dict_entry **more
        [DICT_SEGMENTS]; /* more[k]: buckets DICT_FIRST << k .. (DICT_FIRST << k + 1) - 1; NULL from room on */
} __attribute__((aligned(64))) dict_shard;

struct host_dict {
    host_dict *next; /* dict.c, of its list; constant */
    char *name;      /* dict.c; constant, as the next two */
    size_t name_len;
    uint32_t n_shards;
    _Atomic int64_t max_bytes; /* atomic: opening writes */
    _Atomic int64_t bytes;     /* atomic */
    _Atomic bool evicts; /* atomic: entries above the budget are forgotten; else none are put in */
    _Atomic(struct dict_file *) file; /* atomic, set once: dict_file.c's; NULL: none */
    _Atomic int64_t swept_ns;         /* atomic: when entries that have expired were looked for */
    dict_shard shards[DICT_SHARDS];
};

/* A key in its place: from dict_enter to dict_leave the shard's lock is held. */
typedef struct dict_lookup {
    dict_shard *s;
    dict_entry **at;  /* of the key, or where it would stand */
    dict_entry *gone; /* freed by dict_leave */
    uint32_t hash;
} dict_lookup;

/* A dict without entries and without a name. NULL: no memory. */
host_dict *dict_new(double max_bytes);

/* Sets the budget, and evicts entries above it. */
void dict_set_budget(host_dict *d, double max_bytes);

/* Finds the place of a key: its entry, which has not expired, or NULL. dict_leave follows. */
dict_entry *dict_enter(host_dict *d, const char *key, size_t len, dict_lookup *l);
void dict_leave(dict_lookup *l);

/* Between dict_enter and dict_leave: */

/* Takes the entry out of its place; dict_leave frees it. */
void dict_take_out(host_dict *d, dict_lookup *l);

/* Puts e, which is new, in the place of the entry there, whose time to expire e takes over. */
void dict_put_in(host_dict *d, dict_lookup *l, dict_entry *e);

/* e, which stands there, was used. */
void dict_touch(dict_lookup *l, dict_entry *e);

/* An entry without a place in a dict yet; to be freed unless it gets one. NULL: no memory. */
dict_entry *dict_entry_new(const char *key, size_t key_len, int type, double number,
                           const void *data, size_t len);

/* False: an entry of this size is larger than the whole budget. */
bool dict_fits(host_dict *d, size_t key_len, size_t len);

/* Is there room for e in the place of `old` (NULL: none)? Then the difference is counted until dict_unreserve gets it
 * back, after dict_put_in. -1: there is none. A dict that evicts always has room. */
int64_t dict_reserve(host_dict *d, const dict_entry *e, const dict_entry *old);
void dict_unreserve(host_dict *d, int64_t bytes);

/* Takes out the entries that have expired, once in a second. True: there were any. Without a lock. */
bool dict_sweep(host_dict *d);

/* Calls copy with the entries of one bucket after the other, from *cursor on (0 at first), as host_dict_keys says. copy
 * writes behind buf[used], and returns where that ends; 0: *need is more than cap. */
int64_t dict_copy(host_dict *d, double *cursor, char *buf, size_t cap,
                  size_t (*copy)(const dict_entry *e, char *buf, size_t used, size_t cap,
                                 size_t *need));

/* Evicts entries above the budget. After a lookup that has put something in has left. */
void dict_keep_budget(host_dict *d, const dict_lookup *l);

/* The time of the caller, a G with virtual time or not. */
int64_t dict_now(void);

#endif
