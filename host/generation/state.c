/* The directory in which generations outlive the process.
 *
 *     DIR/lunapark                 the mark of a state directory, with its form; the lock of the process that writes
 *     DIR/HEAD, config, objects/, refs/heads/main, refs/tags/
 *                                  a bare repository: commits, their trees and files (objects.c). The branch is the
 *                                  generation that served last
 *     DIR/shallow                  git's list of commits whose parents are not here
 *     DIR/generations/COMMIT       the record of a generation: what git does not keep (history.c)
 *
 * So `git --git-dir=DIR log`, `cat-file` and `fsck` work; the server needs no git. A folder that holds something, but
 * no mark, belongs to another program, and is refused unchanged.
 *
 * Order. Objects are on the disk before the record that names them, and are removed after it. So a generation with a
 * record is whole, whenever the process or the machine ends. An interruption leaves at most objects without a record.
 *
 * Two processes may share a directory: the two of an upgrade, or two servers of one app. Each writes under the lock,
 * and decides by the content of the directory, not by its memory, what to remove. Objects of a user, such as tags made
 * by git, are not touched: only objects of removed generations go, and of these only such that no other generation
 * has. While the record of a generation can not be read, its objects are not known, so nothing is removed.
 */
#include "state.h"

#include "../base/array.h"
#include "../base/log.h"
#include "../sys/replace.h"
#include "diskfile.h"
#include "history.h"
#include "message.h"
#include "objects.h"
#include "source_restore.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define FORM   "lunapark state 1\n"
#define RECORD "lunapark 1" /* the first record of a file in generations/, and the last is: */
#define END    "end"
enum { LOCK_S = 10, LOCK_LOOK_US = 10000 };

static struct {
    char *dir, *objects; /* absolute; NULL: there is none */
    int lock;            /* a descriptor of DIR/lunapark */
} state = {.lock = -1};

/* ---- files in it ---- */

static const char *in(char path[PATH_MAX], const char *folder, const char *name) {
    int n = snprintf(path, PATH_MAX, "%s/%s%s%s", state.dir, folder, *name ? "/" : "", name);
    return n < PATH_MAX ? path : "";
}

static char *failed(const char *path, int err) {
    return message_format("%s: %s", path, strerror(-err));
}

static char *put_file(const char *folder, const char *name, const char *bytes, size_t len) {
    char path[PATH_MAX];
    struct stat st;
    bool there = stat(in(path, folder, name), &st) == 0;
    int err = replace_file(path, bytes, len, there ? &st : NULL);
    return err ? failed(path, err) : NULL;
}

static char *put_id(const char *folder, const char *name, const git_id *id) {
    char line[GIT_ID_DIGITS + 2];
    git_print(id, line);
    strcat(line, "\n");
    return put_file(folder, name, line, strlen(line));
}

static char *put_if_missing(const char *name, const char *text) {
    char path[PATH_MAX];
    return access(in(path, name, ""), F_OK) == 0 ? NULL : put_file(name, "", text, strlen(text));
}

/* Calls fn for each visible name in a folder. */
static char *each_name(const char *folder, char *(*fn)(void *arg, const char *name), void *arg) {
    char path[PATH_MAX], *err = NULL;
    DIR *d = opendir(in(path, folder, ""));
    if (!d) return failed(path, -errno);
    for (struct dirent *e; !err && (e = readdir(d));)
        if (e->d_name[0] != '.') err = fn(arg, e->d_name);
    closedir(d);
    return err;
}

/* ---- opening ---- */

static char *is_a_name(void *arg, const char *name) {
    (void)name;
    *(bool *)arg = true;
    return NULL;
}

/* Marks an empty folder. Refuses a folder that is not ours. */
static char *check_form(void) {
    char path[PATH_MAX], *text;
    size_t len;
    bool opened, any = false;
    int err = disk_read(in(path, "lunapark", ""), &text, &len, NULL, &opened);
    if (!err) {
        bool ours = strcmp(text, FORM) == 0;
        free(text);
        return ours ? NULL : message_format("%s: was written by another version", path);
    }
    if (err != ENOENT) return failed(path, -err);
    char *why = each_name("", is_a_name, &any);
    if (why || !any) return why ? why : put_file("lunapark", "", FORM, strlen(FORM));
    return message_format("%s: is neither empty nor a state directory; nothing in it was changed",
                          state.dir);
}

