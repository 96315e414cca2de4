/* source: a set's files are the same ever after; its id is git's; what counts as a change. */
#include "../generation/diskfile.h"
#include "../vm/luag.h"
#include "../command/rooms.h"
#include "../generation/source.h"
#include "../vm/vm.h"

#include <lauxlib.h>

#include "../../runtime/test/harness.h"
#include "files.h"
#include "script.h"

/* ---- what they share ---- */

static source_set *set_of_app(void) {
    return source_set_new(path_of("app/main.lua"));
}

/* The set's text of a file; NULL: it has none. */
static const char *get(source_set *s, const char *rel) {
    int err;
    const source_file *f = source_get(s, path_of(rel), &err, NULL);
    return f ? f->bytes : NULL;
}

static void expect_text(source_set *s, const char *rel, const char *text) {
    const char *got = get(s, rel);
    if (!got || strcmp(got, text) != 0) fail_msg("%s: %s, not %s", rel, got ? got : "none", text);
}

static bool same_id(source_set *a, source_set *b) {
    char ids[2][SOURCE_ID_SIZE];
    source_id(a, ids[0]);
    source_id(b, ids[1]);
    return strcmp(ids[0], ids[1]) == 0;
}

/* ---- the id ---- */

/* What git prints for an index of all files below app/. */
static void git_id_of_app(char id[64]) {
    char cmd[1024];
    snprintf(
        cmd, sizeof cmd,
        "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_DIR=%s/git "
        "GIT_WORK_TREE=%s/app; cd %s/app && rm -rf ../git && git init -q && git add -f -A . && "
        "git write-tree",
        test_dir, test_dir, test_dir);
    FILE *f = popen(cmd, "r"); /* NOLINT: the shell is meant */
    assert_non_null(f);
    if (!fgets(id, 64, f)) id[0] = 0;
    assert_int_equal(pclose(f), 0);
    id[strcspn(id, "\n")] = 0;
}

/* All files below app/ are loaded, by `find`'s order or the reverse. */
static void load_all(source_set *s, bool reverse) {
    char cmd[256], line[PATH_MAX];
    snprintf(cmd, sizeof cmd, "find %s/app -type f | sort %s", test_dir, reverse ? "-r" : "");
    FILE *f = popen(cmd, "r"); /* NOLINT: the shell is meant */
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        int err;
        line[strcspn(line, "\n")] = 0;
        if (!source_get(s, line, &err, NULL)) fail_msg("%s: %s", line, strerror(err));
    }
    assert_int_equal(pclose(f), 0);
}

static void expect_git_id(void) {
    char ours[SOURCE_ID_SIZE], gits[64];
    git_id_of_app(gits);
    for (int reverse = 0; reverse < 2; reverse++) {
        source_set *s = set_of_app();
        load_all(s, reverse);
        source_id(s, ours);
        assert_string_equal(ours, gits);
        source_set_free(s);
    }
    source_set *s = set_of_app(); /* the same without bytes */
    assert_int_equal(source_watch(s, path_of("app")), 0);
    source_id(s, ours);
    assert_string_equal(ours, gits);
    assert_true(source_unchanged(s));
    source_set_free(s);
}

static void the_id_is_gits(void **state) {
    (void)state;
    static const char *const names[] = {
        "main.lua", "a/b",   "a/b.lua", "a.lua", "a-b",          "a0",    "a/c/d/e/f",
        "A/b",      "ab/c",  "a.b/c",   "a b",   "b/a-b",        "b/a/x", "b/a.x",
        "\xc3\xa4", "z/~/1", "z/-",     "z0/1",  "lib/init.lua",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char rel[64];
        snprintf(rel, sizeof rel, "app/%s", names[i]);
        assert_true(put(rel, i == 3 ? "" : names[i]));
    }
    assert_true(put_bytes("app/nul", "a\0b\n", 4));
    assert_true(shell("chmod 755 app/a/b app/a.lua; chmod 654 app/ab/c"));
    expect_git_id();
}

