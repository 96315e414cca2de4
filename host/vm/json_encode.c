/* JSON from Lua values: lunapark.json's encode.
 *
 * The text grows in a buffer on the C stack and, when there is no room, in userdata of the VM: so the VM's limit counts
 * the text, and the text goes with the VM. The userdata of one call waits for the next, unless it is large: fresh memory
 * from the kernel costs more than all else. No Lua runs here but finalizers, when memory is taken; these can do no worse
 * than to change a table while it is written, which lua_next notices.
 *
 * Is a table an array? A table whose keys are all whole numbers above 0 is, whatever their order and holes: { [11] = x }
 * is written as { [9] = x } is, with nulls before it. More holes than HOLES_MAX are an error, since such a table holds
 * things by their ids. Most arrays are found out while they are written: as long as the keys come as 1, 2, 3, the text
 * is right. A key that does not fit takes the text back and has all keys looked at. Before the first table inside of an
 * array its other keys are looked at, so that nothing that holds more than itself is ever written twice.
 *
 * lua-cjson (Debian's 2.1) is not used: it writes no empty array, 14 digits, and bytes that are not UTF-8.
 */
#include "json.h"

#include "../base/base_ffi.h"
#include "../base/utf8.h"

#include <lauxlib.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
    FIRST_BYTES = 2048,
    ARRAY_MT = 2, /* on the Lua stack: the arguments, and the userdata that holds the text */
    KEPT = 3,
    BOX = 4,
    KEEP_BYTES = 1 << 20,
    HOLES_MAX = 65536,
    CDATA = 10, /* of lua_type */
};

typedef struct out {
    lua_State *L;
    char *bytes;
    size_t len, size;
    int depth;
    char first[FIRST_BYTES];
} out;

/* ---- bytes ---- */

/* Takes the userdata that an earlier call has left in KEPT: no other call uses it meanwhile. */
static bool take_kept(out *o, size_t size) {
    lua_State *L = o->L;
    if (o->bytes != o->first || !lua_istable(L, KEPT)) return false;
    lua_rawgeti(L, KEPT, 1);
    bool enough = lua_objlen(L, -1) >= size;
    if (enough) {
        lua_pushnil(L);
        lua_rawseti(L, KEPT, 1);
    } else {
        lua_pop(L, 1);
    }
    return enough;
}

static void leave_kept(out *o) {
    if (o->bytes == o->first || o->size > KEEP_BYTES || !lua_istable(o->L, KEPT)) return;
    lua_pushvalue(o->L, BOX);
    lua_rawseti(o->L, KEPT, 1);
}

__attribute__((noinline)) static void grow(out *o, size_t more) {
    size_t size = o->size * 2 > o->len + more ? o->size * 2 : o->len + more;
    if (!take_kept(o, size)) lua_newuserdata(o->L, size);
    char *bytes = memcpy(lua_touserdata(o->L, -1), o->bytes, o->len);
    o->size = lua_objlen(o->L, -1);
    o->bytes = bytes;
    lua_replace(o->L, BOX);
}

static inline void reserve(out *o, size_t more) {
    if (o->size - o->len < more) grow(o, more);
}

/* There is room for both: */
static inline void put(out *o, char c) {
    o->bytes[o->len++] = c;
}

static inline void put_word(out *o, const char *word, size_t n) {
    reserve(o, n);
    memcpy(o->bytes + o->len, word, n);
    o->len += n;
}

/* ---- scalars: NULL, or what is wrong ---- */

static void put_escape(out *o, unsigned char c) {
    static const char hex[] = "0123456789abcdef";
    static const char words[] = "btn?fr"; /* \b is 8 */
    put(o, '\\');
    if (c >= 0x20) {
        put(o, (char)c);
    } else if (c >= 8 && c <= 13 && c != 11) {
        put(o, words[c - 8]);
    } else {
        memcpy(o->bytes + o->len, "u00", 3);
        o->len += 3;
        put(o, hex[c >> 4]);
        put(o, hex[c & 15]);
    }
}

static const char *put_string(out *o, const unsigned char *s, size_t n) {
    reserve(o, n + 2);
    put(o, '"');
    for (size_t i = 0, from = 0; i < n; from = i) {
        i += json_plain(s + i, n - i);
        if (s[i] >= 0x80) {
            ptrdiff_t run = utf8_run(s + i);
            if (run < 0) return "a string that is not UTF-8";
            i += (size_t)run;
        }
        reserve(o, n - from + 8);
        memcpy(o->bytes + o->len, s + from, i - from);
        o->len += i - from;
        if (i < n && !json_is_plain(s[i])) put_escape(o, s[i++]);
    }
    put(o, '"');
    return NULL;
}

static const char *put_number(out *o, double d) {
    if (d - d != 0) return d != d ? "nan" : d > 0 ? "inf" : "-inf";
    reserve(o, HOST_NUMBER_MAX);
    o->len += (size_t)host_number_text(d, o->bytes + o->len);
    return NULL;
}

/* ---- tables ---- */

static const char *put_value(out *o);

/* The key below the value on top, as a name. */
static const char *put_name(out *o) {
    if (lua_type(o->L, -2) == LUA_TSTRING) {
        size_t n;
        const char *s = lua_tolstring(o->L, -2, &n);
        return put_string(o, (const unsigned char *)s, n);
    }
    if (lua_type(o->L, -2) != LUA_TNUMBER) return "a key";
    reserve(o, 1);
    put(o, '"');
    const char *wrong = put_number(o, lua_tonumber(o->L, -2));
    reserve(o, 1);
    put(o, '"');
    return wrong;
}

