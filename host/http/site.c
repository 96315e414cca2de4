/* Sites: what C has to know of an app to answer for its files.
 *
 * Lua defines routes and decides about them (plan.lua, static.lua), and says here once, when an app has loaded, which
 * folders C may answer from: those of app:static that no middleware surrounds. A mount comes with the patterns of the
 * other routes below its prefix, which come first (router.lua): a path that fits one of them goes to Lua. So do all
 * paths that are more than names between slashes, and whatever is rare (static.c). What C answers, Lua would answer
 * alike.
 *
 * The app that a generation has loaded gives its site to the process. It counts from the switch on: a site has the
 * generation as its owner, and answers only while its owner is the one that serves. So the store that switches the
 * generations (pool.c) switches sites, too. A later definition in the app turns its site off for good (host_site_off).
 * The server of a spec has a site of its own, in its listener.
 *
 * Each P has a hold of the site that it has used last, so that a request pays two loads, and no count that all Ps write:
 * sites.version tells a P that there is another one. The M that has the P alone touches the P's entry. A P that has no
 * request holds an old site, without its files: they go when the site is replaced.
 */
#include "site.h"

#include "../../runtime/lock.h"
#include "../../runtime/runtime.h"
#include "../base/base.h"
#include "../base/refs.h"
#include "../serve/server.h"
#include "../vm/keeper.h"
#include "../vm/vm.h"
#include "filecache.h"
#include "http_ffi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct site {
    refs refs;
    _Atomic bool off;        /* atomic: the app has changed since */
    const generation *owner; /* NULL: of a server of its own */
    filecache *files;
    char *text; /* all names, each with its NUL */
    int n_mounts, n_types, n_others;
    site_mount *mounts; /* longer prefixes first */
    site_type *types;   /* the last: of every other ending */
    const char **others;
};

static struct {
    rt_lock lock;
    site *staged, *now;       /* lock */
    _Atomic uint64_t version; /* lock writes: of `now` */
} sites;

/* The M that has the P. */
static struct {
    OF_ONE_P site *site; /* held */
    uint64_t version;
} used[MAX_PS];

/* ---- making ---- */

/* The next field of [*at .. end). */
static const char *field(const char **at, const char *end) {
    const char *s = *at;
    *at = s < end ? s + strlen(s) + 1 : end;
    return s < end ? s : "";
}

static const char *if_any(const char *s) {
    return *s ? s : NULL;
}

static void add_mount(site *s, const char **at, const char *end) {
    site_mount *m = &s->mounts[s->n_mounts++];
    m->site = s;
    m->prefix = field(at, end);
    m->prefix_len = strlen(m->prefix);
    m->dir = field(at, end);
    m->index = if_any(field(at, end));
    m->cache_control = if_any(field(at, end));
    m->precompressed = *field(at, end) == '1';
    m->age_ns = (int64_t)strtoll(field(at, end), NULL, 10) * NS_PER_MS;
    m->label = (uint16_t)strtoul(field(at, end), NULL, 10);
    m->first = s->n_others;
}

/* Reads s->text[0 .. len). */
static void read_text(site *s, size_t len) {
    const char *at = s->text, *end = at + len;
    while (at < end) {
        switch (*field(&at, end)) {
        case 'M':
            add_mount(s, &at, end);
            break;
        case 'O':
            s->others[s->n_others++] = field(&at, end);
            if (s->n_mounts > 0) s->mounts[s->n_mounts - 1].n++;
            break;
        default: {
            site_type *t = &s->types[s->n_types++];
            t->ending = if_any(field(&at, end));
            t->type = field(&at, end);
            t->compresses = *field(&at, end) == '1';
        }
        }
    }
    bool ends = s->n_types > 0 && !s->types[s->n_types - 1].ending;
    if (!ends) s->n_mounts = 0; /* no text of ours */
}

static void free_site(site *s) {
    if (s->files) filecache_free(s->files);
    free(s->text);
    free(s->mounts);
    free(s->types);
    free(s->others);
    free(s);
}

site *site_new(const char *text, size_t len) {
    site *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    size_t n = 1; /* at least as many as there are records */
    for (size_t i = 0; i < len; i++)
        n += text[i] == 0;
    refs_init(&s->refs, 1);
    s->files = filecache_new();
    s->text = malloc(len + 1);
    s->mounts = calloc(n, sizeof *s->mounts);
    s->types = calloc(n, sizeof *s->types);
    s->others = calloc(n, sizeof *s->others);
    if (!s->files || !s->text || !s->mounts || !s->types || !s->others) {
        free_site(s);
        return NULL;
    }
    memcpy(s->text, text, len);
    s->text[len] = 0;
    read_text(s, len);
    return s;
}

static site *hold(site *s) {
    if (s) refs_hold(&s->refs);
    return s;
}

