/* The files of a generation, and what becomes of them on the disk.
 *
 * A set remembers every file that its VMs have loaded, with its bytes: a VM that is made minutes later loads the same
 * program as the first one, whatever was saved meanwhile. It answers three questions: does the disk still hold these
 * files (source_unchanged: a reload would change nothing); were they ever on the disk together (source_settled: if
 * not, a save came into the midst of the loading); what would git call them (source_id).
 *
 * What is required later. A handler may require a module for the first time an hour after the start, when it has been
 * saved anew, and would mix with what was loaded before. So the Lua files below the app's folder that were not loaded
 * are read too when the first VM has loaded (source_keep), and are loaded from there; until then they count for nothing.
 * Where there are more than a few thousand files, or 16 MiB of Lua, or elsewhere, such a module comes from the disk as it is
 * by then: a script that wants to be safe from that requires it while it loads.
 *
 * Names and files. A file is known by its path without links: a module that is reached by two paths is one file, read
 * once. All names by which it was asked for are kept too, since a name may lead elsewhere one day. Usual for that
 * is `current -> releases/41`, which a deployment turns around while old VMs still run. The old set must not
 * see the new release by names that it learns later: so the app's folder is looked up once, and what lies in it by
 * name is looked for there. When it leads elsewhere the set has changed, even if every byte is the same.
 *
 * A name that could not be opened is kept as missing: `require` tries several places, and a file that comes to an
 * earlier one would be loaded instead. So for a VM that loads the app after the first one has, a name that was missing
 * is missing, whatever the disk has by then; that VM may be made long after, when others have served since (history.c).
 * In a request such a name is looked for each time: the app may have written the file.
 *
 * Has a file changed? Where stat tells a difference, or could not tell one (diskfile.c), its bytes decide, so touching
 * or restoring a file changes nothing. What is no regular file (a pipe) is read once and counts as unchanged.
 *
 * The id is the tree that git makes of the files below the root, which is the folder where the app script really
 * lies: the output of `git write-tree` for an index of exactly these files, as they are on the disk (git's filters, as
 * for line ends, are not applied). A link counts as the file that it leads to. Files elsewhere have no place in
 * that tree. Those below /usr/ come with the system and are not part of the id; any others, such as modules
 * in a home directory, add "+" and 8 digits, which their paths and contents determine. Modules in C are not seen.
 *
 * Bytes in memory and bytes in a watched folder are not the same need: of files that are only watched
 * (templates, which the app reads by itself) the set keeps the blob's id alone.
 *
 * One lock per set is held for whole reads: a VM that wants a file which another VM reads waits for it anyway. It is
 * a pthread mutex, since holding it blocks; nothing of the runtime is called under it. The sets of names and files
 * are libc's trees (tsearch), which are sorted: what comes out of them is in the same order every time.
 */
#include "source.h"

#include "source_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <search.h>
#include <sha1.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    KEEP_SEEN = 2000, /* files of whatever kind that are looked at */
    KEEP_BYTES = 16 << 20,
};

/* ---- names and files ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const name *)a)->path, ((const name *)b)->path);
}

int source_by_path(const void *a, const void *b) {
    return strcmp(((const file *)a)->pub.path, ((const file *)b)->pub.path);
}

void source_set_bytes(file *f, file_blob *b) {
    f->held = b;
    f->blob = b->id;
    f->pub.bytes = b->bytes;
    f->pub.len = b->len;
}

/* Absolute, but for that as it is. 0 or errno. */
static int make_absolute(const char *path, char out[PATH_MAX]) {
    size_t n = 0;
    if (path[0] != '/') {
        if (!path[0]) return ENOENT;
        if (!getcwd(out, PATH_MAX)) return errno;
        n = strlen(out);
        if (n > 1 && n < PATH_MAX - 1) out[n++] = '/';
    }
    size_t len = strlen(path);
    if (n + len >= PATH_MAX) return ENAMETOOLONG;
    memcpy(out + n, path, len + 1);
    return 0;
}

/* Where the disk is asked for the name: in the app's folder as it was, if it lies there. */
static const char *where(const source_set *s, const char *path, char out[PATH_MAX]) {
    if (!s->base || strncmp(path, s->base, strlen(s->base)) != 0) return path;
    int n = snprintf(out, PATH_MAX, "%s%s", s->real, path + strlen(s->base));
    return n < PATH_MAX ? out : path;
}

static name *find_name(source_set *s, const char *path) {
    name key = {.path = (char *)path};
    name **found = tfind(&key, &s->names, by_name);
    return found ? *found : NULL;
}

