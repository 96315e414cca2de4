/* Compression of answers: gzip (zlib), brotli, zstd, behind one function.
 *
 * A compressor takes bytes and has bytes to give, in its own buffer, after each call. It may be told to give all that it
 * has (FLUSH), so that a client can read what was written so far, or to end what it compresses (END); then the next call
 * begins anew. zlib and zstd keep their memory for that; brotli has to be made anew, and its blocks are kept here: memory
 * fresh from the kernel costs ten times what a short answer does. The settings keep it small, since an answer that is
 * streamed for an hour holds its compressor for an hour: 0.3 MB for gzip, 0.6 MB and more for brotli, 1.4 MB for zstd.
 *
 * All memory counts for --vm-memory (charge.c): zlib and brotli ask an allocator of ours; zstd is asked how much it has,
 * after the fact, since its allocators are no part of its stable interface. Without memory a call fails and the
 * compressor is of no use any more: the answer then leaves as it is, if it has not begun.
 *
 * libbrotlienc ends the process when it gets no memory. So our allocator does not return then: it jumps out of the
 * library, which holds nothing but blocks of ours; these are freed.
 *
 * Long inputs are compressed on another thread (lp.offload, host/vm/offload.c). So a compressor ends with the last things
 * of its VM, when the calls are over. */
#include "../base/list.h"
#include "../vm/charge.h"
#include "../vm/owned.h"
#include "compress.h"
#include "sys_ffi.h"

#include <brotli/encode.h>
#include <errno.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

enum {
    OUT_MIN = 4096,
    GZIP_WINDOW = 15 + 16, /* 32 KiB; with gzip's head and tail */
    GZIP_MEMORY = 8,       /* 256 KiB in all */
    BROTLI_WINDOW = 18,    /* log2 of bytes, as those that follow */
    ZSTD_WINDOW = 17,
    ZSTD_TABLES = 16,
    SPARE_MAX = 2 << 20,
};

typedef struct compressor {
    host_compressor seen; /* first: what Lua sees; seen.cap: of seen.out */
    host_owned owned;
    vm_charge charge;
    size_t taken;          /* bytes of the allocator's blocks, including spare ones */
    list_head used, spare; /* spare: given back, for the next brotli encoder */
    size_t spare_bytes;
    jmp_buf no_memory; /* of brotli */
    int format, level;
    bool failed;
    union {
        struct {
            z_stream z;
            bool begun; /* deflateInit was called */
        } gzip;
        BrotliEncoderState *brotli; /* NULL: nothing has begun, as below */
        ZSTD_CStream *zstd;
    };
} compressor;

/* ---- memory ---- */

/* Counts what c has: blocks of the allocator, and `more`. */
static bool count(compressor *c, size_t more) {
    return charge_set(&c->charge, sizeof *c + c->taken + c->seen.cap + more);
}

/* In front of each block. */
typedef union block {
    struct {
        list_link link; /* of c->used or c->spare */
        size_t size;    /* without this head */
    };
    max_align_t align;
} block;

static void free_block(compressor *c, block *b) {
    c->taken -= b->size;
    free(b);
    count(c, 0);
}

static void free_spare(compressor *c) {
    for (list_link *l; (l = list_take_first(&c->spare));)
        free_block(c, list_of(l, block, link));
    c->spare_bytes = 0;
}

/* A spare block of about that size. NULL: there is none. */
static block *take_spare(compressor *c, size_t n) {
    for (list_link *l = c->spare.first; l; l = l->next) {
        block *b = list_of(l, block, link);
        if (b->size < n || b->size - n > n / 4) continue;
        list_remove(&c->spare, l);
        c->spare_bytes -= b->size;
        return b;
    }
    return NULL;
}

static block *new_block(compressor *c, size_t n) {
    c->taken += n;
    block *b = count(c, 0) ? malloc(sizeof *b + n) : NULL;
    if (b) {
        b->size = n;
        return b;
    }
    c->taken -= n;
    count(c, 0);
    return NULL;
}

static void *take(void *opaque, size_t n) {
    compressor *c = opaque;
    block *b = n < SIZE_MAX / 2 ? take_spare(c, n) : NULL;
    if (!b && n < SIZE_MAX / 2) b = new_block(c, n);
    if (!b && c->format == HOST_BROTLI) longjmp(c->no_memory, 1);
    if (!b) return NULL;
    list_append(&c->used, &b->link);
    return b + 1;
}

