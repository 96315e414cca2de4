/* The Lua modules inside the binary: every file of lua/ and the generated lunapark.cdef, as bytecode
 * with debug information. The build generates the table (host/build/embed.lua). */
#ifndef HOST_EMBED_H
#define HOST_EMBED_H

#include <stddef.h>

typedef struct host_embedded {
    const char *name; /* as `require` has it: "lunapark.http.app" */
    const char *path; /* below lua/: "lunapark/http/app.lua" */
    const char *data; /* for luaL_loadbuffer; the chunk name is in the bytecode */
    size_t size;
} host_embedded;

/* Sorted by name, in strcmp's order. */
extern const host_embedded host_embedded_modules[];
extern const size_t host_embedded_count;

#endif
