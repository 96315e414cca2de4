/* JSON to Lua values: lunapark.json's decode.
 *
 * One pass over the text. The elements of a table wait on the Lua stack, up to a number, so that a small table is made
 * at its size and never grows. Strings without escapes come from the text itself. The text ends with a NUL, as all
 * strings of Lua do, which is no part of any value: so one byte may be looked at without asking for the end.
 *
 * Finalizers may run when memory is taken; they have no way to anything here.
 *
 * simdjson, which Debian has, is not used: it refuses whole numbers of more than 64 bits, does not say where a text is
 * wrong, and keeps the document in memory that the VM's limit would not count.
 */
#include "json.h"

#include "../base/chars.h"
#include "../base/decimal.h"
#include "../base/utf8.h"

#include <lauxlib.h>

enum {
    TEXT = 1, /* on the Lua stack: the arguments */
    ARRAY_MT = 2,
    SHALLOW = 8, /* so deep tables let many elements wait */
    PAIRS = 32,
    ELEMENTS = 64,
    FEW = 8,
    UNESCAPED = 512, /* bytes of a string on the C stack */
};

#define EXACT (UINT64_C(1) << 53)

typedef struct in {
    lua_State *L;
    const unsigned char *at, *end;
    const char *wrong; /* with the place in `at` */
    int depth;
    bool big;
} in;

static bool get_value(in *d);

static bool fail(in *d, const char *wrong) {
    d->wrong = wrong;
    return false;
}

static inline void skip_blanks(in *d) {
    while (*d->at == ' ' || *d->at == '\n' || *d->at == '\r' || *d->at == '\t')
        d->at++;
}

/* ---- strings: `at` stands behind the first quote ---- */

/* The number of four digits at s, -1: they are none. A NUL ends the text. */
static int four_digits(const unsigned char *s) {
    int n = 0;
    for (int i = 0; i < 4; i++) {
        int digit = char_hex((char)s[i]);
        if (digit < 0) return -1;
        n = n << 4 | digit;
    }
    return n;
}

static size_t write_utf8(char *to, int c) {
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const int lead[] = {0, 0xc0, 0xe0, 0xf0};
    to[0] = (char)(lead[more] | c >> 6 * more);
    for (int i = 1; i <= more; i++)
        to[i] = (char)(0x80 | (c >> 6 * (more - i) & 0x3f));
    return (size_t)more + 1;
}

/* The character of \u; `at` stands behind the u. -1: failed. */
static int get_character(in *d) {
    int c = four_digits(d->at);
    if (c < 0) {
        fail(d, "expected four hexadecimal digits");
        return -1;
    }
    d->at += 4;
    if (c < 0xd800 || c > 0xdfff) return c;
    int low = c < 0xdc00 && d->at[0] == '\\' && d->at[1] == 'u' ? four_digits(d->at + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff) {
        fail(d, "half of a surrogate pair");
        return -1;
    }
    d->at += 6;
    return 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
}