static void give(void *opaque, void *p) {
    compressor *c = opaque;
    if (!p) return;
    block *b = (block *)p - 1;
    list_remove(&c->used, &b->link);
    if (c->format == HOST_BROTLI && c->spare_bytes + b->size <= SPARE_MAX) {
        list_append(&c->spare, &b->link);
        c->spare_bytes += b->size;
    } else {
        free_block(c, b);
    }
}

static void *take_items(void *opaque, unsigned items, unsigned size) {
    return take(opaque, (size_t)items * size);
}

/* Room for more output. */
static bool grow(compressor *c) {
    host_compressor *s = &c->seen;
    size_t had = s->cap, cap = had ? had * 2 : OUT_MIN;
    s->cap = cap;
    uint8_t *out = count(c, 0) ? realloc(s->out, cap) : NULL;
    if (out) {
        s->out = out;
        return true;
    }
    s->cap = had;
    count(c, 0);
    return false;
}

/* ---- gzip ---- */

static bool gzip_begin(compressor *c) {
    if (c->gzip.begun) return true;
    c->gzip.z = (z_stream){.zalloc = take_items, .zfree = give, .opaque = c};
    c->gzip.begun = deflateInit2(&c->gzip.z, c->level, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY,
                                 Z_DEFAULT_STRATEGY) == Z_OK;
    return c->gzip.begun;
}

static int gzip_run(compressor *c, const uint8_t *data, size_t len, int op) {
    static const int flush[] = {Z_NO_FLUSH, Z_SYNC_FLUSH, Z_FINISH};
    z_stream *z = &c->gzip.z;
    if (!gzip_begin(c)) return -ENOMEM;
    z->next_in = (Bytef *)(uintptr_t)data;
    for (;;) {
        if (c->seen.n == c->seen.cap && !grow(c)) return -ENOMEM;
        /* Its counts are of 32 bits. */
        size_t in = len < INT32_MAX ? len : INT32_MAX, room = c->seen.cap - c->seen.n;
        if (room > INT32_MAX) room = INT32_MAX;
        z->avail_in = (uInt)in;
        z->avail_out = (uInt)room;
        z->next_out = c->seen.out + c->seen.n;
        int rc = deflate(z, in < len ? Z_NO_FLUSH : flush[op]);
        len -= in - z->avail_in;
        c->seen.n += room - z->avail_out;
        if (rc == Z_STREAM_END) return deflateReset(z) == Z_OK ? 0 : -ENOMEM;
        if (rc != Z_OK && rc != Z_BUF_ERROR) return -ENOMEM;
        if (len == 0 && z->avail_out > 0 && op != HOST_COMPRESS_END) return 0;
    }
}

/* ---- brotli ---- */

static bool brotli_begin(compressor *c) {
    if (c->brotli) return true;
    c->brotli = BrotliEncoderCreateInstance(take, give, c);
    return c->brotli &&
           BrotliEncoderSetParameter(c->brotli, BROTLI_PARAM_QUALITY, (uint32_t)c->level) &&
           BrotliEncoderSetParameter(c->brotli, BROTLI_PARAM_LGWIN, BROTLI_WINDOW);
}

__attribute__((noinline)) static int brotli_do(compressor *c, const uint8_t *data, size_t len,
                                               int op) {
    static const BrotliEncoderOperation operation[] = {
        BROTLI_OPERATION_PROCESS, BROTLI_OPERATION_FLUSH, BROTLI_OPERATION_FINISH};
    if (!c->brotli && op == HOST_COMPRESS_END && brotli_begin(c)) /* all at once */
        BrotliEncoderSetParameter(c->brotli, BROTLI_PARAM_SIZE_HINT,
                                  len < INT32_MAX ? (uint32_t)len : INT32_MAX);
    if (!brotli_begin(c)) return -ENOMEM;
    do {
        if (c->seen.n == c->seen.cap && !grow(c)) return -ENOMEM;
        size_t room = c->seen.cap - c->seen.n, had = room;
        uint8_t *out = c->seen.out + c->seen.n;
        if (!BrotliEncoderCompressStream(c->brotli, operation[op], &len, &data, &room, &out, NULL))
            return -ENOMEM;
        c->seen.n += had - room;
    } while (len > 0 || BrotliEncoderHasMoreOutput(c->brotli));
    if (op != HOST_COMPRESS_END) return 0;
    BrotliEncoderDestroyInstance(c->brotli);
    c->brotli = NULL;
    return 0;
}