name *source_add_name(source_set *s, const char *path, source_kind kind) {
    name *n = find_name(s, path);
    if (n) {
        n->kind = kind;
        return n;
    }
    if (s->n_names == SOURCE_NAMES_MAX) return NULL;
    n = calloc(1, sizeof *n);
    if (!n || !(n->path = strdup(path)) || !tsearch(n, &s->names, by_name)) {
        if (n) free(n->path);
        free(n);
        return NULL;
    }
    n->kind = kind;
    s->n_names++;
    return n;
}

static void free_file(void *arg) {
    file *f = arg;
    free((char *)f->pub.path);
    blob_drop(f->held);
    free(f);
}

static void free_name(void *arg) {
    name *n = arg;
    free(n->path);
    free(n);
}

file *source_find_file(void *const *files, const char *path) {
    file key = {.pub.path = path};
    file **found = tfind(&key, files, source_by_path);
    return found ? *found : NULL;
}

/* One that was kept, and now is loaded. */
static file *take_kept(source_set *s, const char *real) {
    file *f = source_find_file(&s->kept, real);
    if (!f || !tsearch(f, &s->files, source_by_path)) return NULL;
    tdelete(f, &s->kept, source_by_path);
    s->n_bytes += f->pub.len;
    return f;
}

/* The bytes of a file, held once. As disk_read. */
static int read_blob(const char *path, file_blob **b, disk_stamp *st, bool *opened) {
    char *bytes;
    size_t len;
    int err = disk_read(path, &bytes, &len, st, opened);
    if (err) return err;
    *b = blob_keep(bytes, len);
    return *b ? 0 : ENOMEM;
}

/* The file at `path` on the disk, with its bytes or without. NULL: *err. */
static file *load(source_set *s, const char *path, bool with_bytes, int *err, bool *opened) {
    char real[PATH_MAX];
    *opened = false;
    if (!realpath(path, real)) {
        *err = errno;
        file *gone = with_bytes ? take_kept(s, path) : NULL;
        if (gone) return gone;
        if (faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) != 0) return NULL;
        strcpy(real, path); /* a pipe by its number has none */
    }
    file *f = source_find_file(&s->files, real);
    if (!f && with_bytes) f = take_kept(s, real);
    if (f && (f->pub.bytes || !with_bytes)) return f;

    file_blob *b = NULL;
    disk_stamp st = {0};
    git_id id;
    if (with_bytes) {
        *err = read_blob(real, &b, &st, opened);
        if (!*err && s->n_bytes + b->len > SOURCE_BYTES_MAX) *err = E2BIG;
    } else {
        *err = disk_hash(real, &id, &st, opened);
    }
    if (*err) goto no_file;
    if (!f) {
        *err = ENOMEM;
        f = calloc(1, sizeof *f);
        if (!f) goto no_file;
        f->pub.path = strdup(real);
        if (!f->pub.path || !tsearch(f, &s->files, source_by_path)) goto no_entry;
    }
    f->stamp = st;
    if (b)
        source_set_bytes(f, b);
    else
        f->blob = id;
    s->n_bytes += f->pub.len;
    return f;

no_entry:
    free_file(f);
no_file:
    blob_drop(b);
    return NULL;
}

/* Loads the file of that path, if it is not loaded, and notes the name. As load. */
static file *load_name(source_set *s, const char *path, bool with_bytes, int *err, bool *opened) {
    char buf[PATH_MAX];
    if (s->n_names == SOURCE_NAMES_MAX && !find_name(s, path)) {
        *err = E2BIG;
        return NULL;
    }
    file *f = load(s, where(s, path, buf), with_bytes, err, opened);
    if (!f && *opened) return NULL;
    name *n = source_add_name(s, path, f ? SOURCE_FILE : SOURCE_MISSING);
    if (n) n->file = f;
    if (f && !n) *err = ENOMEM;
    return n ? f : NULL;
}

char *source_read(const char *path, size_t *len, int *err, bool *opened) {
    char *bytes = NULL;
    bool was_opened;
    *err = disk_read(path, &bytes, len, NULL, opened ? opened : &was_opened);
    return bytes;
}

static const source_file *get(source_set *s, const char *path, bool to_load, int *err,
                              bool *opened) {
    char abs[PATH_MAX];
    bool was_opened;
    if (!opened) opened = &was_opened;
    *opened = false;
    *err = make_absolute(path, abs);
    if (*err) return NULL;
    pthread_mutex_lock(&s->lock);
    name *n = find_name(s, abs);
    file *f = n && n->file && n->file->pub.bytes ? n->file : NULL;
    if (!f && n && n->kind == SOURCE_MISSING && s->loaded && to_load)
        *err = ENOENT;
    else if (!f)
        f = load_name(s, abs, true, err, opened);
    pthread_mutex_unlock(&s->lock);
    return f ? &f->pub : NULL;
}

const source_file *source_get(source_set *s, const char *path, int *err, bool *opened) {
    return get(s, path, false, err, opened);
}

const source_file *source_get_to_load(source_set *s, const char *path, int *err, bool *opened) {
    return get(s, path, true, err, opened);
}