void site_drop(void *arg) {
    site *s = arg;
    if (s && refs_drop(&s->refs)) free_site(s);
}

/* ---- which site answers ---- */

static __attribute__((noinline)) void use_present(int p) {
    rt_lock_acquire(&sites.lock);
    uint64_t version = atomic_load_explicit(&sites.version, memory_order_relaxed);
    site *old = used[p].site;
    used[p].site = hold(sites.now);
    used[p].version = version;
    rt_lock_release(&sites.lock);
    site_drop(old);
}

/* The site of the app that serves. */
static __attribute__((noinline)) const site *of_app(void) {
    int p = rt_p_id();
    /* First who serves: the acquire pairs with the store of pool_switch, which follows site_commit. So the version is at
     * least that of the serving generation's site. An older site with the same owner, whose struct was used again, is
     * not taken for it. */
    const generation *serving = atomic_load_explicit(&vm_serving, memory_order_acquire);
    uint64_t version = atomic_load_explicit(&sites.version, memory_order_relaxed);
    if (version != used[p].version) use_present(p);
    const site *s = used[p].site;
    return s && s->owner == serving ? s : NULL;
}

const site *site_of(const host_server *server) {
    const site *s = server->listener.data;
    /* Version 0: no app has had a site so far. Who reads this too late lets Lua answer, as Lua always may. */
    if (!server->listener.vm && atomic_load_explicit(&sites.version, memory_order_relaxed) != 0)
        s = of_app();
    return s && !atomic_load_explicit(&s->off, memory_order_acquire) ? s : NULL;
}

filecache *site_files(const site *s) {
    return s->files;
}

static void turn_off(site *s) {
    atomic_store_explicit(&s->off, true, memory_order_release);
}

void site_forget(void) {
    rt_lock_acquire(&sites.lock);
    site *old = sites.staged;
    sites.staged = NULL;
    rt_lock_release(&sites.lock);
    site_drop(old);
}

void site_commit(void) {
    rt_lock_acquire(&sites.lock);
    site *old = sites.now;
    sites.now = sites.staged;
    sites.staged = NULL;
    if (old || sites.now) atomic_fetch_add_explicit(&sites.version, 1, memory_order_relaxed);
    rt_lock_release(&sites.lock);
    if (!old) return;
    turn_off(old);
    filecache_clear(old->files);
    site_drop(old);
}

int host_site_stage(const char *text, size_t len) {
    site *s = site_new(text, len);
    if (!s) return -ENOMEM;
    s->owner = atomic_load(&vm_current()->generation);
    rt_lock_acquire(&sites.lock);
    site *old = sites.staged;
    sites.staged = s;
    rt_lock_release(&sites.lock);
    site_drop(old);
    return 0;
}

void host_site_off(int server) {
    host_server *s = server >= 0 ? server_named(server) : NULL;
    if (s && s->listener.data) turn_off(s->listener.data);
    if (server >= 0) return;
    const generation *owner = atomic_load(&vm_current()->generation);
    rt_lock_acquire(&sites.lock);
    if (sites.now && sites.now->owner == owner) turn_off(sites.now);
    if (sites.staged && sites.staged->owner == owner) turn_off(sites.staged);
    rt_lock_release(&sites.lock);
}

/* ---- looking at a path ---- */

/* Whether a pattern of router.lua fits the path, both from a slash on. */
static bool fits(const char *pattern, const char *path, const char *end) {
    for (;;) {
        pattern++;
        path++;
        if (*pattern == '*') return true;
        size_t n = strcspn(pattern, "/");
        const char *slash = memchr(path, '/', (size_t)(end - path));
        const char *stop = slash ? slash : end;
        size_t len = (size_t)(stop - path);
        if (*pattern == ':' ? len == 0 : n != len || memcmp(pattern, path, n) != 0) return false;
        pattern += n;
        path = stop;
        if (!*pattern || path == end) return !*pattern && path == end;
    }
}

const site_mount *site_find(const site *s, const char *path, size_t n) {
    for (const site_mount *m = s->mounts; m < s->mounts + s->n_mounts; m++) {
        if (n <= m->prefix_len || path[m->prefix_len] != '/' ||
            memcmp(path, m->prefix, m->prefix_len) != 0)
            continue;
        for (int i = m->first; i < m->first + m->n; i++)
            if (fits(s->others[i], path + m->prefix_len, path + n)) return NULL;
        return m;
    }
    return NULL;
}

site_type site_type_of(const site *s, const char *name) {
    const char *dot = strrchr(name, '.');
    bool has = dot && !strchr(dot, '/');
    const site_type *t = s->types;
    while (t->ending && !(has && strcasecmp(dot + 1, t->ending) == 0))
        t++;
    return *t;
}
