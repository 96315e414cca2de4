/* The command line, and what --help prints: the commands, and of a command its options. */
#include "options.h"
#include "options_parts.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void usage_error(const char *command, const char *what) {
    fprintf(stderr, "lunapark: %s\ntry: lunapark %s --help\n", what, command);
    exit(64);
}

int options_parse(int argc, char **argv, const char *command, bool stop_at_word) {
    unsigned bit = options_command(command);
    int kept = 0, i = 0;
    for (; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) {
            options_help(command);
            if (bit != TEST) exit(0);
            argv[kept++] = argv[i]; /* busted's options come after ours */
            continue;
        }
        if (a[0] != '-' || a[1] == 0) {
            argv[kept++] = argv[i];
            if (!stop_at_word) continue;
            i++;
            break;
        }
        if (strcmp(a, "--") == 0) {
            i++;
            break;
        }
        const char *eq = strchr(a, '=');
        size_t n = eq ? (size_t)(eq - a) : strlen(a);
        option *o = strncmp(a, "--", 2) == 0 ? options_find(a + 2, n - 2) : NULL;
        if (o && !(o->commands & bit)) o = NULL;
        if (!o && bit == TEST) { /* an option of busted's */
            argv[kept++] = argv[i];
            continue;
        }
        char what[256];
        if (!o) {
            bool has_dashes = n > 2 && strncmp(a, "--", 2) == 0;
            const char *hint = has_dashes ? options_hint(a + 2, n - 2, bit, "--") : "";
            snprintf(what, sizeof what, "unknown option %.128s%s", a, hint);
            usage_error(command, what);
        }
        const char *none = o->kind == KIND_FLAG ? "1" : o->arg[0] == '[' ? "" : NULL;
        const char *value = eq ? eq + 1 : none ? none : ++i < argc ? argv[i] : NULL;
        if (!value) {
            snprintf(what, sizeof what, "--%s wants a value (%s)", o->name, o->arg);
            usage_error(command, what);
        }
        const char *err = options_set(o, value, FROM_COMMAND_LINE);
        if (err) {
            snprintf(what, sizeof what, "--%s", err);
            usage_error(command, what);
        }
    }
    while (i < argc)
        argv[kept++] = argv[i++];
    return kept;
}

static void print_options(const char *command) {
    unsigned bit = options_command(command);
    printf("\nOptions (also LUNAPARK_NAME=value in the environment):\n");
    for (int i = 0; i < N_OPTIONS; i++) {
        option *o = &options_table[i];
        if (!(o->commands & bit)) continue;
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->arg[0] == '[' ? "" : " ", o->arg);
        printf("  %-22s ", left);
        for (const char *s = o->help; *s; s++) {
            putchar(*s);
            if (*s == '\n') printf("%25s", "");
        }
        putchar('\n');
    }
    printf("  %-22s this text\n", "--help");
}

static const struct {
    const char *name, *usage, *text;
} commands[] = {
    {"serve", "lunapark [serve] APP.lua [options]",
     "Serves an app: a Lua file that returns lunapark.http's app, or a function(req, res).\n"
     "SIGTERM or SIGINT stops the server when all requests in flight are answered; a second\n"
     "signal stops it at once. SIGUSR2 starts the binary anew, with the listening sockets; the\n"
     "old process stops when the new one serves."},
    {"run", "lunapark run [options] SCRIPT.lua [args]",
     "Runs a script as the main G, with its arguments in `arg` and `...`; ends when the script\n"
     "returns. Exit code 1 if the script raises, 2 if all its Gs wait for each other."},
    {"test", "lunapark test [options] [busted's options] [paths]",
     "Runs busted specs inside the scheduler (default: spec/), with busted's options and exit\n"
     "code. A block fails if it takes too long, waits for what can never come, or leaves Gs,\n"
     "sockets or files behind."},
    {"check", "lunapark check [options] APP.lua",
     "Loads an app and reports errors, calls that block a thread, and what luacheck, if it is "
     "installed,\n"
     "finds in its files. Exit code 0 or 1."},
    {"routes", "lunapark routes [options] APP.lua",
     "Loads an app and lists what it answers: method, path, the line where the handler begins,\n"
     "the middleware around it."},
    {"repl", "lunapark repl [options]",
     "Reads a line, runs it in a G, prints its values. Waiting calls work; other Gs run "
     "meanwhile.\n"
     "Ctrl-C ends a wait, Ctrl-D ends the program. Without a terminal, stdin is read as a script."},
    {"tag", "lunapark tag [options] NAME [ID]",
     "Gives a generation of a running server a name, with which it is kept, and POST "
     "/rollback?to=NAME\n"
     "finds it: the one that serves, or the one of this id (GET /generations). Asks the server by\n"
     "the address of its --admin."},
    {"version", "lunapark version", "Prints the versions of Lunapark and of its parts."},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

void options_help(const char *command) {
    for (int i = 0; command && i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, command) != 0) continue;
        printf("usage: %s\n\n%s\n", commands[i].usage, commands[i].text);
        if (strcmp(command, "version") != 0) print_options(command);
        return;
    }
    printf("usage: lunapark COMMAND ...\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %s\n", commands[i].usage);
    printf("\nlunapark COMMAND --help tells more.\n");
}
