/* A set's loaded files, seen from outside: the set's git id, and a list as text.
 *
 * The text tells two sets apart (source_compare), and has all of a set except the bytes. Records, each with a NUL
 * behind it:
 *
 *     file MODE ID PATH       a file that was loaded, its blob: MODE as git has it
 *     watched MODE ID PATH    a file of which the set has no bytes
 *     kept MODE ID PATH       a file for a later require
 *     name PATH               a name that leads to the file of the next record:
 *     is PATH
 *     missing PATH            a name that led nowhere
 *     folder ID PATH          a watched folder, the hash of its listing
 *
 * Paths of files are relative to the root. Names are relative to the app's folder as it was named. A path that lies
 * elsewhere is absolute. So the text does not say where the app lies.
 */
#include "../base/array.h"
#include "source_parts.h"

#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the id ---- */

typedef struct picking {
    const char *root;
    size_t root_len;
    git_file *in, *out; /* below the root; elsewhere, without the system's */
    size_t n_in, n_out;
    bool failed; /* no memory */
} picking;

static void pick(picking *p, git_file **list, size_t *n, const file *f, const char *path) {
    p->failed = !ARRAY_ROOM(*list, *n);
    if (p->failed) return;
    (*list)[(*n)++] =
        (git_file){.path = path, .executable = disk_executable(&f->stamp), .blob = f->blob};
}

static void pick_file(const void *node, VISIT visit, void *arg) {
    picking *p = arg;
    if ((visit != postorder && visit != leaf) || p->failed) return;
    const file *f = *(file *const *)node;
    const char *path = f->pub.path;
    if (strncmp(path, p->root, p->root_len) == 0)
        pick(p, &p->in, &p->n_in, f, path + p->root_len);
    else if (strncmp(path, "/usr/", 5) != 0)
        pick(p, &p->out, &p->n_out, f, path + 1);
}

bool source_id(source_set *s, char id[SOURCE_ID_SIZE]) {
    picking p = {.root = s->root, .root_len = strlen(s->root)};
    pthread_mutex_lock(&s->lock);
    twalk_r(s->files, pick_file, &p);
    git_id tree;
    bool whole = !p.failed && git_tree(p.in, p.n_in, &tree, NULL, NULL);
    if (whole) git_print(&tree, id);
    if (whole && p.n_out && (whole = git_tree(p.out, p.n_out, &tree, NULL, NULL))) {
        char digits[GIT_ID_DIGITS + 1];
        git_print(&tree, digits);
        snprintf(id + GIT_ID_DIGITS, SOURCE_ID_SIZE - GIT_ID_DIGITS, "+%.8s", digits);
    }
    pthread_mutex_unlock(&s->lock);
    free(p.in);
    free(p.out);
    return whole;
}

/* ---- the text ---- */

typedef struct printing {
    const source_set *set;
    FILE *out;
    bool kept;
} printing;

static const char *below(const char *folder, const char *path) {
    size_t n = folder ? strlen(folder) : 0;
    return n && strncmp(path, folder, n) == 0 ? path + n : path;
}

static void print_file(const void *node, VISIT visit, void *arg) {
    const printing *p = arg;
    if (visit != postorder && visit != leaf) return;
    const file *f = *(file *const *)node;
    char id[GIT_ID_DIGITS + 1];
    git_print(&f->blob, id);
    fprintf(p->out, "%s %s %s %s%c",
            p->kept   ? "kept"
            : f->held ? "file"
                      : "watched",
            disk_executable(&f->stamp) ? "100755" : "100644", id, below(p->set->root, f->pub.path),
            0);
}

static void print_name(const void *node, VISIT visit, void *arg) {
    const printing *p = arg;
    if (visit != postorder && visit != leaf) return;
    const name *n = *(name *const *)node;
    const char *path = below(p->set->base, n->path);
    char id[GIT_ID_DIGITS + 1];
    switch (n->kind) {
    case SOURCE_FILE:
        fprintf(p->out, "name %s%cis %s%c", path, 0, below(p->set->root, n->file->pub.path), 0);
        break;
    case SOURCE_MISSING:
        fprintf(p->out, "missing %s%c", path, 0);
        break;
    case SOURCE_FOLDER:
        git_print(&n->listing, id);
        fprintf(p->out, "folder %s %s%c", id, path, 0);
    }
}

/* Ends what open_memstream has begun. False: no memory, and nothing to free. */
static bool end_text(FILE *out, char **text) {
    bool whole = !ferror(out);
    if (fclose(out) != 0) whole = false;
    if (!whole) {
        free(*text);
        *text = NULL;
    }
    return whole;
}

bool source_list(source_set *s, char **text, size_t *len) {
    printing p = {.set = s, .out = open_memstream(text, len)};
    if (!p.out) return false;
    pthread_mutex_lock(&s->lock);
    twalk_r(s->files, print_file, &p);
    p.kept = true;
    twalk_r(s->kept, print_file, &p);
    twalk_r(s->names, print_name, &p);
    pthread_mutex_unlock(&s->lock);
    return end_text(p.out, text);
}

/* ---- comparing ---- */

/* The text behind the word, if the record begins with it; else NULL. */
static const char *after_word(const char *record, const char *word) {
    size_t n = strlen(word);
    return strncmp(record, word, n) == 0 && record[n] == ' ' ? record + n + 1 : NULL;
}

enum { MODE_AND_ID = 6 + 1 + GIT_ID_DIGITS + 1 }; /* and blanks: the bytes before a path */

static int by_its_path(const void *a, const void *b) {
    return strcmp(*(char *const *)a + MODE_AND_ID, *(char *const *)b + MODE_AND_ID);
}

/* Lists the records of files, without their first words, sorted by path. False: no memory. */
static bool sort_files(const char *text, size_t len, const char ***list, size_t *n) {
    if (len == 0) return true; /* text may be NULL, to which not even 0 can be added */
    for (const char *at = text; at < text + len; at += strlen(at) + 1) {
        const char *rest = after_word(at, "file");
        if (!rest) rest = after_word(at, "watched");
        if (!rest || strlen(rest) <= MODE_AND_ID) continue;
        if (!ARRAY_ROOM(*list, *n)) return false;
        (*list)[(*n)++] = rest;
    }
    if (*n) qsort(*list, *n, sizeof **list, by_its_path);
    return true;
}

bool source_compare(const char *from, size_t from_len, const char *to, size_t to_len, char **text,
                    size_t *len) {
    const char **old = NULL, **new = NULL;
    size_t n_old = 0, n_new = 0, i = 0, k = 0;
    int said = 0, more = 0;
    bool whole = sort_files(from, from_len, &old, &n_old) && sort_files(to, to_len, &new, &n_new);
    FILE *out = whole ? open_memstream(text, len) : NULL;
    while (out && (i < n_old || k < n_new)) {
        int order = i == n_old ? 1 : k == n_new ? -1 : by_its_path(&old[i], &new[k]);
        const char *what = order < 0 ? "removed" : order > 0 ? "added" : "changed";
        const char *record = order < 0 ? old[i] : new[k];
        bool same = order == 0 && strncmp(old[i], new[k], MODE_AND_ID) == 0;
        i += order <= 0;
        k += order >= 0;
        if (same) continue;
        if (said++ < SOURCE_CHANGES_MAX)
            fprintf(out, "%s %s%c", what, record + MODE_AND_ID, 0);
        else
            more++;
    }
    if (more) fprintf(out, "more %d%c", more, 0);
    free(old);
    free(new);
    return out && end_text(out, text);
}