static int brotli_run(compressor *c, const uint8_t *data, size_t len, int op) {
    if (!setjmp(c->no_memory)) return brotli_do(c, data, len, op);
    for (list_link *l; (l = list_take_first(&c->used));)
        free_block(c, list_of(l, block, link));
    c->brotli = NULL;
    return -ENOMEM;
}

/* ---- zstd ---- */

static bool zstd_begin(compressor *c) {
    if (c->zstd) return true;
    c->zstd = ZSTD_createCStream();
    ZSTD_CStream *z = c->zstd;
    return z && !ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, c->level)) &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_windowLog, ZSTD_WINDOW)) &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_hashLog, ZSTD_TABLES)) &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_chainLog, ZSTD_TABLES));
}

static int zstd_run(compressor *c, const uint8_t *data, size_t len, int op) {
    static const ZSTD_EndDirective directive[] = {ZSTD_e_continue, ZSTD_e_flush, ZSTD_e_end};
    if (!zstd_begin(c)) return -ENOMEM;
    ZSTD_inBuffer in = {data, len, 0};
    for (;;) {
        if (c->seen.n == c->seen.cap && !grow(c)) return -ENOMEM;
        ZSTD_outBuffer out = {c->seen.out, c->seen.cap, c->seen.n};
        size_t left = ZSTD_compressStream2(c->zstd, &out, &in, directive[op]);
        if (ZSTD_isError(left)) return -ENOMEM;
        c->seen.n = out.pos;
        bool done = op == HOST_COMPRESS_MORE ? in.pos == in.size : left == 0;
        if (done) return count(c, ZSTD_sizeof_CStream(c->zstd)) ? 0 : -ENOMEM;
    }
}

/* ---- */

static void drop(compressor *c) {
    if (c->format == HOST_GZIP && c->gzip.begun) deflateEnd(&c->gzip.z);
    if (c->format == HOST_BROTLI && c->brotli) BrotliEncoderDestroyInstance(c->brotli);
    if (c->format == HOST_ZSTD) ZSTD_freeCStream(c->zstd);
}

static void end(host_owned *o) {
    compressor *c = list_of(o, compressor, owned);
    drop(c);
    free_spare(c);
    free(c->seen.out);
    charge_set(&c->charge, 0);
    free(c);
}

static const owned_kind compressor_kind = {OWNED_REMAINS, end};

host_compressor *host_compressor_new(int format, int level) {
    if (format < HOST_GZIP || format > HOST_ZSTD) return NULL;
    compressor *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->format = format;
    c->level = level;
    charge_begin(&c->charge);
    if (!count(c, 0)) {
        free(c);
        return NULL;
    }
    owned_take(&c->owned, &compressor_kind);
    return &c->seen;
}

int host_compress(host_compressor *s, const char *data, size_t len, int op) {
    compressor *c = (compressor *)s;
    s->n = 0;
    if (op < HOST_COMPRESS_MORE || op > HOST_COMPRESS_END) return -EINVAL;
    if (c->failed) return -ENOMEM;
    const uint8_t *bytes = (const uint8_t *)data;
    int rc = c->format == HOST_GZIP     ? gzip_run(c, bytes, len, op)
             : c->format == HOST_BROTLI ? brotli_run(c, bytes, len, op)
                                        : zstd_run(c, bytes, len, op);
    c->failed = rc < 0;
    return rc;
}

void host_compressor_free(host_compressor *s) {
    owned_free(&((compressor *)s)->owned);
}

void compress_versions(char *buf, size_t size) {
    uint32_t b = BrotliEncoderVersion();
    snprintf(buf, size, "zlib %s\nbrotli %u.%u.%u\nzstd %s\n", zlibVersion(), b >> 24,
             b >> 12 & 0xfff, b & 0xfff, ZSTD_versionString());
}