static char *make_all(void) {
    static const char *const folders[] = {"objects", "refs", "refs/heads", "refs/tags",
                                          "generations"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (mkdir(in(path, folders[i], ""), 0777) < 0 && errno != EEXIST)
            return failed(path, -errno);
    char *err = put_if_missing("HEAD", "ref: refs/heads/main\n");
    if (!err)
        err = put_if_missing("config", "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
                                       "[gc]\n\tauto = 0\n");
    return err;
}

char *state_open(const char *dir) {
    char path[PATH_MAX];
    struct stat st;
    if (mkdir(dir, 0700) < 0 && errno != EEXIST) return failed(dir, -errno);
    state.dir = realpath(dir, NULL);
    if (!state.dir || stat(state.dir, &st) < 0) return failed(dir, -errno);
    if (!S_ISDIR(st.st_mode)) return failed(dir, -ENOTDIR);
    if (access(state.dir, R_OK | W_OK | X_OK) < 0) return failed(dir, -errno);
    char *err = check_form();
    if (!err) err = make_all();
    if (err) return err;
    state.objects = strdup(in(path, "objects", ""));
    if (!state.objects) return message_no_memory;
    state.lock = open(in(path, "lunapark", ""), O_RDONLY | O_CLOEXEC);
    return state.lock < 0 ? failed(path, -errno) : NULL;
}

static char *lock(void) {
    for (int i = 0; flock(state.lock, LOCK_EX | LOCK_NB) < 0; i++) {
        if (errno != EWOULDBLOCK && errno != EINTR) return failed(state.dir, -errno);
        if (i >= LOCK_S * 1000000 / LOCK_LOOK_US)
            return message_format("%s: another process has locked it for %d s", state.dir, LOCK_S);
        usleep(LOCK_LOOK_US);
    }
    return NULL;
}

static void unlock(void) {
    (void)flock(state.lock, LOCK_UN);
}

/* ---- what is there ---- */

static bool scan_id(const char *text, git_id *id) {
    return git_scan(text, id) && (!text[GIT_ID_DIGITS] || text[GIT_ID_DIGITS] == '\n');
}

/* Reads a record of generations/, which is whole. 0 or -errno. */
static int read_record(const char *name, char **record, size_t *len) {
    char path[PATH_MAX];
    bool opened;
    int err = disk_read(in(path, "generations", name), record, len, NULL, &opened);
    if (err) return -err;
    if (*len >= sizeof RECORD + sizeof END && memcmp(*record, RECORD, sizeof RECORD) == 0 &&
        memcmp(*record + *len - sizeof END, END, sizeof END) == 0)
        return 0;
    free(*record);
    return -EBADMSG;
}

typedef struct loading {
    bool (*each)(void *arg, state_generation *g);
    void *arg;
} loading;

static char *load_one(void *arg, const char *name) {
    const loading *l = arg;
    state_generation g = {0};
    if (!scan_id(name, &g.commit)) return NULL; /* not a record's name */
    int err = read_record(name, &g.record, &g.record_len);
    if (!err && (err = objects_read(state.objects, &g.commit, "commit", &g.text, &g.text_len)))
        free(g.record);
    if (!err && !l->each(l->arg, &g)) err = -EBADMSG;
    if (err)
        log_line(LOG_ERROR, "--state: generation %s can not be read (%s); it stays in %s", name,
                 err == -EBADMSG ? "it is damaged" : strerror(-err), state.dir);
    return NULL;
}

void state_load(bool (*each)(void *arg, state_generation *g), void *arg) {
    if (!state.objects) return;
    loading l = {each, arg};
    char *err = each_name("generations", load_one, &l);
    if (!err) return;
    log_line(LOG_ERROR, "--state: %s", err);
    message_free(err);
}

typedef struct loading_tags {
    void (*each)(void *arg, const char *name, const git_id *commit);
    void *arg;
} loading_tags;

static char *load_tag(void *arg, const char *name) {
    const loading_tags *l = arg;
    char path[PATH_MAX], *text;
    size_t len;
    bool opened;
    git_id id;
    if (disk_read(in(path, "refs/tags", name), &text, &len, NULL, &opened) != 0) return NULL;
    if (scan_id(text, &id)) l->each(l->arg, name, &id);
    free(text);
    return NULL;
}

void state_load_tags(void (*each)(void *arg, const char *name, const git_id *commit), void *arg) {
    if (!state.objects) return;
    loading_tags l = {each, arg};
    message_free(each_name("refs/tags", load_tag, &l)); /* a tag that can't be read is none */
}

int state_read_blob(void *arg, const git_id *id, file_blob **b) {
    (void)arg;
    char *bytes;
    size_t len;
    *b = blob_find(id);
    if (*b) return 0;
    if (!state.objects) return -ENOENT;
    int err = objects_read(state.objects, id, "blob", &bytes, &len);
    if (err) return err;
    *b = blob_keep(bytes, len);
    return *b ? 0 : -ENOMEM;
}

/* ---- removing ---- */

typedef struct item {
    git_id id, parent;
    bool has_parent, tagged, goes;
    long seq;
    char *record;
    size_t len;
} item;

typedef struct items {
    item *list;
    size_t n;
    bool damaged;  /* a record can not be read */
    void *objects; /* tree of git_id: objects of the generations that stay */
} items;

static const char *value_of(const char *record, size_t len, const char *word) {
    size_t n = strlen(word);
    for (const char *at = record; at < record + len; at += strlen(at) + 1)
        if (strncmp(at, word, n) == 0 && at[n] == ' ') return at + n + 1;
    return NULL;
}

static char *list_one(void *arg, const char *name) {
    items *all = arg;
    item it = {0};
    if (!scan_id(name, &it.id)) return NULL;
    if (!ARRAY_ROOM(all->list, all->n)) return message_no_memory;
    if (read_record(name, &it.record, &it.len) != 0) {
        all->damaged = true;
        return NULL;
    }
    const char *seq = value_of(it.record, it.len, "seq");
    const char *parent = value_of(it.record, it.len, "parent");
    it.seq = seq ? strtol(seq, NULL, 10) : 0;
    it.has_parent = parent && git_scan(parent, &it.parent);
    all->list[all->n++] = it;
    return NULL;
}

static item *find_item(items *all, const git_id *id) {
    for (size_t i = 0; i < all->n; i++)
        if (memcmp(&all->list[i].id, id, sizeof *id) == 0) return &all->list[i];
    return NULL;
}

static void mark_tagged(void *arg, const char *name, const git_id *commit) {
    (void)name;
    item *it = find_item(arg, commit);
    if (it) it->tagged = true;
}

static int latest_first(const void *a, const void *b) {
    long x = ((const item *)a)->seq, y = ((const item *)b)->seq;
    return (x < y) - (x > y);
}

/* Tells git which commits have parents that are not here. */
static char *put_shallow(items *all) {
    char *text = NULL, path[PATH_MAX], digits[GIT_ID_DIGITS + 1];
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (!out) return message_no_memory;
    for (size_t i = 0; i < all->n; i++) {
        const item *it = &all->list[i], *parent = it->has_parent ? find_item(all, &it->parent) : it;
        git_print(&it->id, digits);
        if (!it->goes && (!parent || parent->goes)) fprintf(out, "%s\n", digits);
    }
    char *err = fclose(out) != 0 ? message_no_memory : NULL;
    if (!err && len)
        err = put_file("shallow", "", text, len);
    else if (!err && unlink(in(path, "shallow", "")) < 0 && errno != ENOENT)
        err = failed(path, -errno);
    free(text);
    return err;
}

static int by_id(const void *a, const void *b) {
    return memcmp(a, b, sizeof(git_id));
}

static bool note_object(void *arg, const char *type, const git_id *id, const void *bytes,
                        size_t len) {
    (void)type;
    (void)bytes;
    (void)len;
    items *all = arg;
    git_id *own = malloc(sizeof *own);
    if (!own) return false;
    *own = *id;
    git_id **found = tsearch(own, &all->objects, by_id);
    if (!found || *found != own) free(own);
    return found;
}

static bool remove_object(void *arg, const char *type, const git_id *id, const void *bytes,
                          size_t len) {
    (void)type;
    (void)bytes;
    (void)len;
    items *all = arg;
    if (!tfind(id, &all->objects, by_id)) (void)objects_remove(state.objects, id);
    return true; /* an object that stays does no harm */
}

static char *remove_items(items *all) {
    char path[PATH_MAX], digits[GIT_ID_DIGITS + 1];
    for (size_t i = 0; i < all->n; i++) {
        const item *it = &all->list[i];
        if (!it->goes && !source_objects(it->record, it->len, note_object, all))
            return message_format("%s: not enough memory, or a damaged list of files", state.dir);
    }
    for (size_t i = 0; i < all->n; i++) {
        const item *it = &all->list[i];
        if (!it->goes) continue;
        git_print(&it->id, digits);
        if (unlink(in(path, "generations", digits)) < 0) return failed(path, -errno);
        (void)source_objects(it->record, it->len, remove_object, all);
        (void)objects_remove(state.objects, &it->id);
    }
    return NULL;
}

/* lock held. Removes the generations that are too old or replaced. */
static char *clear_up(const git_id *replaces) {
    items all = {0};
    size_t n_stay = 0;
    bool any = false;
    char *err = each_name("generations", list_one, &all);
    if (!err) {
        state_load_tags(mark_tagged, &all);
        if (all.n) qsort(all.list, all.n, sizeof *all.list, latest_first);
        for (size_t i = 0; i < all.n && !all.damaged; i++) {
            item *it = &all.list[i];
            bool replaced = replaces && memcmp(&it->id, replaces, sizeof *replaces) == 0;
            it->goes = !it->tagged && (replaced || n_stay >= HISTORY_MAX);
            any |= it->goes;
            n_stay += !it->goes;
        }
        err = put_shallow(&all);
    }
    if (!err && any) err = remove_items(&all);
    for (size_t i = 0; i < all.n; i++)
        free(all.list[i].record);
    free(all.list);
    tdestroy(all.objects, free);
    return err;
}

/* ---- writing ---- */

typedef struct writing {
    const char *root;
    object_batch batch;
    int err;           /* why an object could not be written */
    const char *about; /* the file that could not be */
} writing;

static bool write_object(void *arg, const char *type, const git_id *id, const void *bytes,
                         size_t len) {
    writing *w = arg;
    char path[PATH_MAX];
    const char *name = bytes;
    if (strcmp(type, "blob") != 0) {
        w->err = objects_write(&w->batch, type, id, bytes, len);
        return !w->err;
    }
    file_blob *b = blob_find(id);
    if (b) {
        w->err = objects_write(&w->batch, type, id, b->bytes, b->len);
        blob_drop(b);
    } else if (name[0] == '/') {
        w->err = objects_write_file(&w->batch, id, name);
    } else {
        int n = snprintf(path, sizeof path, "%s%s", w->root, name);
        w->err = n < PATH_MAX ? objects_write_file(&w->batch, id, path) : -ENAMETOOLONG;
    }
    w->about = w->err ? name : NULL;
    return !w->err;
}

static char *write_objects(const state_generation *g, const char *root) {
    writing w = {.root = root, .batch.dir = state.objects};
    bool whole = source_objects(g->record, g->record_len, write_object, &w);
    int err = whole   ? objects_write(&w.batch, "commit", &g->commit, g->text, g->text_len)
              : w.err ? w.err
                      : -ENOMEM;
    err = objects_end(&w.batch, err);
    if (err == -ESTALE && w.about) return message_format("%s: has changed meanwhile", w.about);
    return err ? failed(state.objects, err) : NULL;
}

char *state_store(const state_generation *g, const char *root, const git_id *replaces) {
    char digits[GIT_ID_DIGITS + 1];
    if (!state.objects) return NULL;
    char *err = lock();
    if (err) return err;
    git_print(&g->commit, digits);
    err = write_objects(g, root);
    if (!err) err = put_file("generations", digits, g->record, g->record_len);
    if (!err) err = put_id("refs/heads", "main", &g->commit);
    if (!err) err = clear_up(replaces);
    unlock();
    return err;
}

char *state_tag(const char *name, const git_id *commit) {
    char path[PATH_MAX];
    if (!state.objects) return NULL;
    char *err = lock();
    if (err) return err;
    if (commit)
        err = put_id("refs/tags", name, commit);
    else if (unlink(in(path, "refs/tags", name)) < 0 && errno != ENOENT)
        err = failed(path, -errno);
    unlock();
    return err;
}