void source_has_loaded(source_set *s) {
    pthread_mutex_lock(&s->lock);
    s->loaded = true;
    pthread_mutex_unlock(&s->lock);
}

/* ---- watched folders ---- */

typedef struct watching {
    source_set *set;
    const char *path; /* of the folder as it was asked for */
    size_t len;       /* of its path on the disk */
    SHA1_CTX listing;
    bool loads;
} watching;

static int watch_one(void *arg, const char *path, bool folder) {
    if (folder) return 0;
    watching *w = arg;
    const char *below = path + w->len;
    SHA1Update(&w->listing, (const uint8_t *)below, strlen(below) + 1);
    if (!w->loads) return 0;
    char as_asked[PATH_MAX];
    int err = 0;
    bool opened;
    if (snprintf(as_asked, sizeof as_asked, "%s%s", w->path, below) >= PATH_MAX)
        return ENAMETOOLONG;
    if (!load_name(w->set, as_asked, false, &err, &opened) && err != ENOENT) return err;
    return 0;
}

/* The folder's listing; loads: and its files. 0 or errno. */
static int list(source_set *s, const char *path, bool loads, git_id *listing) {
    char buf[PATH_MAX];
    const char *dir = where(s, path, buf);
    watching w = {.set = s, .path = path, .len = strlen(dir), .loads = loads};
    SHA1Init(&w.listing);
    int err = disk_walk(dir, watch_one, &w);
    SHA1Final(listing->sha1, &w.listing);
    return err;
}

static int watch_locked(source_set *s, const char *path) {
    char buf[PATH_MAX];
    disk_stamp st;
    name *n = find_name(s, path);
    if (n && n->kind != SOURCE_MISSING) return 0;
    git_id listing;
    int err = 0;
    if (!disk_stat(where(s, path, buf), &st) || !S_ISDIR(st.mode)) {
        bool opened;
        load_name(s, path, false, &err, &opened);
        return err;
    }
    err = list(s, path, true, &listing);
    if (err) return err;
    n = source_add_name(s, path, SOURCE_FOLDER);
    if (!n) return E2BIG;
    n->listing = listing;
    return 0;
}

int source_watch(source_set *s, const char *path) {
    char abs[PATH_MAX];
    int err = make_absolute(path, abs);
    if (err) return -err;
    size_t len = strlen(abs);
    while (len > 1 && abs[len - 1] == '/')
        abs[--len] = 0;
    pthread_mutex_lock(&s->lock);
    err = watch_locked(s, abs);
    pthread_mutex_unlock(&s->lock);
    return -err;
}

static void watch_too(void *set, const char *path, source_kind kind) {
    (void)kind;
    (void)source_watch(set, path); /* a name that cannot be read is noted */
}

source_set *source_set_of_names(const char *app_path, source_set *a, source_set *b) {
    source_set *s = source_set_new(app_path);
    if (!s) return NULL;
    source_each(a, watch_too, s);
    if (b) source_each(b, watch_too, s);
    return s;
}

/* ---- has anything changed? ---- */

/* The file that the path leads to has the bytes and the mode of f. */
static bool same_file(file *f, const char *path) {
    disk_stamp now;
    if (!disk_stat(path, &now)) return false;
    if (!S_ISREG(f->stamp.mode)) return true;
    if (disk_same(&now, &f->stamp) && !f->stamp.racy) return true;
    git_id blob;
    bool opened;
    if (disk_hash(path, &blob, &now, &opened) != 0) return false;
    if (memcmp(&blob, &f->blob, sizeof blob) != 0 ||
        disk_executable(&now) != disk_executable(&f->stamp))
        return false;
    f->stamp = now;
    return true;
}

typedef struct comparison {
    source_set *set;
    bool same;
} comparison;

static void compare_name(const void *node, VISIT visit, void *arg) {
    comparison *c = arg;
    if ((visit != postorder && visit != leaf) || !c->same) return;
    const name *n = *(name *const *)node;
    char buf[PATH_MAX];
    const char *path = where(c->set, n->path, buf);
    git_id listing;
    switch (n->kind) {
    case SOURCE_FILE:
        c->same = same_file(n->file, path);
        break;
    case SOURCE_MISSING:
        c->same = faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) != 0;
        break;
    case SOURCE_FOLDER:
        c->same = list(c->set, n->path, false, &listing) == 0 &&
                  memcmp(&listing, &n->listing, sizeof listing) == 0;
    }
}

/* The app's folder is still where it was. */
static bool same_base(const source_set *s) {
    char real[PATH_MAX];
    if (!s->base) return true;
    if (!realpath(s->base, real)) return false;
    size_t len = strlen(real);
    return strncmp(real, s->real, len) == 0 && strlen(s->real) == len + (len > 1);
}

