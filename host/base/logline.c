/* A line of the log, as text or as JSON:
 *
 *     2024-05-06T07:08:09.123Z info it works key=value other="two words"
 *     {"time":"2024-05-06T07:08:09.123Z","level":"info","msg":"it works","key":"value","other":"two words"}
 *
 * Whatever is logged, a line stays one line, and its content cannot forge another line: content comes from clients. In
 * JSON all unprintable characters are escaped. In text the lines of a message (a traceback) stay. Each line after the
 * first begins with a tab, which no line of the log does; the pairs stand on the first. Other control characters are
 * written as \x1b or \u009b, which a terminal does not obey. Bytes that are no UTF-8 are written as \xff, in JSON as
 * U+FFFD.
 *
 * A line, a value and a key have a largest length. A cut text says so. The last pair, "left_out", counts the pairs that
 * have no room.
 */
#include "logline.h"

#include "utf8.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    KEY_MAX = 128,
    MESSAGE_MAX = 12288,
    TAIL = 128, /* room for what ends a line */
    STEP = 8,   /* the longest that one character becomes */
    MARK = 40,  /* "... (123 bytes more)" */
};

/* Whole numbers up to this one are all doubles. */
#define EXACT 9007199254740992.0

/* How a string is written. */
typedef enum style {
    MESSAGE, /* text: lines stay */
    QUOTED,  /* text: between quotes */
    JSON,
} style;

typedef struct line {
    char *s;
    size_t n;
} line;

static void put(line *l, const char *s, size_t n) {
    memcpy(l->s + l->n, s, n);
    l->n += n;
}

#define PUT(l, literal) put(l, literal, sizeof(literal) - 1)

/* ---- characters ---- */

/* Printable ASCII but for quotes and backslashes. */
static const bool plain[256] = {
    [0x20 ... '"' - 1] = true, ['"' + 1 ... '\\' - 1] = true, ['\\' + 1 ... 0x7e] = true};

static bool is_plain(unsigned char c) {
    return plain[c];
}

static void put_hex(line *l, const char *prefix, unsigned c, int digits) {
    static const char hex[] = "0123456789abcdef";
    put(l, prefix, 2);
    while (digits-- > 0)
        l->s[l->n++] = hex[c >> (4 * digits) & 15];
}

/* One of the characters below 0x80 that are not plain. */
static void put_ascii(line *l, char c, style how) {
    if (how == MESSAGE && (c == '"' || c == '\\' || c == '\t')) {
        l->s[l->n++] = c;
    } else if (how == MESSAGE && c == '\n') {
        PUT(l, "\n\t");
    } else if (c == '"' || c == '\\') {
        l->s[l->n++] = '\\';
        l->s[l->n++] = c;
    } else if (c == '\n' || c == '\t' || c == '\r') {
        l->s[l->n++] = '\\';
        l->s[l->n++] = c == '\n' ? 'n' : c == '\t' ? 't' : 'r';
    } else if (how == JSON) {
        put_hex(l, "\\u", (unsigned char)c, 4);
    } else {
        put_hex(l, "\\x", (unsigned char)c, 2);
    }
}

/* The character that s begins with: how many bytes it took. */
static size_t put_character(line *l, const char *s, size_t n, style how) {
    unsigned c;
    if ((unsigned char)*s < 0x80) {
        put_ascii(l, *s, how);
        return 1;
    }
    int len = utf8_sequence((const unsigned char *)s, n, &c);
    if (len == 0 && how == JSON)
        PUT(l, "\\ufffd");
    else if (len == 0)
        put_hex(l, "\\x", (unsigned char)*s, 2);
    else if (c < 0xa0 || c == 0x2028 || c == 0x2029) /* controls, and ends of lines to some */
        put_hex(l, "\\u", c, 4);
    else
        put(l, s, (size_t)len);
    return len ? (size_t)len : 1;
}

/* At most `max` bytes come of it, MARK of which for saying that it was cut. */
static void put_string(line *l, const char *s, size_t n, style how, size_t max) {
    size_t end = l->n + max - MARK;
    for (size_t i = 0; i < n;) {
        size_t run = i;
        while (run < n && is_plain((unsigned char)s[run]))
            run++;
        run -= i;
        if (run > end - l->n) run = end - l->n;
        put(l, s + i, run);
        i += run;
        if (i == n) return;
        if (l->n + STEP > end) {
            l->n += (size_t)snprintf(l->s + l->n, MARK, "... (%zu bytes more)", n - i);
            return;
        }
        if (!is_plain((unsigned char)s[i])) i += put_character(l, s + i, n - i, how);
    }
}

/* ---- values ---- */

static void put_quoted(line *l, const char *s, size_t n, style how, size_t max) {
    l->s[l->n++] = '"';
    put_string(l, s, n, how, max);
    l->s[l->n++] = '"';
}

/* A word stands in text without quotes. */
static void put_word(line *l, const char *s, size_t n, size_t max) {
    bool bare = n > 0 && n < max - MARK - STEP;
    for (size_t i = 0; bare && i < n; i++)
        bare = is_plain((unsigned char)s[i]) && s[i] != ' ' && s[i] != '=';
    if (bare)
        put(l, s, n);
    else
        put_quoted(l, s, n, QUOTED, max);
}

static void put_integer(line *l, int64_t i) {
    char digits[24];
    int at = sizeof digits;
    uint64_t n = i < 0 ? -(uint64_t)i : (uint64_t)i;
    do
        digits[--at] = (char)('0' + n % 10);
    while (n /= 10);
    if (i < 0) digits[--at] = '-';
    put(l, digits + at, sizeof digits - (size_t)at);
}