/* The table on top, as an object; a pair of it lies above: its first one. */
static const char *put_object(out *o) {
    lua_State *L = o->L;
    char before = '{';
    do {
        reserve(o, 1);
        put(o, before);
        before = ',';
        const char *wrong = put_name(o);
        if (wrong) return wrong;
        reserve(o, 1);
        put(o, ':');
        wrong = put_value(o);
        if (wrong) return wrong;
        lua_pop(L, 1);
    } while (lua_next(L, -2));
    reserve(o, 1);
    put(o, '}');
    return NULL;
}

/* Is the key below the value on top the whole number n? */
static bool is_key(lua_State *L, double n) {
    return lua_type(L, -2) == LUA_TNUMBER && lua_tonumber(L, -2) == n;
}

/* Do the keys behind the pair on top, whose key is n, go on as n + 1, n + 2 ...? The pair stays. */
static bool goes_on(lua_State *L, double n) {
    int table = lua_gettop(L) - 2;
    lua_pushvalue(L, -2);
    while (lua_next(L, table)) {
        if (!is_key(L, ++n)) {
            lua_pop(L, 2);
            return false;
        }
        lua_pop(L, 1);
    }
    return true;
}

/* The table on top, whose first pair lies above, as an array, if its keys come as 1, 2, 3. Else *taken_back. */
static const char *put_array(out *o, bool *taken_back) {
    lua_State *L = o->L;
    size_t began = o->len;
    bool sure = false;
    double n = 0;
    char before = '[';
    do {
        bool fits = sure || is_key(L, ++n);
        if (fits && !sure && lua_istable(L, -1)) fits = sure = goes_on(L, n);
        if (!fits) {
            o->len = began;
            *taken_back = true;
            lua_pop(L, 2);
            return NULL;
        }
        reserve(o, 1);
        put(o, before);
        before = ',';
        const char *wrong = put_value(o);
        if (wrong) return wrong;
        lua_pop(L, 1);
    } while (lua_next(L, -2));
    reserve(o, 1);
    put(o, ']');
    return NULL;
}

/* The number of keys of the table on top, if all are whole numbers above 0, and the largest; else 0. */
static double count_keys(lua_State *L, double *largest) {
    double n = 0, max = 0;
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        double key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
        if (!(key >= 1 && floor(key) == key)) {
            lua_pop(L, 2);
            return 0;
        }
        n++;
        max = key > max ? key : max;
        lua_pop(L, 1);
    }
    *largest = max;
    return n;
}

/* The table on top, whose keys are not 1, 2, 3 in this order. */
static const char *put_odd(out *o) {
    lua_State *L = o->L;
    double largest = 0, n = count_keys(L, &largest);
    if (n == 0) {
        lua_pushnil(L);
        lua_next(L, -2);
        return put_object(o);
    }
    if (largest - n > HOLES_MAX) return "holes";
    for (int i = 1; i <= (int)largest; i++) {
        reserve(o, 1);
        put(o, i == 1 ? '[' : ',');
        lua_rawgeti(L, -1, i);
        const char *wrong = put_value(o);
        if (wrong) return wrong;
        lua_pop(L, 1);
    }
    reserve(o, 1);
    put(o, ']');
    return NULL;
}

static const char *put_table(out *o) {
    lua_State *L = o->L;
    if (++o->depth > JSON_DEPTH) return "depth";
    luaL_checkstack(L, 8, NULL);
    const char *wrong = NULL;
    lua_pushnil(L);
    if (lua_next(L, -2)) {
        bool odd = false;
        if (lua_type(L, -2) == LUA_TSTRING)
            wrong = put_object(o);
        else
            wrong = put_array(o, &odd);
        if (odd) wrong = put_odd(o);
    } else {
        bool is_array = lua_getmetatable(L, -1) != 0;
        if (is_array) {
            is_array = lua_rawequal(L, -1, ARRAY_MT);
            lua_pop(L, 1);
        }
        put_word(o, is_array ? "[]" : "{}", 2);
    }
    o->depth--;
    return wrong;
}

/* The value on top. NULL, or what is wrong with it or with a value in it; then the stack has grown. */
static const char *put_value(out *o) {
    lua_State *L = o->L;
    size_t n;
    const char *s;
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
        s = lua_tolstring(L, -1, &n);
        return put_string(o, (const unsigned char *)s, n);
    case LUA_TNUMBER:
        return put_number(o, lua_tonumber(L, -1));
    case LUA_TTABLE:
        return put_table(o);
    case LUA_TBOOLEAN:
        if (lua_toboolean(L, -1))
            put_word(o, "true", 4);
        else
            put_word(o, "false", 5);
        return NULL;
    case LUA_TNIL:
        put_word(o, "null", 4);
        return NULL;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, -1)) return "type";
        put_word(o, "null", 4);
        return NULL;
    default:
        return "type";
    }
}

int json_encode(lua_State *L) {
    out o = {.L = L, .size = FIRST_BYTES};
    lua_settop(L, BOX);
    lua_pushvalue(L, 1);
    o.bytes = o.first;
    const char *wrong = put_value(&o);
    if (wrong) {
        lua_pushnil(L);
        lua_pushstring(L, wrong);
        return 2;
    }
    lua_pushlstring(L, o.bytes, o.len);
    leave_kept(&o);
    return 1;
}