static void the_id_is_gits_for_any_tree(void **state) {
    (void)state;
    static const char *const parts[] = {"a", "b", "a.", "a-", "a0", "a.lua", "-", "~", "B"};
    enum { PARTS = sizeof parts / sizeof *parts };
    uint64_t rnd = 1;
    for (int round = 0; round < ROUNDS(12); round++) {
        assert_true(shell("rm -rf app"));
        for (int i = 0, n = 1 + (int)random_below(&rnd, 60); i < n; i++) {
            char rel[256] = "app", text[64];
            for (int deep = 1 + (int)random_below(&rnd, 5); deep > 0; deep--) {
                strcat(rel, "/");
                strcat(rel, parts[random_below(&rnd, PARTS)]);
            }
            /* A name may be a folder's already. */
            (void)put_bytes(rel, text, (size_t)snprintf(text, sizeof text, "%d", i) * (i % 5 > 0));
            if (i % 3 == 0) (void)chmod(path_of(rel), 0755);
        }
        expect_git_id();
    }
}

static void an_empty_set_is_the_empty_tree(void **state) {
    (void)state;
    char id[SOURCE_ID_SIZE];
    source_set *s = set_of_app();
    source_id(s, id);
    assert_string_equal(id, "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
    assert_true(source_unchanged(s));
    source_set_free(s);
}

static void files_elsewhere_add_to_the_id(void **state) {
    (void)state;
    int err;
    char ids[4][SOURCE_ID_SIZE], system[PATH_MAX];
    assert_true(realpath("/usr/bin/env", system) != NULL);
    assert_true(put("app/main.lua", "return 1") && put("other/x.lua", "x"));
    for (int i = 0; i < 4; i++) {
        source_set *s = set_of_app();
        expect_text(s, "app/main.lua", "return 1");
        if (i == 1) assert_non_null(source_get(s, system, &err, NULL));
        if (i == 3) assert_true(put("other/x.lua", "y"));
        if (i >= 2) assert_non_null(get(s, "other/x.lua"));
        source_id(s, ids[i]);
        source_set_free(s);
    }
    assert_string_equal(ids[0], ids[1]);
    assert_int_equal(strlen(ids[0]), 40);
    assert_int_equal(strlen(ids[2]), 49);
    assert_memory_equal(ids[0], ids[2], 40);
    assert_memory_equal(ids[0], ids[3], 40);
    assert_string_not_equal(ids[2], ids[3]);
}

/* ---- the same bytes ever after ---- */

static void a_set_keeps_what_it_read(void **state) {
    (void)state;
    assert_true(put("app/a.lua", "old") && put("app/b.lua", "old"));
    source_set *s = set_of_app(), *later;
    expect_text(s, "app/a.lua", "old");
    assert_true(source_settled(s));
    assert_true(put("app/a.lua", "new"));
    expect_text(s, "app/a.lua", "old");
    assert_false(source_settled(s));
    assert_true(shell("rm app/a.lua"));
    expect_text(s, "app/a.lua", "old");
    assert_false(source_settled(s));
    assert_true(put("app/a.lua", "new"));
    later = set_of_app();
    expect_text(later, "app/a.lua", "new");
    assert_false(same_id(s, later));
    source_set_free(s);
    source_set_free(later);
}

static void names_of_one_file_are_one_file(void **state) {
    (void)state;
    assert_true(put("app/a.lua", "a") && shell("ln -s a.lua app/link.lua && ln -s . app/here"));
    source_set *s = set_of_app();
    const char *bytes = get(s, "app/a.lua");
    assert_ptr_equal(get(s, "app/link.lua"), bytes);
    assert_ptr_equal(get(s, "app/here/here/a.lua"), bytes);
    assert_ptr_equal(get(s, "app/./../app//a.lua"), bytes);
    source_set *one = set_of_app();
    assert_ptr_equal(get(one, "app/a.lua"), bytes); /* the bytes are in memory once */
    assert_true(same_id(s, one));
    /* Where a name leads is a part of it. */
    assert_true(put("app/b.lua", "b") && shell("ln -sfn b.lua app/link.lua"));
    assert_false(source_unchanged(s));
    assert_true(source_unchanged(one));
    source_set_free(s);
    source_set_free(one);
}

static void a_release_that_is_replaced_stays_whole(void **state) {
    (void)state;
    assert_true(put("1/main.lua", "1") && put("1/lib.lua", "lib 1") && put("2/main.lua", "1") &&
                put("2/lib.lua", "lib 2") && shell("ln -s 1 current"));
    source_set *s = source_set_new(path_of("current/main.lua"));
    expect_text(s, "current/main.lua", "1");
    assert_true(source_unchanged(s));
    assert_true(shell("ln -sfn 2 current"));
    assert_false(source_unchanged(s)); /* although main.lua has the same bytes */
    expect_text(s, "current/lib.lua", "lib 1");
    source_set_free(s);
}

enum { FILES = 40 };

static void *read_them(void *arg) {
    for (int i = 0; i < FILES; i++) {
        char rel[128], text[32];
        snprintf(rel, sizeof rel, "%s/app/%d.lua", test_dir, i);
        int err;
        const source_file *f = source_get(arg, rel, &err, NULL);
        snprintf(text, sizeof text, "%d", i);
        EXPECT(f && strncmp(f->bytes, text, strlen(text)) == 0);
        if (i % 10 == 0) (void)source_unchanged(arg);
    }
    return NULL;
}

static void threads_get_the_same(void **state) {
    (void)state;
    pthread_t t[4];
    source_set *s = set_of_app();
    for (int i = 0; i < FILES; i++) {
        char rel[32], text[32];
        snprintf(rel, sizeof rel, "app/%d.lua", i);
        snprintf(text, sizeof text, "%d", i);
        assert_true(put(rel, text));
    }
    for (int i = 0; i < 4; i++)
        t[i] = foreign(read_them, s);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    fail_if_recorded();
    assert_true(source_unchanged(s));
    expect_git_id();
    source_set_free(s);
}

/* ---- what is a change ---- */

static void the_same_bytes_are_no_change(void **state) {
    (void)state;
    assert_true(put("app/a.lua", "text") && put("app/b.lua", "more"));
    source_set *s = set_of_app();
    assert_non_null(get(s, "app/a.lua"));
    assert_non_null(get(s, "app/b.lua"));
    static const char *const harmless[] = {
        "touch app/a.lua",
        "touch -d 2001-01-01 app/a.lua",
        "printf text >app/a.lua",
        "printf text >app/new && mv app/new app/a.lua",
        "mv app/a.lua app/b && mv app/b app/a.lua",
        "chmod 640 app/a.lua",
        "touch app/unknown.lua",
    };
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        assert_true(shell("%s", harmless[i]));
        if (!source_unchanged(s)) fail_msg("a change: %s", harmless[i]);
    }
    static const char *const changes[] = {
        "printf tex2 >app/a.lua",
        "printf tex2 >app/new && mv app/new app/a.lua",
        "printf longer >app/a.lua",
        "printf '' >app/a.lua",
        "rm app/a.lua",
        "rm app/a.lua && mkdir app/a.lua",
        "chmod 755 app/a.lua",
        "rm app/a.lua && mkfifo app/a.lua",
        "rm app/a.lua && ln -s b.lua app/a.lua",
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        assert_true(shell("%s", changes[i]));
        if (source_unchanged(s)) fail_msg("no change: %s", changes[i]);
        assert_true(shell("rm -rf app/a.lua && printf text >app/a.lua"));
        if (!source_unchanged(s)) fail_msg("put right: %s", changes[i]);
    }
    source_set_free(s);
}

