/* What a client has got: a strict reader of HTTP/1.1 answers, and the words that tell whose they are.
 *
 * A word (marker) is "Mk" and 16 hex digits: the script's number, the client's, a number that grows with each word of
 * that client, and a sum over these. An app that repeats what it was sent repeats words, so one that comes to another
 * client, or after a script's end, or in an answer before or after its own, shows that something has leaked. The fuzzer
 * copies bytes of answers into scripts now and then: a word that stands in the script itself, also with orders between
 * its bytes, says nothing.
 *
 * Whether an answer is one to HEAD the head alone does not tell. The app's answers do, by X-Method. For others, of C, a
 * Content-Length behind which nothing comes, or the next answer, is one to HEAD: no body of the app's begins with
 * "HTTP/1.".
 */
#include "play.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static uint32_t script_number;

void answers_next_script(void) {
    script_number++;
}

/* ---- words ---- */

static uint64_t sum_of(uint64_t word) {
    word = (word >> 16) * UINT64_C(0x9e3779b97f4a7c15);
    return (word ^ word >> 32) >> 8 & 0xffff;
}

void answers_mark(client *c, char *to) {
    char text[MARKER_SIZE + 1];
    uint64_t word = (uint64_t)script_number << 32 | (uint64_t)c->number << 28 |
                    (uint64_t)(++c->markers & 0xfff) << 16;
    snprintf(text, sizeof text, "Mk%016llx", (unsigned long long)(word | sum_of(word)));
    memcpy(to, text, MARKER_SIZE);
}

/* The word that stands there, or 0. */
static uint64_t word_at(const char *s) {
    uint64_t word = 0;
    for (int i = 2; i < MARKER_SIZE; i++) {
        const char *hex = "0123456789abcdef", *at = s[i] ? strchr(hex, s[i]) : NULL;
        if (!at) return 0;
        word = word << 4 | (uint64_t)(at - hex);
    }
    return (word & 0xffff) == sum_of(word) ? word : 0;
}

/* Does the script have these bytes, with or without orders (0xff and a byte) between them? */
static bool stands_in(const uint8_t *input, size_t size, const char *word) {
    for (size_t i = 0; i + MARKER_SIZE <= size; i++) {
        size_t k = 0;
        for (size_t j = i; j < size && k < MARKER_SIZE;) {
            if (input[j] == 0xff)
                j += 2;
            else if (input[j++] == (uint8_t)word[k])
                k++;
            else
                break;
        }
        if (k == MARKER_SIZE) return true;
    }
    return false;
}

/* Looks at the words in s[0 .. n), all of one answer. *last: the highest number in those before; then in this too. */
static bool words_are_right(const client *c, const char *s, size_t n, const uint8_t *input,
                            size_t size, uint32_t *last, answers *a) {
    uint32_t highest = *last;
    for (const char *end = s + n;
         (s = memmem(s, (size_t)(end - s), "Mk", 2)) && end - s >= MARKER_SIZE; s++) {
        uint64_t word = word_at(s);
        if (word == 0 || (input && stands_in(input, size, s))) continue;
        uint32_t script = (uint32_t)(word >> 32), number = word >> 28 & 15,
                 nth = word >> 16 & 0xfff;
        if (script != script_number || (int)number != c->number || nth <= *last) {
            snprintf(a->wrong, sizeof a->wrong,
                     "%.18s is word %u of client %u, %u scripts ago, but came after word %u of "
                     "client %d",
                     s, nth, number, script_number - script, *last, c->number);
            return false;
        }
        if (nth > highest) highest = nth;
    }
    *last = highest;
    return true;
}

/* ---- heads ---- */

typedef struct head {
    int status;
    int64_t length; /* -1: not said */
    bool chunked, closes, to_head, knows_method;
} head;

static bool is_token(char c) {
    return c > ' ' && c < 127 && !strchr("\"(),/:;<=>?@[\\]{}", c);
}

static bool is(const char *s, size_t n, const char *what) {
    return n == strlen(what) && strncasecmp(s, what, n) == 0;
}

/* One header line. NULL, or what is wrong with it. */
static const char *read_header(const char *s, size_t n, head *h) {
    const char *colon = memchr(s, ':', n), *value;
    if (!colon || colon == s) return "a header without a name";
    size_t name_n = (size_t)(colon - s);
    for (size_t i = 0; i < name_n; i++)
        if (!is_token(s[i])) return "a header's name that is no token";
    for (value = colon + 1; value < s + n && *value == ' ';)
        value++;
    size_t value_n = (size_t)(s + n - value);
    for (size_t i = 0; i < value_n; i++)
        if ((unsigned char)value[i] < ' ' && value[i] != '\t')
            return "a control character in a header";
    if (is(s, name_n, "content-length")) {
        if (h->length >= 0) return "two Content-Lengths";
        if (value_n == 0 || value_n > 12 || strspn(value, "0123456789") < value_n)
            return "a bad Content-Length";
        h->length = strtoll(value, NULL, 10);
    } else if (is(s, name_n, "transfer-encoding")) {
        if (h->chunked || !is(value, value_n, "chunked")) return "a bad Transfer-Encoding";
        h->chunked = true;
    } else if (is(s, name_n, "connection")) {
        h->closes = is(value, value_n, "close");
    } else if (is(s, name_n, "x-method")) {
        h->knows_method = true;
        h->to_head = is(value, value_n, "HEAD");
    }
    return NULL;
}