/* As Lua prints it. */
static void put_number(line *l, double v, int format) {
    if (isnan(v) || isinf(v)) { /* JSON has no words for them */
        const char *word = isnan(v) ? "nan" : v < 0 ? "-inf" : "inf";
        if (format == LOG_JSON)
            put_quoted(l, word, strlen(word), JSON, LOG_VALUE_MAX);
        else
            put(l, word, strlen(word));
        return;
    }
    if (v >= -EXACT && v <= EXACT && v == (double)(int64_t)v) {
        put_integer(l, (int64_t)v);
        return;
    }
    char buf[40];
    int n = snprintf(buf, sizeof buf, "%.14g", v);
    for (int i = 0; i < n; i++) /* the locale's decimal point */
        if (buf[i] == ',') buf[i] = '.';
    put(l, buf, (size_t)n);
}

static void put_value(line *l, const host_log_pair *p, int format) {
    if (p->kind == HOST_LOG_NUMBER)
        put_number(l, p->number, format);
    else if (p->kind == HOST_LOG_JSON)
        put(l, p->text, p->text_len);
    else if (format == LOG_JSON)
        put_quoted(l, p->text, p->text_len, JSON, LOG_VALUE_MAX);
    else
        put_word(l, p->text, p->text_len, LOG_VALUE_MAX);
}

/* The keys that the line itself has. */
static bool is_taken(const char *key, size_t n) {
    static const char *const taken[] = {"time", "level", "msg"};
    for (int i = 0; i < 3; i++)
        if (strlen(taken[i]) == n && memcmp(taken[i], key, n) == 0) return true;
    return false;
}

static void put_pair(line *l, const host_log_pair *p, int format) {
    if (format == LOG_JSON) {
        PUT(l, ",\"");
        if (is_taken(p->key, p->key_len)) PUT(l, "fields.");
        put_string(l, p->key, p->key_len, JSON, KEY_MAX);
        PUT(l, "\":");
    } else {
        PUT(l, " ");
        put_word(l, p->key, p->key_len, KEY_MAX);
        PUT(l, "=");
    }
    put_value(l, p, format);
}

/* Bytes that a value may become at most. */
static size_t room_for(const host_log_pair *p) {
    size_t value = LOG_VALUE_MAX;
    if (p->kind == HOST_LOG_NUMBER) value = 40;
    if (p->kind == HOST_LOG_JSON) value = p->text_len;
    if (p->kind == HOST_LOG_STRING && (size_t)p->text_len * STEP < value)
        value = (size_t)p->text_len * STEP;
    return value + KEY_MAX + MARK + 16;
}

static void put_pairs(line *l, const host_log_pair *pairs, int n, int format, size_t end) {
    int left_out = 0;
    for (int i = 0; i < n; i++) {
        if (l->n + room_for(&pairs[i]) > end)
            left_out++;
        else
            put_pair(l, &pairs[i], format);
    }
    if (left_out)
        put_pair(l,
                 &(host_log_pair){
                     .key = "left_out", .key_len = 8, .kind = HOST_LOG_NUMBER, .number = left_out},
                 format);
}

/* ---- lines ---- */

/* "2024-05-06T07:08:09", made anew when the second changes. One per thread, so nothing is shared. */
static __thread struct {
    time_t second;
    char text[20];
} clock_text;

static void put_time(line *l) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec != clock_text.second) {
        struct tm tm;
        gmtime_r(&now.tv_sec, &tm);
        strftime(clock_text.text, sizeof clock_text.text, "%Y-%m-%dT%H:%M:%S", &tm);
        clock_text.second = now.tv_sec;
    }
    put(l, clock_text.text, strlen(clock_text.text));
    int ms = (int)(now.tv_nsec / 1000000);
    const char tail[] = {'.', (char)('0' + ms / 100), (char)('0' + ms / 10 % 10),
                         (char)('0' + ms % 10), 'Z'};
    put(l, tail, sizeof tail);
}

size_t logline_format(char *buf, int format, int level, const char *msg, size_t len,
                      const host_log_pair *pairs, int n) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    size_t end = LOG_LINE_MAX - TAIL;
    line l = {.s = buf};
    while (len > 0 && msg[len - 1] == '\n')
        len--;
    if (format == LOG_JSON) {
        PUT(&l, "{\"time\":\"");
        put_time(&l);
        PUT(&l, "\",\"level\":\"");
        put(&l, names[level], strlen(names[level]));
        PUT(&l, "\",\"msg\":");
        put_quoted(&l, msg, len, JSON, MESSAGE_MAX);
        put_pairs(&l, pairs, n, format, end);
        PUT(&l, "}\n");
        return l.n;
    }
    put_time(&l);
    PUT(&l, " ");
    put(&l, names[level], strlen(names[level]));
    PUT(&l, " ");
    const char *lines = n > 0 ? memchr(msg, '\n', len) : NULL;
    size_t first = lines ? (size_t)(lines - msg) : len;
    put_string(&l, msg, first, MESSAGE, MESSAGE_MAX);
    put_pairs(&l, pairs, n, format, end);
    size_t room = l.n < end ? end - l.n : 0;
    if (lines && room > 2 * MARK)
        put_string(&l, lines, len - first, MESSAGE, room < MESSAGE_MAX ? room : MESSAGE_MAX);
    PUT(&l, "\n");
    return l.n;
}

size_t logline_escape(char *to, const char *s, size_t n, int format, size_t max) {
    line l = {.s = to};
    put_string(&l, s, n, format == LOG_JSON ? JSON : QUOTED, max);
    return l.n;
}

size_t logline_time(char *to) {
    line l = {.s = to};
    put_time(&l);
    return l.n;
}

int host_log_quote(const char *s, size_t len, char *buf, size_t cap) {
    line l = {.s = buf};
    put_quoted(&l, s, len, JSON, cap - 2);
    return (int)l.n;
}