static void saves_within_one_tick_are_seen(void **state) {
    (void)state;
    for (int i = 0; i < ROUNDS(300); i++) {
        assert_true(put("app/a.lua", "aaaa"));
        source_set *s = set_of_app();
        expect_text(s, "app/a.lua", "aaaa");
        if (i % 2) assert_true(source_unchanged(s));
        assert_true(put("app/a.lua", "bbbb"));
        assert_false(source_unchanged(s));
        source_set_free(s);
    }
}

static void a_missing_file_that_comes_is_a_change(void **state) {
    (void)state;
    int err;
    bool opened = true;
    source_set *s = set_of_app();
    assert_null(source_get(s, path_of("app/no/x.lua"), &err, &opened));
    assert_int_equal(err, ENOENT);
    assert_false(opened);
    assert_true(source_unchanged(s));
    assert_true(put("app/no/x.lua", "x"));
    assert_false(source_unchanged(s));
    expect_text(s, "app/no/x.lua", "x");
    assert_true(source_unchanged(s));
    source_set_free(s);
}

static void a_file_that_comes_is_not_there_for_later_vms(void **state) {
    (void)state;
    int err;
    source_set *s = set_of_app();
    assert_null(source_get_to_load(s, path_of("app/a.lua"), &err, NULL));
    assert_true(put("app/a.lua", "too early"));
    assert_non_null(
        source_get_to_load(s, path_of("app/a.lua"), &err, NULL)); /* the first VM loads still */
    assert_null(source_get_to_load(s, path_of("app/b.lua"), &err, NULL));
    source_has_loaded(s);
    assert_true(put("app/b.lua", "b"));
    assert_null(source_get_to_load(s, path_of("app/b.lua"), &err, NULL));
    assert_int_equal(err, ENOENT);
    assert_false(source_unchanged(s));
    expect_text(s, "app/b.lua", "b"); /* in a request */
    source_set_free(s);
}

