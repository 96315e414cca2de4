/* main(): finds the command and its options, and starts the runtime. */
#include "../../runtime/runtime.h"
#include "../base/near.h"
#include "../base/options.h"
#include "../sys/compress.h"
#include "../sys/crypto.h"
#include "commands.h"
#include "inherit.h"
#include "reaper.h"
#include "rooms.h"
#include "upgrade.h"
#include "user.h"

#include <ares.h>
#include <luajit.h>
#include <luajit_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static command_call call;

static void print_version(void) {
    char compression[256];
    compress_versions(compression, sizeof compression);
    printf("lunapark %s\n%s%s\nc-ares %s\nOpenSSL %s\n%s", LUNAPARK_VERSION, LUAJIT_VERSION,
           LUAJIT_SIDE_TRACES ? "" : " (as packaged: no side traces)", ares_version(NULL),
           crypto_version(), compression);
}

static _Noreturn void usage(void) {
    fprintf(stderr, "lunapark: which script?\ntry: lunapark --help\n");
    exit(64);
}

static const struct {
    const char *name;
    void (*run)(void *);
    bool takes_args;
} commands[] = {
    {"serve", command_serve, false},   {"run", command_run, true},    {"test", command_test, false},
    {"check", command_check, false},   {"repl", command_repl, false}, {"tag", command_tag, false},
    {"routes", command_routes, false},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

/* Ends the process if `name`, which is no command, is meant to be one: it is no file, and no file is named like it. */
static void check_command(const char *name) {
    if (name[0] == '-' || strpbrk(name, "./") || access(name, F_OK) == 0) return;
    near_search search;
    near_begin(&search, name, strlen(name));
    for (int i = 0; i < N_COMMANDS; i++)
        near_look(&search, commands[i].name);
    near_look(&search, "version");
    fprintf(stderr, "lunapark: '%s' is neither a command nor a file", name);
    if (search.name) fprintf(stderr, ": did you mean %s?", search.name);
    fprintf(stderr, "\ntry: lunapark --help\n");
    exit(64);
}

static _Noreturn void start(void (*command)(void *)) {
    rt_options o = {.procs = (int)options.procs, .deadlock_is_normal = command == command_serve};
    rt_main(&o, command, &call);
}

/* Makes LUNAPARK_LUA absolute, for scripts that change the directory, and for programs that we start. */
static void name_lua_folder(void) {
    const char *dir = getenv("LUNAPARK_LUA");
    if (!dir) return;
    char *path = realpath(dir, NULL); /* without such a folder all modules are the binary's */
    if (path) setenv("LUNAPARK_LUA", path, 1);
    free(path);
}

int main(int argc, char **argv) {
    (void)setvbuf(stdout, NULL, _IOLBF,
                  0); /* what a script prints is in a container's log at once */
    if (argc < 2) usage();
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        options_help(argc > 2 ? argv[2] : NULL);
        return 0;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-v") == 0 || strcmp(name, "version") == 0) {
        if (argc > 2 && strcmp(argv[2], "--help") == 0)
            options_help("version");
        else
            print_version();
        return 0;
    }
    int which = 0, skip = 1;
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0) {
            which = i;
            skip = 2;
        }
    if (skip == 1) check_command(name);
    bool serves = commands[which].run == command_serve;
    if (serves || commands[which].run == command_run) reaper_split();
    rooms_open();
    if (serves) upgrade_init(argc, argv);
    options_from_env();
    name_lua_folder();
    call.exe = argv[0];
    call.argv = argv + skip;
    call.argc =
        options_parse(argc - skip, call.argv, commands[which].name, commands[which].takes_args);
    bool is_test = commands[which].run == command_test;
    bool is_repl = commands[which].run == command_repl;
    if (is_repl && call.argc > 0) {
        fprintf(stderr, "lunapark: repl takes no '%s'\ntry: lunapark repl --help\n", call.argv[0]);
        return 64;
    }
    bool is_tag = commands[which].run == command_tag;
    if (is_tag && (call.argc < 1 || call.argc > 2)) {
        fprintf(stderr,
                "lunapark: tag takes a name, and perhaps an id\ntry: lunapark tag --help\n");
        return 64;
    }
    if (!is_test && !is_repl && call.argc < 1) usage();
    if (!is_test && !is_tag && !commands[which].takes_args && call.argc > 1) {
        fprintf(stderr, "lunapark: one script, not '%s' too\ntry: lunapark %s --help\n",
                call.argv[1], commands[which].name);
        return 64;
    }
    if (serves) {
        inherit_init();
        user_become();
    }
    start(commands[which].run);
}