bool source_unchanged(source_set *s) {
    pthread_mutex_lock(&s->lock);
    comparison c = {.set = s, .same = same_base(s)};
    if (c.same) twalk_r(s->names, compare_name, &c);
    pthread_mutex_unlock(&s->lock);
    return c.same;
}

/* ---- what may be required later ---- */

typedef struct keeping {
    source_set *set;
    int seen;
    size_t bytes;
} keeping;

static int keep_one(void *arg, const char *path, bool folder) {
    if (folder) return 0;
    keeping *k = arg;
    char real[PATH_MAX];
    if (++k->seen > KEEP_SEEN) return E2BIG;
    size_t n = strlen(path);
    if (n < 4 || strcmp(path + n - 4, ".lua") != 0 || !realpath(path, real)) return 0;
    if (source_find_file(&k->set->files, real) || source_find_file(&k->set->kept, real)) return 0;
    bool opened;
    file_blob *b;
    disk_stamp st;
    if (read_blob(real, &b, &st, &opened) != 0) return 0;
    file *f = calloc(1, sizeof *f);
    char *own = strdup(real);
    if (f) {
        f->pub.path = own;
        f->stamp = st;
        source_set_bytes(f, b);
    }
    if (!f || !own || !tsearch(f, &k->set->kept, source_by_path)) {
        free(own);
        blob_drop(b);
        free(f);
        return ENOMEM;
    }
    k->bytes += b->len;
    return k->bytes > KEEP_BYTES ? E2BIG : 0;
}

bool source_keep(source_set *s) {
    pthread_mutex_lock(&s->lock);
    keeping k = {.set = s};
    int err = disk_walk(s->root, keep_one, &k);
    if (err) {
        tdestroy(s->kept, free_file);
        s->kept = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    return !err;
}

static void compare_kept(const void *node, VISIT visit, void *arg) {
    bool *same = arg;
    if (visit != postorder && visit != leaf) return;
    const file *f = *(file *const *)node;
    disk_stamp now;
    *same = *same && disk_stat(f->pub.path, &now) && disk_same(&now, &f->stamp);
}

bool source_settled(source_set *s) {
    bool same = source_unchanged(s);
    pthread_mutex_lock(&s->lock);
    if (same) twalk_r(s->kept, compare_kept, &same);
    pthread_mutex_unlock(&s->lock);
    return same;
}

/* ---- the set ---- */

typedef struct visitor {
    void (*fn)(void *arg, const char *name, source_kind kind);
    void *arg;
} visitor;

static void visit_name(const void *node, VISIT visit, void *arg) {
    visitor *v = arg;
    if (visit != postorder && visit != leaf) return;
    const name *n = *(name *const *)node;
    v->fn(v->arg, n->path, n->kind);
}

static void visit_kept(const void *node, VISIT visit, void *arg) {
    const visitor *v = arg;
    if (visit != postorder && visit != leaf) return;
    v->fn(v->arg, (*(file *const *)node)->pub.path, SOURCE_FILE);
}

void source_each(source_set *s, void (*fn)(void *arg, const char *name, source_kind kind),
                 void *arg) {
    visitor v = {fn, arg};
    pthread_mutex_lock(&s->lock);
    twalk_r(s->names, visit_name, &v);
    twalk_r(s->kept, visit_kept, &v);
    pthread_mutex_unlock(&s->lock);
}

/* The path up to its last slash, which is there. NULL: no memory. */
static char *folder_of(const char *path) {
    return strndup(path, (size_t)(strrchr(path, '/') - path) + 1);
}

source_set *source_set_new(const char *app_path) {
    source_set *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    pthread_mutex_init(&s->lock, NULL);
    refs_init(&s->refs, 1);
    char abs[PATH_MAX], real[PATH_MAX];
    if (make_absolute(app_path, abs) != 0) strcpy(abs, "/");
    s->base = folder_of(abs);
    s->root = folder_of(realpath(abs, real) ? real : abs);
    if (!s->base || !s->root) goto no_memory;
    if (realpath(s->base, real)) {
        s->real = malloc(strlen(real) + 2);
        if (!s->real) goto no_memory;
        sprintf(s->real, "%s%s", real, real[1] ? "/" : "");
    } else {
        free(s->base);
        s->base = NULL;
    }
    return s;

no_memory:
    source_set_free(s);
    return NULL;
}

const char *source_root(const source_set *s) {
    return s->root;
}

source_set *source_set_hold(source_set *s) {
    refs_hold(&s->refs);
    return s;
}

void source_set_free(source_set *s) {
    if (!s || !refs_drop(&s->refs)) return;
    tdestroy(s->names, free_name);
    tdestroy(s->files, free_file);
    tdestroy(s->kept, free_file);
    pthread_mutex_destroy(&s->lock);
    free(s->root);
    free(s->base);
    free(s->real);
    free(s);
}