static void folders_are_watched(void **state) {
    (void)state;
    assert_true(put("app/t/a.html", "a") && put("app/t/sub/b.html", "b") &&
                shell("ln -s a.html app/t/c.html && ln -s .. app/t/sub/up && mkdir app/t/empty"));
    source_set *s = set_of_app();
    assert_int_equal(source_watch(s, path_of("app/none")), -ENOENT);
    assert_int_equal(source_watch(s, path_of("app/t/")), 0);
    assert_int_equal(source_watch(s, path_of("app/t")), 0);
    assert_true(source_unchanged(s));
    static const char *const harmless[] = {
        "touch app/t/.a.html.swp", "mkdir -p app/t/.git && touch app/t/.git/x",
        "mkdir app/t/new",         "touch app/x.html",
        "touch app/t/a.html",      "mkfifo app/t/fifo",
    };
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        assert_true(shell("%s", harmless[i]));
        if (!source_unchanged(s)) fail_msg("a change: %s", harmless[i]);
    }
    static const char *const changes[][2] = {
        {"touch app/t/new/d", "rm app/t/new/d"},
        {"echo 1 >app/t/sub/b.html", "printf b >app/t/sub/b.html"},
        {"mv app/t/sub app/t/sub2", "mv app/t/sub2 app/t/sub"},
        {"mv app/t/a.html app/t/z.html", "mv app/t/z.html app/t/a.html"},
        {"mv app/t app/u", "mv app/u app/t"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        assert_true(shell("%s", changes[i][0]));
        if (source_unchanged(s)) fail_msg("no change: %s", changes[i][0]);
        assert_true(shell("%s", changes[i][1]));
        if (!source_unchanged(s)) fail_msg("put right: %s", changes[i][1]);
    }
    /* One of its files is loaded as well. */
    expect_text(s, "app/t/a.html", "a");
    source_set_free(s);
}

/* ---- limits ---- */

static void what_can_not_be_loaded(void **state) {
    (void)state;
    int err;
    bool opened;
    assert_true(put("app/big.lua", "") && put("app/max.lua", "") && shell("mkdir app/dir"));
    assert_int_equal(truncate(path_of("app/big.lua"), DISKFILE_MAX + 1), 0);
    assert_int_equal(truncate(path_of("app/max.lua"), DISKFILE_MAX), 0);
    source_set *s = set_of_app();
    assert_null(source_get(s, path_of("app/big.lua"), &err, &opened));
    assert_int_equal(err, EFBIG);
    assert_true(opened);
    assert_null(source_get(s, path_of("app/dir"), &err, &opened));
    assert_int_equal(err, EISDIR);
    assert_true(opened);
    assert_null(source_get(s, "", &err, &opened));
    assert_int_equal(err, ENOENT);
    const source_file *f = source_get(s, path_of("app/max.lua"), &err, &opened);
    assert_non_null(f);
    assert_int_equal(f->len, DISKFILE_MAX);
    /* What stat knows no size of, and what has no end. */
    assert_non_null(f = source_get(s, "/proc/self/status", &err, &opened));
    assert_true(strncmp(f->bytes, "Name:", 5) == 0 && f->len == strlen(f->bytes));
    assert_null(source_get(s, "/dev/zero", &err, &opened));
    assert_int_equal(err, EFBIG);
    char *deep = calloc(1, 2 * PATH_MAX);
    assert_non_null(deep);
    memset(deep, 'x', 2 * PATH_MAX - 1);
    assert_null(source_get(s, deep, &err, &opened));
    assert_int_equal(err, ENAMETOOLONG);
    free(deep);
    source_set_free(s);
}

