/* Where the parts of a multipart body (RFC 2046, 5.1.1) end, found in the bytes that have come so far.
 *
 * A delimiter is a line: CRLF "--" boundary, blanks, CRLF; the last one has "--" behind the boundary, and may end with
 * the body. Bytes that begin like a delimiter and go on otherwise are data: the boundary of a nested body may begin
 * with the boundary around it. A delimiter may be cut anywhere: then the bytes in front of its beginning are data for
 * sure, and the caller asks again when more bytes have come.
 *
 * The delimiter has a CR at its beginning only (multipart.lua sees to that). So a delimiter that is cut can begin only
 * at a CR among the last bytes, and a search goes on behind the bytes that looked like one. The caller takes the data
 * before it asks again, so each byte is looked at a bounded number of times, however small the pieces are. */
#include "http_ffi.h"

#include <stdbool.h>
#include <string.h>

enum { BLANKS_MAX = 64 }; /* behind a boundary */

/* What follows a boundary at buf[at]: a kind, with its end in *stop; -1: data. */
static int behind(const uint8_t *buf, size_t len, size_t at, bool whole, uint32_t *stop) {
    bool dashes = len - at >= 2 && buf[at] == '-' && buf[at + 1] == '-';
    if (!dashes && len - at == 1 && buf[at] == '-') return whole ? -1 : HOST_MULTIPART_MORE;
    if (dashes) at += 2;
    for (size_t last = at + BLANKS_MAX; at < len && (buf[at] == ' ' || buf[at] == '\t'); at++)
        if (at == last) return -1;
    *stop = (uint32_t)at;
    if (at == len && whole) return dashes ? HOST_MULTIPART_LAST : -1;
    if (at == len || (buf[at] == '\r' && at + 1 == len)) return whole ? -1 : HOST_MULTIPART_MORE;
    if (buf[at] != '\r' || buf[at + 1] != '\n') return -1;
    *stop = (uint32_t)at + 2;
    return dashes ? HOST_MULTIPART_LAST : HOST_MULTIPART_PART;
}

/* The body may begin with a boundary, without the CRLF. */
static int at_start(const uint8_t *buf, size_t len, const char *delimiter, size_t n, bool whole,
                    uint32_t *stop) {
    size_t has = len < n - 2 ? len : n - 2;
    if (memcmp(buf, delimiter + 2, has) != 0) return -1;
    if (has < n - 2) return whole ? -1 : HOST_MULTIPART_MORE;
    return behind(buf, len, has, whole, stop);
}

/* Where in buf[from .. len) a delimiter begins of which the end is missing; else len. */
static size_t cut_at(const uint8_t *buf, size_t from, size_t len, const char *delimiter, size_t n) {
    size_t at = len - from < n ? from : len - n + 1;
    while (at < len && !(buf[at] == '\r' && memcmp(buf + at, delimiter, len - at) == 0))
        at++;
    return at;
}

int host_multipart_find(const uint8_t *buf, size_t len, const char *delimiter, size_t n, int flags,
                        host_multipart *found) {
    bool whole = flags & HOST_MULTIPART_WHOLE;
    found->at = 0;
    if (len == 0 || n < 4) return HOST_MULTIPART_MORE;
    if (len > UINT32_MAX / 2) len = UINT32_MAX / 2;
    if (flags & HOST_MULTIPART_START) {
        int kind = at_start(buf, len, delimiter, n, whole, &found->stop);
        if (kind >= 0) return kind;
    }
    for (size_t from = 0;;) {
        const uint8_t *p = len > from ? memmem(buf + from, len - from, delimiter, n) : NULL;
        if (!p) {
            found->at = (uint32_t)(whole ? len : cut_at(buf, from, len, delimiter, n));
            return HOST_MULTIPART_MORE;
        }
        int kind = behind(buf, len, (size_t)(p - buf) + n, whole, &found->stop);
        if (kind >= 0) {
            found->at = (uint32_t)(p - buf);
            return kind;
        }
        from = (size_t)(p - buf) + n;
    }
}

int host_multipart_head(const uint8_t *buf, size_t len) {
    if (len < 2) return 0;
    if (buf[0] == '\r' && buf[1] == '\n') return 2;
    if (len > INT32_MAX) len = INT32_MAX;
    const uint8_t *p = memmem(buf, len, "\r\n\r\n", 4);
    return p ? (int)(p - buf) + 4 : 0;
}
