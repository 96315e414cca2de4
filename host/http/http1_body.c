/* HTTP/1 requests: the body, by its length or in chunks (RFC 9112, 6 and 7), with what may come behind chunks: trailers.
 *
 * The bytes of a body may be handed over cut anywhere, and are not kept, but for those that the handler asked for. So the
 * decoder has a state for each place between two bytes of a chunk's line. Trailers alone are kept until all are there, since
 * they are checked as the fields of a head are.
 *
 * Sizes, extensions and trailers may not outweigh what they carry without limit (OVERHEAD). */
#include "http1.h"

#include "../base/chars.h"
#include "method.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Where in the body the next byte stands. */
enum {
    SIZE_FIRST,  /* the first digit of a chunk's size */
    SIZE,        /* a further digit, or what ends it */
    EXT,         /* behind a size or an extension: ';' or CR; spaces come before ';' alone */
    EXT_SPACED,  /* there, behind a space */
    EXT_NAME0,   /* behind ';' */
    EXT_NAME,    /* within the name */
    EXT_EQ,      /* behind the name and a space */
    EXT_VALUE0,  /* behind '=' */
    EXT_VALUE,   /* within a token */
    EXT_QUOTED,  /* within "..." */
    EXT_ESCAPED, /* there, behind a backslash */
    SIZE_LF,     /* behind the CR of the size's line */
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILERS, /* behind the last chunk's line */
};

enum { OVERHEAD = 16 }; /* bytes around each byte of the body, beyond --max-head in all */

struct host_trailers {
    uint32_t len, cap;
    uint32_t line; /* where the one that is not whole begins */
    uint32_t n;    /* lines before it */
    char bytes[];
};

/* ---- a chunk's line ---- */

/* What may follow a size, an extension's name, or its value: the state behind c; -1: nothing of that. */
static int after_part(char c, bool spaced) {
    if (c == ';') return EXT_NAME0;
    if (char_is_blank(c)) return EXT_SPACED;
    return c == '\r' && !spaced ? SIZE_LF : -1;
}

/* Reads a byte of an extension: the state behind it, or -1. */
static int read_ext(int state, char c) {
    bool token = method_token[(uint8_t)c];
    switch (state) {
    case EXT:
    case EXT_SPACED:
        return after_part(c, state == EXT_SPACED);
    case EXT_NAME0:
        return token ? EXT_NAME : char_is_blank(c) ? EXT_NAME0 : -1;
    case EXT_NAME:
        if (token) return EXT_NAME;
        if (c == '=') return EXT_VALUE0;
        return char_is_blank(c) ? EXT_EQ : after_part(c, false);
    case EXT_EQ:
        return c == '=' ? EXT_VALUE0 : char_is_blank(c) ? EXT_EQ : after_part(c, true);
    case EXT_VALUE0:
        return token ? EXT_VALUE : c == '"' ? EXT_QUOTED : char_is_blank(c) ? EXT_VALUE0 : -1;
    case EXT_VALUE:
        return token ? EXT_VALUE : after_part(c, false);
    case EXT_QUOTED:
        if (c == '"') return EXT;
        if (c == '\\') return EXT_ESCAPED;
        return ((uint8_t)c >= ' ' && c != 0x7f) || c == '\t' ? EXT_QUOTED : -1;
    default: /* EXT_ESCAPED */
        return ((uint8_t)c >= ' ' && c != 0x7f) || c == '\t' ? EXT_QUOTED : -1;
    }
}

/* Reads a byte of the line before a chunk's data. 0 or -EPROTO. */
static int read_size(host_exchange *x, char c) {
    int digit = char_hex(c);
    switch (x->place) {
    case SIZE_FIRST:
        if (digit < 0) return -EPROTO;
        x->chunk_left = (uint64_t)digit;
        x->place = SIZE;
        return 0;
    case SIZE:
        if (digit >= 0) {
            if (x->chunk_left >> 58) return -EPROTO;
            x->chunk_left = x->chunk_left << 4 | (uint64_t)digit;
            return 0;
        }
        x->place = EXT;
        break;
    case SIZE_LF:
        if (c != '\n') return -EPROTO;
        x->place = x->chunk_left ? DATA : TRAILERS;
        return 0;
    default:
        break;
    }
    int next = read_ext(x->place, c);
    if (next < 0) return -EPROTO;
    x->place = (uint8_t)next;
    return 0;
}

/* ---- trailers, which have the limits of a head ---- */

static int64_t max_head(const host_exchange *x) {
    return x->server->listener.limits->max_head;
}

static int keep_trailers(host_exchange *x, const char *s, size_t n) {
    struct host_trailers *t = x->trailers;
    uint32_t len = t ? t->len : 0;
    if (!t || t->cap - len < n) {
        uint32_t cap = t ? t->cap * 2 : 256;
        while (cap < len + n)
            cap *= 2;
        struct host_trailers *grown = realloc(t, sizeof *t + cap);
        if (!grown) return -ENOMEM;
        if (!t) *grown = (struct host_trailers){0};
        grown->cap = cap;
        x->trailers = t = grown;
    }
    memcpy(t->bytes + len, s, n);
    t->len += (uint32_t)n;
    return 0;
}

