/* The mounts of app:static for which C answers. See site.c. Any thread of the runtime, with a P. Nothing waits. */
#ifndef SITE_H
#define SITE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host_server host_server;
typedef struct filecache filecache;
typedef struct site site;

/* A folder whose files answer the paths below a prefix. Constant. */
typedef struct site_mount {
    const site *site;
    const char *prefix;                      /* "/assets"; "": all paths */
    const char *dir, *index, *cache_control; /* the last two: NULL, none */
    size_t prefix_len;
    bool precompressed; /* texts have variants */
    int64_t age_ns;     /* how long a file is remembered */
    uint16_t label;     /* host_label of the route */
    int first, n;       /* of the site's `others`: routes below the prefix that come first */
} site_mount;

/* What the end of a file's name says. */
typedef struct site_type {
    const char *ending; /* NULL: every other */
    const char *type;   /* Content-Type */
    bool compresses;    /* it is a text, or the like */
} site_type;

/* What s answers from C; NULL: nothing. The caller uses it until its G waits or returns. */
const site *site_of(const host_server *s);
filecache *site_files(const site *s);

/* The mount that answers a decoded path of a GET, which begins with a slash. NULL: none, or Lua has to say. */
const site_mount *site_find(const site *s, const char *path, size_t n);

/* The type of a file of this name. */
site_type site_type_of(const site *s, const char *name);

/* Makes the site of a server of its own from `text`, as host_site_stage gets it. NULL: no memory. site_drop: the server
 * has ended. */
site *site_new(const char *text, size_t len);
void site_drop(void *s);

/* site_commit: requests to the generation that serves are answered by the site that its app gave while it loaded
 * (host_site_stage). site_forget: that site is not needed, since the app did not load. The G that loads a generation. */
void site_commit(void);
void site_forget(void);

#endif