/* One escape to `to`: its length; 0: failed. */
static size_t get_escape(in *d, char *to) {
    static const char words[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    unsigned char c = *++d->at;
    if (c == 'u') {
        d->at++;
        int character = get_character(d);
        return character < 0 ? 0 : write_utf8(to, character);
    }
    const char *word = c ? strchr(words, c) : NULL;
    if (!word) return fail(d, "a bad escape");
    d->at++;
    *to = meant[word - words];
    return 1;
}

/* Goes on to the next quote, backslash, control character or end. False: bytes that are not UTF-8. */
static bool skip_text(in *d) {
    for (;;) {
        d->at += json_plain(d->at, (size_t)(d->end - d->at));
        if (d->at == d->end || *d->at < 0x80) return true;
        ptrdiff_t run = utf8_run(d->at);
        if (run < 0) return fail(d, "bytes that are not UTF-8");
        d->at += run;
    }
}

static bool no_quote(in *d) {
    return fail(d,
                d->at == d->end ? "a string without its end" : "a control character in a string");
}

/* Where the string ends that has an escape at `at`: its quote, or the end of the text. */
static const unsigned char *end_of_string(const in *d) {
    const unsigned char *p = d->at;
    while (p < d->end && *p != '"')
        p += *p == '\\' ? 2 : 1;
    return p < d->end ? p : d->end;
}

/* A string with escapes, from `from` on; the first one at `at`. No text is shorter than what it stands for. */
__attribute__((noinline)) static bool get_escaped(in *d, const unsigned char *from) {
    char few[UNESCAPED], *to = few;
    size_t n = 0, room = sizeof few;
    for (;;) {
        size_t more = (size_t)(d->at - from);
        if (n + more + 4 > room) { /* 4: what an escape may stand for */
            room = n + 4 + (size_t)(end_of_string(d) - from);
            to = memcpy(lua_newuserdata(d->L, room), few, n);
        }
        memcpy(to + n, from, more);
        n += more;
        if (d->at == d->end || (*d->at != '\\' && *d->at != '"')) return no_quote(d);
        if (*d->at == '"') break;
        size_t len = get_escape(d, to + n);
        if (len == 0) return false;
        n += len;
        from = d->at;
        if (!skip_text(d)) return false;
    }
    d->at++;
    lua_pushlstring(d->L, to, n);
    if (to != few) lua_remove(d->L, -2);
    return true;
}

static bool get_string(in *d) {
    const unsigned char *from = d->at;
    if (!skip_text(d)) return false;
    if (*d->at == '"' && d->at < d->end) {
        lua_pushlstring(d->L, (const char *)from, (size_t)(d->at++ - from));
        return true;
    }
    if (*d->at == '\\') return get_escaped(d, from);
    return no_quote(d);
}

/* ---- numbers ---- */

static bool is_digit(unsigned char c) {
    return c >= '0' && c <= '9';
}

static bool skip_digits(in *d) {
    if (!is_digit(*d->at)) return fail(d, "expected a digit");
    while (is_digit(*d->at))
        d->at++;
    return true;
}

/* The rest of a number that has a point or an exponent at `at`, or is a large whole number. */
static bool get_decimal(in *d, const unsigned char *from) {
    bool whole = *d->at != '.' && *d->at != 'e' && *d->at != 'E';
    if (*d->at == '.') {
        d->at++;
        if (!skip_digits(d)) return false;
    }
    if (*d->at == 'e' || *d->at == 'E') {
        d->at++;
        if (*d->at == '+' || *d->at == '-') d->at++;
        if (!skip_digits(d)) return false;
    }
    double value;
    if (whole && d->big) {
        lua_pushlstring(d->L, (const char *)from, (size_t)(d->at - from));
    } else if (decimal_read((const char *)from, (const char *)d->at, &value) == 0) {
        lua_pushnumber(d->L, value);
    } else {
        d->at = from;
        return fail(d, "a number that is too large");
    }
    return true;
}

static bool get_number(in *d) {
    const unsigned char *from = d->at;
    bool negative = *d->at == '-';
    d->at += negative;
    const unsigned char *first = d->at;
    uint64_t n = 0;
    for (; is_digit(*d->at) && d->at - first < 17; d->at++)
        n = n * 10 + (*d->at - '0');
    if (d->at == first) return fail(d, negative ? "expected a digit" : "expected a value");
    if (*first == '0' && d->at - first > 1) {
        d->at = first;
        return fail(d, "a number that begins with 0");
    }
    bool more = is_digit(*d->at);
    if (more) skip_digits(d);
    if (more || n > EXACT || *d->at == '.' || (*d->at | 0x20) == 'e') return get_decimal(d, from);
    lua_pushnumber(d->L, negative ? -(double)n : (double)n);
    return true;
}

/* ---- tables ---- */

/* Makes the table at index `table` for the n pairs above it, and puts them in. more: further ones will come. */
static void put_pairs(lua_State *L, int table, int n, bool more) {
    if (lua_isnil(L, table)) {
        lua_createtable(L, 0, more ? 2 * n : n);
        lua_replace(L, table);
    }
    /* In their order: of two pairs with one name the second stays. */
    for (int i = 0; i < n; i++) {
        lua_pushvalue(L, table + 1 + 2 * i);
        lua_pushvalue(L, table + 2 + 2 * i);
        lua_rawset(L, table);
    }
    lua_settop(L, table);
}

static bool get_pair(in *d) {
    skip_blanks(d);
    if (*d->at != '"') return fail(d, "expected a name in quotes");
    d->at++;
    if (!get_string(d)) return false;
    skip_blanks(d);
    if (*d->at != ':') return fail(d, "expected : behind a name");
    d->at++;
    return get_value(d);
}

static bool get_object(in *d) {
    lua_State *L = d->L;
    int n = 0, most = d->depth <= SHALLOW ? PAIRS : FEW;
    lua_pushnil(L);
    int table = lua_gettop(L);
    skip_blanks(d);
    bool more = *d->at != '}';
    if (!more) d->at++;
    while (more) {
        if (!get_pair(d)) return false;
        n++;
        skip_blanks(d);
        more = *d->at == ',';
        if (!more && *d->at != '}') return fail(d, "expected , or }");
        d->at++;
        if (more && n == most) {
            put_pairs(L, table, n, true);
            n = 0;
        }
    }
    put_pairs(L, table, n, false);
    return true;
}

/* Makes the array at index `table` for the n elements above it, and puts them in behind its `had` elements. */
static void put_elements(in *d, int table, int had, int n, bool more) {
    lua_State *L = d->L;
    if (lua_isnil(L, table)) {
        lua_createtable(L, more ? 2 * n : n, 0);
        lua_pushvalue(L, ARRAY_MT);
        lua_setmetatable(L, -2);
        lua_replace(L, table);
    }
    for (int i = had + n; i > had; i--)
        lua_rawseti(L, table, i);
}

static bool get_array(in *d) {
    lua_State *L = d->L;
    int had = 0, n = 0, most = d->depth <= SHALLOW ? ELEMENTS : FEW;
    lua_pushnil(L);
    int table = lua_gettop(L);
    skip_blanks(d);
    bool more = *d->at != ']';
    if (!more) d->at++;
    while (more) {
        if (!get_value(d)) return false;
        n++;
        skip_blanks(d);
        more = *d->at == ',';
        if (!more && *d->at != ']') return fail(d, "expected , or ]");
        d->at++;
        if (more && n == most) {
            put_elements(d, table, had, n, true);
            had += n;
            n = 0;
        }
    }
    put_elements(d, table, had, n, false);
    return true;
}

/* ---- values ---- */

static bool get_word(in *d, const char *word, size_t n) {
    if ((size_t)(d->end - d->at) < n || memcmp(d->at, word, n) != 0)
        return fail(d, "expected a value");
    d->at += n;
    return true;
}

static bool get_table(in *d) {
    if (++d->depth > JSON_DEPTH) return fail(d, "nested more than 128 deep");
    luaL_checkstack(d->L, 2 * PAIRS + 8, NULL);
    bool ok = *d->at++ == '{' ? get_object(d) : get_array(d);
    d->depth--;
    return ok;
}

/* Pushes a value. False: d->wrong; then the stack has grown. */
static bool get_value(in *d) {
    skip_blanks(d);
    switch (*d->at) {
    case '"':
        d->at++;
        return get_string(d);
    case '{':
    case '[':
        return get_table(d);
    case 't':
        lua_pushboolean(d->L, 1);
        return get_word(d, "true", 4);
    case 'f':
        lua_pushboolean(d->L, 0);
        return get_word(d, "false", 5);
    case 'n':
        lua_pushlightuserdata(d->L, NULL);
        return get_word(d, "null", 4);
    default:
        return get_number(d);
    }
}

int json_decode(lua_State *L) {
    size_t n;
    const unsigned char *text = (const unsigned char *)luaL_checklstring(L, TEXT, &n);
    lua_settop(L, 3);
    in d = {.L = L, .at = text, .end = text + n, .big = lua_toboolean(L, 3)};
    bool ok = get_value(&d);
    if (ok) skip_blanks(&d);
    if (ok && d.at != d.end) ok = fail(&d, "expected the end");
    if (ok) return 1;
    if (d.at >= d.end && strncmp(d.wrong, "expected", 8) == 0)
        lua_pushfstring(L, "bad JSON: %s, not the end of the text", d.wrong);
    else
        lua_pushfstring(L, "bad JSON: %s at character %d", d.wrong, (int)(d.at - text) + 1);
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
}