/* Reads the lines that are whole. 1: the last was empty; 0; -EPROTO. */
static int read_trailers(host_exchange *x) {
    struct host_trailers *t = x->trailers;
    const char *at = t->bytes + t->line, *end = t->bytes + t->len;
    while (at < end) {
        http1_line f;
        int rc = 1;
        if (*at == '\r') {
            if (at + 1 == end) return 0;
            if (at[1] != '\n') return -EPROTO;
            t->len = (uint32_t)(at + 2 - t->bytes);
            return 1;
        }
        rc = http1_field(&at, end, &f);
        if (rc <= 0) return rc < 0 ? -EPROTO : 0;
        if (++t->n > x->server->listener.limits->max_headers) return -EPROTO;
        t->line = (uint32_t)(at - t->bytes);
    }
    return 0;
}

/* Takes the trailers of data[0 .. len). *used: how many bytes. 1: they are over; 0; -EPROTO, -ENOMEM. */
static int take_trailers(host_exchange *x, const char *data, size_t len, size_t *used) {
    if (!x->trailers && len >= 2 && data[0] == '\r' && data[1] == '\n') { /* as a rule */
        *used = 2;
        return 1;
    }
    uint32_t before = x->trailers ? x->trailers->len : 0;
    int64_t room = max_head(x) - (int64_t)before; /* the limit may be lower by now */
    if (room <= 0) return -EPROTO;
    size_t most =
        (size_t)room < len ? (size_t)room : len; /* behind them another request may stand */
    int rc = keep_trailers(x, data, most);
    if (rc == 0) rc = read_trailers(x);
    *used = rc > 0 ? x->trailers->len - before : most;
    if (rc > 0) x->trailers->len = x->trailers->line; /* without the empty line */
    return rc;
}

const char *http1_trailers(const host_exchange *x, size_t *n) {
    *n = x->trailers && x->message_done ? x->trailers->len : 0;
    return *n ? x->trailers->bytes : NULL;
}

/* ---- the body ---- */

static void finish(host_exchange *x) {
    x->message_done = true;
    x->req.body_complete = 1;
}

/* n bytes of the body itself. */
static int take_data(host_exchange *x, const char *data, size_t n, bool keep) {
    x->body_seen += n;
    return keep ? exchange_keep_body(x, data, n) : 0;
}

static int by_length(host_exchange *x, const char *data, size_t len, bool keep, size_t *used) {
    size_t left = (size_t)x->req.content_length - x->body_seen;
    *used = len < left ? len : left;
    int rc = 0;
    if (keep && *used == left && !x->req.body && data == x->in + x->in_pos) {
        x->body_seen += left;
        exchange_body_in(x, left);
    } else {
        rc = take_data(x, data, *used, keep);
    }
    if (rc == 0 && *used == left) finish(x);
    return rc;
}

/* Whether the chunk that begins makes the body longer than it may be. */
static bool is_too_long(const host_exchange *x) {
    uint64_t max = (uint64_t)x->server->listener.limits->max_body;
    return x->chunk_left > max || x->body_seen > max - x->chunk_left;
}

/* Takes one part of data[0 .. len), len > 0: a piece of a chunk, all trailers that are there, or a byte. */
static int chunk_part(host_exchange *x, const char *data, size_t len, bool keep, size_t *used) {
    int rc = 0;
    *used = 1;
    switch (x->place) {
    case DATA:
        *used = len < x->chunk_left ? len : (size_t)x->chunk_left;
        if ((rc = take_data(x, data, *used, keep)) < 0) return rc;
        x->chunk_left -= *used;
        if (x->chunk_left == 0) x->place = DATA_CR;
        return 0;
    case DATA_CR:
        x->place = DATA_LF;
        rc = *data == '\r' ? 0 : -EPROTO;
        break;
    case DATA_LF:
        x->place = SIZE_FIRST;
        rc = *data == '\n' ? 0 : -EPROTO;
        break;
    case TRAILERS:
        rc = take_trailers(x, data, len, used);
        if (rc > 0) finish(x);
        break;
    default:
        rc = read_size(x, *data);
        if (rc == 0 && x->place == DATA && is_too_long(x)) rc = -EMSGSIZE;
        break;
    }
    x->raw_seen += *used;
    if (rc >= 0 && x->raw_seen > (size_t)max_head(x) + OVERHEAD * x->body_seen) return -EPROTO;
    return rc < 0 ? rc : 0;
}

/* 1, 0, or -errno as http1_body; *used: how many of the bytes it took. */
static int read_body(host_exchange *x, const char *data, size_t len, bool keep, size_t *used) {
    int rc = 0;
    *used = 0;
    if (!x->is_chunked) {
        rc = by_length(x, data, len, keep, used);
        return rc < 0 ? rc : x->message_done;
    }
    while (rc == 0 && *used < len && !x->message_done) {
        size_t n;
        rc = chunk_part(x, data + *used, len - *used, keep, &n);
        *used += n;
    }
    return rc < 0 ? rc : x->message_done;
}

int http1_body(host_exchange *x, bool keep) {
    size_t used;
    int rc = read_body(x, x->in + x->in_pos, x->in_end - x->in_pos, keep, &used);
    x->in_pos += (uint32_t)used;
    if (rc > 0) http1_skip_lines(x);
    return rc;
}

int http1_body_of(host_exchange *x, const char *data, size_t len, bool keep) {
    size_t used;
    int rc = read_body(x, data, len, keep, &used);
    if (rc < 0) return rc;
    while (rc > 0 && used < len && (data[used] == '\r' || data[used] == '\n'))
        used++;
    x->in_pos = x->in_end = x->head_end;
    if (used < len && exchange_keep(x, data + used, len - used) < 0) return -ENOMEM;
    return rc;
}
