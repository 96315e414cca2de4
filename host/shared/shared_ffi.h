/* Dicts and channels that all VMs share, for Lua. The rules of vm_ffi.h hold. */
#ifndef SHARED_FFI_H
#define SHARED_FFI_H

#include "../vm/vm_ffi.h"

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- dicts that all VMs share (dict.c) ---- */

/* A dict of the process: any thread, at any time. A dict lives as long as the process. */
typedef struct host_dict host_dict;

enum { HOST_NIL, HOST_BOOLEAN, HOST_NUMBER, HOST_STRING, HOST_TABLE };
enum { HOST_SET, HOST_ADD, HOST_REPLACE, HOST_SWAP };

/* The answer of host_dict_get beside the bytes. */
typedef struct host_dict_value {
    double number;  /* HOST_NUMBER; HOST_BOOLEAN: 0 or 1 */
    double len;     /* HOST_STRING, HOST_TABLE: bytes */
    double version; /* for HOST_SWAP; 0: the key is missing */
} host_dict_value;

typedef struct host_dict_figures {
    double keys, bytes, max_bytes, evictions, expired;
} host_dict_figures;

/* When a dict with a file syncs: after each change, each second, never. */
enum { HOST_SYNC_NO, HOST_SYNC_SECOND, HOST_SYNC_ALWAYS };

/* The dict `name`, made if there is none. max_bytes: the budget of its entries from now on; 0: the budget stays, 16 MiB
 * at first. NULL: no memory. */
host_dict *host_dict_open(const char *name, size_t len, double max_bytes);

/* evicts 0: a put for which there is no room fails from now on, and no entry is forgotten. */
void host_dict_set_evicts(host_dict *d, int evicts);

/* The entries of d outlive the process in a file (dict_file.c). The first wait for host_dict_settle reads it. 0;
 * -EEXIST: d has another file or sync, or entries already; -ENOMEM. */
int host_dict_keep(host_dict *d, const char *path, size_t len, int sync);

/* HOST_SYNC_... of a dict with a file; -1: d has none. */
int host_dict_sync(host_dict *d);

/* A job without a result: waits until changes may be made, and those of before the wait are written; sync: until those
 * are synced. NULL: no memory. host_dict_settled, when it has ended: 0; -EBUSY: another process uses the file;
 * -EBADMSG: it is no file of a dict; -errno. */
host_job *host_dict_settle(host_dict *d, int sync);
int host_dict_settled(host_job *job);

/* Functions that change a dict with a file answer -EBUSY, and change nothing, if the caller has to wait for
 * host_dict_settle first; and -ENOMEM. */

/* The type of the value of key; HOST_NIL: key has none. Copies the value's bytes to buf; more than cap: copies none. */
int host_dict_get(host_dict *d, const char *key, size_t key_len, void *buf, size_t cap,
                  host_dict_value *v);

/* Puts a value; HOST_NIL deletes. ttl_ns: 0 never expires, negative: as before. how: HOST_ADD -EEXIST if there
 * is one; HOST_REPLACE -ENOENT if there is none; HOST_SWAP -EAGAIN unless `version` is still the one there.
 * 0; -EFBIG: larger than the whole budget; -ENOSPC: no room, and the dict does not evict; -ENOMEM. */
int host_dict_put(host_dict *d, const char *key, size_t key_len, int type, double number,
                  const void *data, size_t len, double ttl_ns, int how, double version);

/* Adds `by` to the number of key; the sum is in *sum. has_init: a key without a value counts as `init`, and gets this
 * ttl_ns. 0; -ENOENT: no value; -EINVAL: the value is no number; -EFBIG; -ENOSPC; -ENOMEM. */
int host_dict_incr(host_dict *d, const char *key, size_t key_len, double by, int has_init,
                   double init, double ttl_ns, double *sum);

/* 1: key had a value. */
int host_dict_delete(host_dict *d, const char *key, size_t key_len);

/* Sets, or gets, the time after which the value of key expires; 0: never. 0 or -ENOENT. */
int host_dict_expire(host_dict *d, const char *key, size_t key_len, double ttl_ns);
int host_dict_ttl(host_dict *d, const char *key, size_t key_len, double *ttl_ns);

/* Writes keys from *cursor on (0 at first) into buf, each behind its length, a uint32_t. Returns the number of bytes;
 * *cursor is -1 after the last key. -need: buf is too small for the next keys. A key that is there all the time comes
 * at least once, and perhaps twice if other keys are put meanwhile. */
int64_t host_dict_keys(host_dict *d, double *cursor, char *buf, size_t cap);

/* Deletes everything. Not for a dict with a file, whose keys are to be deleted one by one. */
void host_dict_flush(host_dict *d);
void host_dict_read(host_dict *d, host_dict_figures *f);

/* ---- channels that all VMs share (chan.c, chan_wait.c) ---- */

/* A VM's handle of a channel; the channel is the process's. */
typedef struct host_chan host_chan;

enum { HOST_CHAN_RECV, HOST_CHAN_SEND };

/* A value beside its type and bytes. */
typedef struct host_chan_value {
    double number; /* HOST_NUMBER; HOST_BOOLEAN: 0 or 1 */
    double len;    /* HOST_STRING, HOST_TABLE: bytes; else 0 */
} host_chan_value;

/* The channel `name`, made if there is none, with a buffer of cap values; *has_cap: the cap that it has. max_bytes: the
 * budget of the buffer from now on, if cap is right; 0: the budget stays, 16 MiB at first. NULL: no memory. */
host_chan *host_chan_open(const char *name, size_t len, double cap, double max_bytes,
                          double *has_cap);
/* The finalizer. */
void host_chan_free(host_chan *h);

/* Sends a value. 0, RT_ECLOSED, -EFBIG: larger than the whole budget, -ENOMEM, -EAGAIN: it would have to wait. */
int host_chan_send(host_chan *h, int type, double number, const void *data, size_t len);

/* Receives a value: returns its type, with its bytes in buf; a value of more than cap bytes stays. RT_ECLOSED,
 * -EAGAIN. */
int host_chan_recv(host_chan *h, void *buf, size_t cap, host_chan_value *v);

/* 1: an operation (of a small value) would not wait now. op: HOST_CHAN_... */
int host_chan_can(host_chan *h, int op);

/* The running G joins the channel, for the wait that lunapark.core.rest then begins; rest answers as for
 * host_queue_join, or nothing if the caller is to try again. index: 1 or more, after host_queue_prepare; 0: the G joins
 * nothing else. 0, -ENOMEM, -EFBIG. */
int host_chan_join_recv(host_chan *h, int index);
int host_chan_join_send(host_chan *h, int index, int type, double number, const void *data,
                        size_t len);

/* Takes the value that a wait of host_chan_join_recv has received: as host_chan_recv. */
int host_chan_take(void *buf, size_t cap, host_chan_value *v);

/* 0, or RT_ECLOSED: the channel was closed before. */
int host_chan_close(host_chan *h);
int host_chan_closed(host_chan *h);

/* The number of values in the buffer. */
double host_chan_len(host_chan *h);

/* The number of channels that have a name. */
int host_chans(void);
/* ffi:end */

#endif
