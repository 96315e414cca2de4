/* Changes of a dict as records of its file (dict_file.c).
 *
 * A record says what a key has after the change, not what was added to it. So a record may be applied twice, and records
 * that are applied in their order, to entries of any moment since the first of them, give the entries of the last
 * moment. Times to expire are of the clock on the wall in the file, and of rt_nanotime in entries.
 *
 * The checksum (CRC-32, zlib's) covers all of a record. A record that was not written whole, as the last one of a
 * process that was killed, has another checksum or ends behind the file's end.
 */
#include "dict_record.h"

#include "../../runtime/runtime.h"
#include "../base/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

static int64_t wall_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * NS_PER_SEC + t.tv_nsec;
}

/* `ns` of one clock as that of another: never 0, which means never. */
static int64_t translate(int64_t ns, int64_t now, int64_t other_now) {
    if (ns == 0 || ns == INT64_MAX) return ns;
    int64_t other = ns - now + other_now;
    return other == 0 ? 1 : other;
}

static uint32_t checksum(const dict_record_head *h, const char *bytes, size_t n) {
    const Bytef *from = (const Bytef *)h + sizeof h->crc;
    uLong crc = crc32_z(0, from, sizeof *h - sizeof h->crc);
    return (uint32_t)crc32_z(crc, (const Bytef *)bytes, n);
}

dict_record *dict_record_new(int op, const char *key, size_t key_len, const void *data,
                             size_t len) {
    dict_record *r = malloc(sizeof *r + key_len + len);
    if (!r) return NULL;
    r->head =
        (dict_record_head){.op = (uint16_t)op, .key_len = (uint32_t)key_len, .len = (uint32_t)len};
    if (key_len) memcpy(r->bytes, key, key_len);
    if (len) memcpy(r->bytes + key_len, data, len);
    return r;
}

void dict_record_fill(dict_record *r, int type, double number, int64_t expires_ns) {
    r->head.type = (uint16_t)type;
    r->head.number = number;
    r->head.expires_ns = expires_ns ? translate(expires_ns, dict_now(), wall_now()) : 0;
}

size_t dict_record_size(const dict_record *r) {
    return sizeof r->head + r->head.key_len + r->head.len;
}

void dict_record_seal(dict_record *r) {
    r->head.crc = checksum(&r->head, r->bytes, (size_t)r->head.key_len + r->head.len);
}

/* ---- reading ---- */

static int apply(host_dict *d, const dict_record_head *h, const char *bytes) {
    int64_t wall = h->expires_ns ? wall_now() : 0;
    int64_t expires_ns = translate(h->expires_ns, wall, rt_nanotime());
    bool gone = h->op == RECORD_DELETE || (h->expires_ns && h->expires_ns <= wall);
    dict_entry *e = NULL;
    if (!gone && h->op == RECORD_PUT) {
        e = dict_entry_new(bytes, h->key_len, h->type, h->number, bytes + h->key_len, h->len);
        if (!e) return -ENOMEM;
    }
    dict_lookup l;
    dict_entry *old = dict_enter(d, bytes, h->key_len, &l);
    if (e) {
        dict_put_in(d, &l, e);
        e->version = ++l.s->version;
        e->expires_ns = expires_ns;
    } else if (old && gone) {
        dict_take_out(d, &l);
    } else if (old) {
        old->expires_ns = expires_ns;
    }
    dict_leave(&l);
    return 0;
}

int64_t dict_records_apply(host_dict *d, const char *text, size_t len) {
    size_t at = 0;
    dict_record_head h;
    while (len - at >= sizeof h) {
        memcpy(&h, text + at, sizeof h);
        const char *bytes = text + at + sizeof h;
        uint64_t n = (uint64_t)h.key_len + h.len;
        bool whole = n <= len - at - sizeof h && h.op >= RECORD_PUT && h.op <= RECORD_EXPIRE &&
                     h.type <= HOST_TABLE && h.crc == checksum(&h, bytes, n);
        if (!whole) break;
        int err = apply(d, &h, bytes);
        if (err) return err;
        at += sizeof h + n;
    }
    return (int64_t)at;
}

/* ---- entries as records ---- */

size_t dict_records_of(const dict_entry *e, char *buf, size_t used, size_t cap, size_t *need) {
    for (; e; e = e->next) {
        size_t n = e->key_len + e->len, end = used + sizeof(dict_record_head) + n;
        if (end <= cap) {
            dict_record_head h = {.op = RECORD_PUT,
                                  .type = (uint16_t)e->type,
                                  .key_len = e->key_len,
                                  .len = (uint32_t)e->len,
                                  .number = e->number,
                                  .expires_ns =
                                      translate(e->expires_ns, rt_nanotime(), wall_now())};
            h.crc = checksum(&h, e->bytes, n);
            memcpy(buf + used, &h, sizeof h);
            memcpy(buf + used + sizeof h, e->bytes, n);
        }
        used = end;
    }
    *need = used;
    return used <= cap ? used : 0;
}