/* The head s[0 .. n), with the last CR LF of its lines. */
static const char *read_head(const char *s, size_t n, head *h) {
    *h = (head){.length = -1};
    if (n < 14 || memcmp(s, "HTTP/1.1 ", 9) != 0 || strspn(s + 9, "0123456789") != 3 ||
        s[12] != ' ')
        return "no status line";
    h->status = atoi(s + 9);
    const char *end = s + n, *line = memmem(s, n, "\r\n", 2) + 2;
    for (const char *eol; line < end; line = eol + 2) {
        eol = memmem(line, (size_t)(end - line), "\r\n", 2);
        const char *err = read_header(line, (size_t)(eol - line), h);
        if (err) return err;
    }
    if (h->chunked && h->length >= 0) return "both Content-Length and Transfer-Encoding";
    if (h->status < 200 && (h->chunked || h->length >= 0)) return "an interim answer with a body";
    return NULL;
}

/* ---- bodies ---- */

enum { CUT = -1, BAD = -2 };

/* How many bytes the chunks at s take; CUT: they go on after n. */
static ptrdiff_t read_chunks(const char *s, size_t n) {
    size_t at = 0;
    for (;;) {
        const char *eol = memmem(s + at, n - at, "\r\n", 2);
        size_t digits = 0, size = 0;
        while (at + digits < n && digits < 9 && s[at + digits] &&
               strchr("0123456789abcdefABCDEF", s[at + digits])) {
            char d = s[at + digits++];
            size = size << 4 | (size_t)(d <= '9' ? d - '0' : (d | 32) - 'a' + 10);
        }
        if (!eol) return n - at > 10 || at + digits < n - (n > at && s[n - 1] == '\r') ? BAD : CUT;
        if (digits == 0 || digits > 8 || s + at + digits != eol) return BAD;
        at += digits + 2;
        if (n - at < size + 2) return CUT;
        if (s[at + size] != '\r' || s[at + size + 1] != '\n') return BAD;
        at += size + 2;
        if (size == 0) return (ptrdiff_t)at;
    }
}

static ptrdiff_t read_body(const head *h, const char *s, size_t n) {
    if (h->status < 200 || h->status == 204 || h->status == 304 || h->to_head) return 0;
    if (h->chunked) return read_chunks(s, n);
    if (h->length < 0) return CUT; /* until the end of the connection */
    bool nothing = n == 0 || (n >= 7 && memcmp(s, "HTTP/1.", 7) == 0);
    if (!h->knows_method && nothing) return 0;
    return n < (size_t)h->length ? CUT : (ptrdiff_t)h->length;
}

/* ---- all of it ---- */

static void note(answers *a, const char *what, size_t at) {
    snprintf(a->wrong, sizeof a->wrong, "%s in answer %d, at byte %zu", what, a->n, at);
}

/* Whether s[0 .. n) may be the beginning of a head. */
static bool begins_well(const char *s, size_t n) {
    return memcmp(s, "HTTP/1.1 ", n < 9 ? n : 9) == 0;
}

void answers_read(const client *c, const uint8_t *input, size_t size, answers *a) {
    uint32_t last_word = 0;
    *a = (answers){.whole = true};
    for (size_t at = 0; at < c->n_got;) {
        const char *s = c->got + at, *end = memmem(s, c->n_got - at, "\r\n\r\n", 4);
        head h;
        if (a->closes) return note(a, "bytes after the last answer", at);
        if (!end) {
            a->whole = false;
            if (!begins_well(s, c->n_got - at)) note(a, "no head", at);
            return;
        }
        size_t head_n = (size_t)(end - s) + 4;
        const char *err = read_head(s, head_n - 2, &h);
        if (err) return note(a, err, at);
        if (h.status >= 200) a->n++;
        ptrdiff_t body_n = read_body(&h, s + head_n, c->n_got - at - head_n);
        if (body_n == BAD) return note(a, "bad chunks", at + head_n);
        bool until_end = !h.chunked && h.length < 0 && body_n == CUT;
        a->whole = body_n != CUT || (until_end && c->ended);
        a->closes = h.closes;
        size_t n = body_n == CUT ? c->n_got - at : head_n + (size_t)body_n;
        if (!words_are_right(c, s, n, input, size, &last_word, a)) return;
        at += n;
    }
}
