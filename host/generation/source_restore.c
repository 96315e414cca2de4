/* The set of a generation that another process has loaded is made again from the list of its files and names
 * (source_list.c), and from blobs. The list does not say where the app lay. So the set is of the folder where the app
 * lies now: a release in a new folder can go back to a generation of the old folder.
 */
#include "source_restore.h"

#include "../base/array.h"
#include "source_parts.h"

#include <errno.h>
#include <limits.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A record of a file, taken apart. */
typedef struct record {
    bool executable, kept, watched;
    git_id id;
    const char *path;
} record;

static const char *after_word(const char *text, const char *word) {
    size_t n = strlen(word);
    return strncmp(text, word, n) == 0 && text[n] == ' ' ? text + n + 1 : NULL;
}

enum { MODE = 6, PATH = MODE + 1 + GIT_ID_DIGITS + 1 /* where they begin */ };

/* 1: the record is of a file; 0: of something else; -EBADMSG. */
static int scan(const char *text, record *r) {
    const char *rest = after_word(text, "file");
    r->kept = !rest && (rest = after_word(text, "kept"));
    r->watched = !rest && (rest = after_word(text, "watched"));
    if (!rest) return 0;
    r->executable = strncmp(rest, "100755 ", MODE + 1) == 0;
    if (!r->executable && strncmp(rest, "100644 ", MODE + 1) != 0) return -EBADMSG;
    if (!git_scan(rest + MODE + 1, &r->id) || rest[PATH - 1] != ' ' || !rest[PATH]) return -EBADMSG;
    r->path = rest + PATH;
    return 1;
}

/* ---- the set ---- */

static const char *join(const char *folder, const char *path, char out[PATH_MAX]) {
    if (path[0] == '/') return path;
    int n = snprintf(out, PATH_MAX, "%s%s", folder, path);
    return n < PATH_MAX ? out : NULL;
}

static int add_file(source_set *s, const record *r, source_read_blob read_blob, void *arg) {
    char buf[PATH_MAX];
    file_blob *b = NULL;
    const char *path = join(s->root, r->path, buf);
    int err = !path ? -EBADMSG : r->watched ? 0 : read_blob(arg, &r->id, &b);
    if (err) return err;
    file *f = calloc(1, sizeof *f);
    if (!f || !(f->pub.path = strdup(path))) goto no_memory;
    f->blob = r->id;
    f->stamp.mode =
        S_IFREG | (r->executable ? 0755 : 0644); /* else no file's: bytes are compared */
    if (b) source_set_bytes(f, b);
    if (!tsearch(f, r->kept ? &s->kept : &s->files, source_by_path)) goto no_memory;
    if (!r->kept) s->n_bytes += f->pub.len;
    return 0;

no_memory:
    if (f) free((char *)f->pub.path);
    free(f);
    blob_drop(b);
    return -ENOMEM;
}

/* Adds the name of a record that is no file's. next: the record behind it. */
static int add_name(source_set *s, const char *text, const char *next) {
    char buf[PATH_MAX];
    git_id listing = {{0}};
    source_kind kind = SOURCE_FILE;
    const char *rest = after_word(text, "name"), *path;
    if (!rest && (rest = after_word(text, "missing"))) kind = SOURCE_MISSING;
    if (!rest && (rest = after_word(text, "folder"))) {
        kind = SOURCE_FOLDER;
        if (!git_scan(rest, &listing) || rest[GIT_ID_DIGITS] != ' ') return -EBADMSG;
        rest += GIT_ID_DIGITS + 1;
    }
    if (!rest) return 0; /* not for us */
    const char *base = s->base ? s->base : s->root;
    path = join(base, rest, buf);
    name *n = path ? source_add_name(s, path, kind) : NULL;
    if (!n) return path ? -ENOMEM : -EBADMSG;
    n->listing = listing;
    if (kind != SOURCE_FILE) return 0;
    const char *to = next ? after_word(next, "is") : NULL;
    to = to ? join(s->root, to, buf) : NULL;
    n->file = to ? source_find_file(&s->files, to) : NULL;
    return n->file ? 0 : -EBADMSG;
}

/* The app's script is one of the names. */
static bool has_script(const char *app_path, const char *text, size_t len) {
    const char *slash = strrchr(app_path, '/'), *script = slash ? slash + 1 : app_path;
    for (const char *at = text; at < text + len; at += strlen(at) + 1) {
        const char *path = after_word(at, "name");
        if (path && strcmp(path, script) == 0) return true;
    }
    return false;
}

source_set *source_restore(const char *app_path, const char *text, size_t len,
                           source_read_blob read_blob, void *arg, int *err, git_id *blob) {
    record r;
    *blob = (git_id){{0}};
    *err = has_script(app_path, text, len) ? 0 : -ESRCH;
    source_set *s = *err ? NULL : source_set_new(app_path);
    if (!s && !*err) *err = -ENOMEM;
    for (const char *at = text; !*err && at < text + len; at += strlen(at) + 1) {
        int is = scan(at, &r);
        *err = is < 0 ? is : 0;
        if (is <= 0) continue;
        *blob = r.id;
        *err = add_file(s, &r, read_blob, arg);
    }
    for (const char *at = text; !*err && at < text + len; at += strlen(at) + 1) {
        const char *next = at + strlen(at) + 1;
        *err = add_name(s, at, next < text + len ? next : NULL);
    }
    if (!*err) {
        s->loaded = true;
        return s;
    }
    source_set_free(s);
    return NULL;
}

/* ---- what git needs ---- */

typedef struct trees {
    source_object fn;
    void *arg;
} trees;

static bool one_tree(void *arg, const git_id *id, const void *bytes, size_t len) {
    const trees *t = arg;
    return t->fn(t->arg, "tree", id, bytes, len);
}

bool source_objects(const char *text, size_t len, source_object fn, void *arg) {
    git_file *files = NULL;
    size_t n = 0;
    bool whole = true;
    record r;
    for (const char *at = text; whole && at < text + len; at += strlen(at) + 1) {
        int is = scan(at, &r);
        if (is == 0) continue;
        whole = is > 0 && fn(arg, "blob", &r.id, r.path, strlen(r.path));
        if (!whole || r.kept || r.path[0] == '/') continue;
        if ((whole = ARRAY_ROOM(files, n)))
            files[n++] = (git_file){.path = r.path, .executable = r.executable, .blob = r.id};
    }
    git_id tree;
    trees t = {fn, arg};
    if (whole) whole = git_tree(files, n, &tree, one_tree, &t);
    free(files);
    return whole;
}