static void an_app_that_is_not_there(void **state) {
    (void)state;
    int err;
    source_set *s = source_set_new("/nowhere/at/all/app.lua");
    assert_null(source_get(s, "/nowhere/at/all/app.lua", &err, NULL));
    assert_int_equal(err, ENOENT);
    assert_true(source_unchanged(s));
    source_set_free(s);
    source_set_free(NULL);
}

/* ---- in VMs ---- */

/* What it returns in a new VM with this set. */
static script run_in_vm(source_set *set, const char *text) {
    script s = {.text = text};
    host_vm *vm = vm_new(0);
    vm->sources = set;
    run_boot(vm, push_script, &s, &s);
    vm_drop(vm);
    return s;
}

static void vms_of_a_set_load_the_same(void *arg) {
    (void)arg;
    CHECK(put("app/main.lua", "return 'main ' .. require 'mod' .. dofile(DIR .. '/inc.lua')"));
    CHECK(put("app/mod.lua", "return 'mod '") && put("app/inc.lua", "return 'inc'"));
    char text[1024];
    snprintf(
        text, sizeof text,
        "require('lunapark.std.source').install() DIR = '%s/app' package.path = DIR .. '/?.lua'\n"
        "local ok, err = loadfile(DIR .. '/none.lua')\n"
        "assert(not ok and err:find('none.lua: No such file', 1, true), err)\n"
        "assert(require('lunapark.std.source').watch(DIR))\n"
        "return loadfile(DIR .. '/main.lua')()",
        test_dir);
    source_set *s = set_of_app();
    script first = run_in_vm(s, text);
    EXPECT_EQ(strcmp(first.said, "main mod inc"), 0);
    CHECK(put("app/mod.lua", "return 'new '") && put("app/inc.lua", "= syntax error"));
    first = run_in_vm(s, text);
    EXPECT_EQ(strcmp(first.said, "main mod inc"), 0);
    EXPECT(!source_unchanged(s));
    source_set *later = set_of_app();
    first = run_in_vm(later, text);
    EXPECT(first.status != 0 && strstr(first.said, "inc.lua:1: "));
    EXPECT(source_unchanged(later));
    source_set_free(s);
    source_set_free(later);
}

#define row(f)                                                                                     \
    { #f, f, make_dir, remove_dir, NULL }

int main(void) {
    rooms_open();
    struct CMUnitTest in_vms = in_g_test(vms_of_a_set_load_the_same);
    in_vms.setup_func = make_dir;
    in_vms.teardown_func = remove_dir;
    const struct CMUnitTest tests[] = {
        row(the_id_is_gits),
        row(the_id_is_gits_for_any_tree),
        row(an_empty_set_is_the_empty_tree),
        row(files_elsewhere_add_to_the_id),
        row(a_set_keeps_what_it_read),
        row(names_of_one_file_are_one_file),
        row(a_release_that_is_replaced_stays_whole),
        row(threads_get_the_same),
        row(the_same_bytes_are_no_change),
        row(saves_within_one_tick_are_seen),
        row(a_missing_file_that_comes_is_a_change),
        row(a_file_that_comes_is_not_there_for_later_vms),
        row(folders_are_watched),
        row(what_can_not_be_loaded),
        row(an_app_that_is_not_there),
        in_vms,
    };
    RUN_TESTS("source", tests);
}
