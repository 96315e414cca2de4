/* Options: one table for parsing, --help, the environment and the app's settings.
 *
 * The command line wins over the environment (LUNAPARK_MAX_BODY=...), the environment over the app
 * (app.options.max_body), the app over the default.
 *
 * Settings that an app makes while it loads are put aside (staged), and count when its generation begins to serve. An
 * option that only the last generation's app has set gets its default again. Addresses to listen on, and names of
 * files, are fixed when the first generation serves.
 */
#include "options.h"

#include "addr.h"
#include "base_ffi.h"
#include "log.h"
#include "near.h"
#include "options_parts.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULTS                                                                                   \
    {                                                                                              \
        .limits = {.max_body = 1 << 20,                                                            \
                   .max_head = 16384,                                                              \
                   .max_headers = 100,                                                             \
                   .min_rate = 240,                                                                \
                   .header_timeout = 10,                                                           \
                   .idle_timeout = 75,                                                             \
                   .handler_timeout = 30},                                                         \
        .kill_after = 5, .drain_timeout = 8, .load_timeout = 10, .upgrade_timeout = 30,            \
        .log_level = LOG_INFO, .vm_memory = 1 << 30, .live_reload = 1, .block_timeout = 10,        \
        .seed = -1, .rounds = 1, .jobs = 1, .coverage_dir = "build/coverage",                      \
    }
host_options options = DEFAULTS;

option options_table[] = {
    {"listen", "ADDR",
     "where to listen: HOST:PORT (port 0 picks one) or unix:PATH; repeatable\n"
     "(default 127.0.0.1:8080)",
     KIND_ADDR, SERVE, NULL, 0, 0, 0},
    {"procs", "N", "how many Gs run at once (default: the CPUs this process may use)", KIND_INT,
     EVERYWHERE, &options.procs, 1, 256, 0},
    {"max-body", "BYTES", "largest request body (default 1048576)", KIND_INT, SERVE | RUN | TEST,
     &options.limits.max_body, 0, 1e15, 0},
    {"max-head", "BYTES",
     "largest request head, all lines together; a larger one is answered 431 (default\n"
     "16384)",
     KIND_INT, SERVE | RUN | TEST, &options.limits.max_head, 1024, 16 << 20, 0},
    {"max-headers", "N",
     "how many header fields a request may have; more are answered 431 (default 100)", KIND_INT,
     SERVE | RUN | TEST, &options.limits.max_headers, 1, 65535, 0},
    {"header-timeout", "S", "seconds for a request head to arrive (default 10)", KIND_SECONDS,
     SERVE | RUN | TEST, &options.limits.header_timeout, 0.001, 1e6, 0},
    {"idle-timeout", "S", "seconds a connection may be silent (default 75)", KIND_SECONDS,
     SERVE | RUN | TEST, &options.limits.idle_timeout, 0.001, 1e6, 0},
    {"max-conns", "N",
     "how many connections there may be; beyond that the connection that has been idle\n"
     "for longest is closed for a new one, which gets 503 if none is idle (default: what\n"
     "the limit of descriptors leaves beside a reserve for files and other sockets)",
     KIND_INT, SERVE | RUN | TEST, &options.max_conns, 1, INT_MAX, 0},
    {"max-conns-per-addr", "N",
     "how many connections one address (with IPv6, one /64) may have; further ones get\n"
     "503 (default 0: no limit)",
     KIND_LIMIT, SERVE | RUN | TEST, &options.max_conns_per_addr, 1, INT_MAX, 0},
    {"min-rate", "BYTES_PER_S",
     "bytes a second that a client must send of a body, or read of an answer, on\n"
     "average over each --idle-timeout spent waiting for the client; the connection of\n"
     "a slower client is closed (default 240; 0: no limit)",
     KIND_LIMIT, SERVE | RUN | TEST, &options.limits.min_rate, 1, 1e12, 0},
    {"handler-timeout", "S",
     "seconds a handler may take to answer; then the client gets 504. A response that\n"
     "has begun is cut off when for so long nothing of it was written, or taken by the\n"
     "client (default 30; 0: no limit)",
     KIND_SECONDS, SERVE | RUN | TEST, &options.limits.handler_timeout, 0, 1e6, 0},
    {"kill-after", "S",
     "seconds that a handler past its time may run on without waiting; then the handler\n"
     "is ended, by an error or with its whole VM (default 5)",
     KIND_SECONDS, SERVE, &options.kill_after, 0, 1e6, 0},
    {"max-vms", "N",
     "how many VMs may be made when handlers hold theirs (default: 4 for each of\n"
     "--procs, 8 at least)",
     KIND_INT, SERVE, &options.max_vms, 1, 4096, 0},
    {"drain-timeout", "S",
     "seconds that a stop, or an old generation after a reload, waits for requests\n"
     "in flight (default 8)",
     KIND_SECONDS, SERVE, &options.drain_timeout, 0, 1e6, 0},
    {"load-timeout", "S",
     "seconds that the app may take to load, its on_start included (default 10;\n"
     "0: no limit)",
     KIND_SECONDS, SERVE, &options.load_timeout, 0, 1e6, 0},
    {"watch", "",
     "serve: reload when a file changes that the app has loaded; test: rerun the spec\n"
     "files that a changed file affects, until Ctrl-C",
     KIND_FLAG, SERVE | TEST, &options.watch, 0, 0, 0},
    {"dev", "",
     "for development: --watch, and the browser shows errors. For this machine alone:\n"
     "listens on loopback, and answers requests by address or for localhost;\n"
     "--dev=public lifts both",
     KIND_FLAG, SERVE, &options.dev, 0, 0, 0},
    {"live-reload", "",
     "with --dev, browsers load the app's pages anew after each reload; =0: they do not\n"
     "(default 1)",
     KIND_FLAG, SERVE, &options.live_reload, 0, 0, 0},
    {"admin", "ADDR",
     "where the admin API listens: GET /, POST /reload, /profile and /trace, for people\n"
     "whom you trust (HOST:PORT or unix:PATH; default: nowhere); an address that other\n"
     "machines reach needs --admin-token",
     KIND_STRING, SERVE | TAG, &options.admin, 0, 0, 0},
    {"admin-token", "TOKEN",
     "requests to the admin API over TCP must carry Authorization: Bearer TOKEN; lists of\n"
     "processes do not show LUNAPARK_ADMIN_TOKEN",
     KIND_STRING, SERVE | TAG, &options.admin_token, 0, 0, 0},
    {"delete", "", "take the tag away", KIND_FLAG, TAG, &options.remove, 0, 0, 0},
    {"state", "DIR",
     "where the last generations are kept over a restart, for POST /rollback; made if it\n"
     "is not there. git reads it: git --git-dir=DIR log (default: in memory alone)",
     KIND_STRING, SERVE, &options.state, 0, 0, 0},
    {"upgrade-timeout", "S",
     "seconds that the new process of SIGUSR2 may take until it serves (default 30)", KIND_SECONDS,
     SERVE, &options.upgrade_timeout, 0.001, 1e6, 0},
    {"vm-memory", "BYTES",
     "how much memory one VM may have: what LuaJIT maps for it, bodies of its\n"
     "requests, what its sockets have read, files that it reads, JSON that it\n"
     "writes; a handler that wants more gets \"not enough memory\", a body that\n"
     "has no room is answered 503 (default 1073741824; 0: no limit)",
     KIND_LIMIT, SERVE | RUN | TEST | REPL, &options.vm_memory, 8 << 20, 1e15, 0},
    {"log-level", "LEVEL", "debug, info, warn or error (default info)", KIND_LEVEL, EVERYWHERE,
     &options.log_level, 0, 0, 0},
    {"log-format", "FORMAT", "text, or json: a JSON object per line (default text)", KIND_FORMAT,
     EVERYWHERE, &options.log_format, 0, 0, 0},
    {"log-file", "FILE",
     "write the log there; SIGHUP opens the file anew, for logrotate (default: stderr)",
     KIND_STRING, SERVE, &options.log_file, 0, 0, 0},
    {"access-log", "FILE",
     "write a line for each request there, combined or as --log-format says; - is stdout.\n"
     "SIGHUP opens the file anew (default: nowhere)",
     KIND_STRING, SERVE, &options.access_log, 0, 0, 0},
    {"trusted-proxy", "ADDR/BITS",
     "a proxy whose X-Forwarded-For, -Proto, -Host, Forwarded and X-Request-Id are believed;\n"
     "unix: all who come by unix sockets; repeatable (default: none)",
     KIND_NET, SERVE | RUN | TEST, NULL, 0, 0, 0},
    {"proxy-protocol", "",
     "each connection to --listen begins with a PROXY header, version 1 or 2, which says\n"
     "whom the connection is for",
     KIND_FLAG, SERVE, &options.proxied, 0, 0, 0},
    {"tls-cert", "FILE",
     "a certificate with its chain, PEM: all --listen speak HTTPS. Repeatable, in pairs with\n"
     "--tls-key; clients choose by the name they ask for, the first answers all others. Files\n"
     "that change are loaded anew, also by SIGHUP; with --user, the user reads them",
     KIND_FILES, SERVE, NULL, 0, 0, 0},
    {"tls-key", "FILE", "the key of the --tls-cert at the same place", KIND_FILES, SERVE, NULL, 0,
     0, 0},
    {"tls-client-ca", "FILE",
     "clients must show a certificate that one of these has signed (req.tls.client_cert)",
     KIND_STRING, SERVE, &options.tls_client_ca, 0, 0, 0},
    {"tls-self-signed", "[=FILE]",
     "HTTPS for localhost, with a certificate made at the start, whose fingerprint is logged;\n"
     "FILE gets the certificate, for clients that are to trust it",
     KIND_STRING, SERVE, &options.tls_self_signed, 0, 0, 0},
    {"tls-ticket-keys", "FILE",
     "keys of session tickets, for machines that share them: 80 random bytes each, the first\n"
     "for new tickets (default: own ones, a new one each hour)",
     KIND_STRING, SERVE, &options.tls_ticket_keys, 0, 0, 0},
    {"socket-mode", "MODE",
     "the mode of the files of unix sockets, as 0660 (default: 0777 without the umask)", KIND_MODE,
     SERVE, &options.socket_mode, 0, 0, 0},
    {"seed", "N",
     "ready Gs run in a random order, and waits let others run first now and then, by\n"
     "this seed: the same seed repeats a run, except for what comes from outside; busted\n"
     "gets the seed too",
     KIND_INT, RUN | TEST, &options.seed, 0, 2147483647, 0},
    {"rounds", "N",
     "run all specs up to N times, each time with the next seed (from --seed on, or a\n"
     "random one); stops at the first run that fails and tells its seed",
     KIND_INT, TEST, &options.rounds, 1, 1000000, 0},
    {"block-timeout", "S",
     "seconds that a block of a spec (it, before_each ...) may take; a slower one fails\n"
     "(default 10; 0: no limit)",
     KIND_SECONDS, TEST, &options.block_timeout, 0, 1e6, 0},
    {"pid-file", "FILE", "write the process id there while serving", KIND_STRING, SERVE,
     &options.pid_file, 0, 0, 0},
    {"user", "NAME[:GROUP]",
     "the user that serves when root starts the server: root binds and makes --listen,\n"
     "--admin and --pid-file; all else, reading the app's files too, is done as the user,\n"
     "with the user's groups, or GROUP in place of the first (default: the user that\n"
     "starts the server)",
     KIND_STRING, SERVE, &options.user, 0, 0, 0},
    {"bind", "ADDR",
     "with --user, an address that root binds for the app, which listens there by\n"
     "app:tcp or app.options.listen: a port below 1024, say; repeatable",
     KIND_BIND, SERVE, NULL, 0, 0, 0},
    {"jobs", "N",
     "how many spec files run at once, each in a process of its own (default 1: all\n"
     "in this one)",
     KIND_INT, TEST, &options.jobs, 1, 1024, 0},
    {"coverage-dir", "DIR", "where busted's --coverage puts its pages (default build/coverage)",
     KIND_STRING, TEST, &options.coverage_dir, 0, 0, 0},
    {"strict", "", "luacheck's warnings, and calls that block, count as errors", KIND_FLAG, CHECK,
     &options.strict, 0, 0, 0},
    {"json", "", "an array of objects in place of the table", KIND_FLAG, ROUTES, &options.json, 0,
     0, 0},
};
_Static_assert(sizeof options_table / sizeof *options_table == N_OPTIONS, "counted");

int host_rounds(void) {
    return (int)options.rounds;
}

static char complaint[512];

static struct {
    bool on;
    host_options options;
    int source[N_OPTIONS]; /* before the stage began */
} staged;

static host_options *target(void) {
    return staged.on ? &staged.options : &options;
}

/* The place of o in h. */
static void *place(const option *o, host_options *h) {
    return (char *)h + ((char *)o->to - (char *)&options);
}

unsigned options_command(const char *command) {
    if (strcmp(command, "serve") == 0) return SERVE;
    if (strcmp(command, "run") == 0) return RUN;
    if (strcmp(command, "test") == 0) return TEST;
    if (strcmp(command, "repl") == 0) return REPL;
    if (strcmp(command, "tag") == 0) return TAG;
    if (strcmp(command, "routes") == 0) return ROUTES;
    return CHECK;
}

/* - and _ count as one character, so that apps can write max_body. */
static bool same_name(const char *a, const char *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i] && !(a[i] == '-' && b[i] == '_')) return false;
    return a[n] == 0;
}

option *options_find(const char *name, size_t n) {
    for (int i = 0; i < N_OPTIONS; i++)
        if (same_name(options_table[i].name, name, n)) return &options_table[i];
    return NULL;
}

const char *options_hint(const char *name, size_t n, unsigned commands, const char *dashes) {
    static char hint[NEAR_MAX + 32];
    near_search search;
    near_begin(&search, name, n);
    for (int i = 0; i < N_OPTIONS; i++)
        if (options_table[i].commands & commands) near_look(&search, options_table[i].name);
    if (!search.name) return "";
    snprintf(hint, sizeof hint, ": did you mean %s%s?", dashes, search.name);
    for (char *c = hint; !*dashes && *c; c++)
        if (*c == '-') *c = '_';
    return hint;
}

static const char *complain(const option *o, const char *value, const char *want) {
    snprintf(complaint, sizeof complaint, "%s: %s, got '%s'", o->name, want, value);
    return complaint;
}

/* For an address that addr_parse does not take. */
static const char *complain_of_addr(const option *o, const char *value) {
    static const char want[] =
        "must be HOST:PORT, :PORT, [V6]:PORT or unix:PATH, and HOST a numeric address or localhost";
    size_t n = strlen(value);
    if (n == 0 || n > 5 || strspn(value, "0123456789") < n) return complain(o, value, want);
    snprintf(complaint, sizeof complaint,
             "%s: %s, got '%s': did you mean 127.0.0.1:%s, or :%s for all addresses?", o->name,
             want, value, value, value);
    return complaint;
}

/* Adds an address to a list of *n. */
static const char *add_addr(option *o, const char *value, int source, const char **list, int *n) {
    host_addr a;
    if (addr_parse(value, &a) < 0) return complain_of_addr(o, value);
    if (source > o->source) *n = 0; /* a stronger source starts the list anew */
    if (*n == MAX_LISTEN) return complain(o, value, "too many listeners");
    char *copy = strdup(value);
    if (!copy) return "not enough memory";
    list[(*n)++] = copy;
    return NULL;
}

static const char *add_file(option *o, const char *value, int source) {
    bool keys = strcmp(o->name, "tls-key") == 0;
    const char **list = keys ? options.tls_key : options.tls_cert;
    int *n = keys ? &options.n_tls_key : &options.n_tls_cert;
    if (source > o->source) *n = 0; /* a stronger source starts the list anew */
    if (*n == MAX_CERTS) return complain(o, value, "too many");
    char *copy = strdup(value);
    if (!copy) return "not enough memory";
    list[(*n)++] = copy;
    return NULL;
}

static const char *add_net(option *o, const char *value, int source) {
    host_net net;
    if (nets_parse(value, &net) < 0)
        return complain(o, value, "must be ADDR, ADDR/BITS with no bit set behind them, or unix");
    host_nets *nets = &target()->trusted;
    if (source > o->source) nets->n = 0; /* a stronger source starts the list anew */
    if (nets->n == MAX_NETS) return complain(o, value, "too many");
    nets->list[nets->n++] = net;
    return NULL;
}

static const char *set_mode(option *o, const char *value) {
    char *end;
    long mode = strtol(value, &end, 8);
    if (*value < '0' || *value > '7' || *end || mode <= 0 || mode > 0777)
        return complain(o, value, "must be an octal mode from 1 to 0777");
    *(_Atomic int64_t *)place(o, target()) = mode;
    return NULL;
}

static const char *set_number(option *o, const char *value) {
    char *end;
    char want[128];
    errno = 0;
    double v = strtod(value, &end);
    bool none = o->kind == KIND_LIMIT && v == 0;
    bool fits = none || (v >= o->min && v <= o->max); /* NaN does not */
    bool seconds = o->kind == KIND_SECONDS;
    bool whole = seconds || (fits && v == (double)(int64_t)v);
    if (end == value || *end || errno || !fits || !whole) {
        snprintf(want, sizeof want, "must be %sa %s from %.15g to %.15g",
                 o->kind == KIND_LIMIT ? "0 or " : "",
                 seconds ? "number of seconds" : "whole number", o->min, o->max);
        return complain(o, value, want);
    }
    if (seconds)
        *(_Atomic double *)place(o, target()) = v;
    else
        *(_Atomic int64_t *)place(o, target()) = (int64_t)v;
    return NULL;
}

/* Sets the number of the word that value is. */
static const char *set_word(option *o, const char *value, const char *const *words,
                            const char *want) {
    for (int i = 0; words[i]; i++)
        if (strcmp(value, words[i]) == 0) {
            *(_Atomic int64_t *)place(o, target()) = i;
            return NULL;
        }
    return complain(o, value, want);
}

static const char *set_flag(option *o, const char *value) {
    bool dev = o->to == &options.dev;
    int64_t yes = strcmp(value, "1") == 0 || strcmp(value, "true") == 0;
    if (dev && strcmp(value, "public") == 0) yes = DEV_PUBLIC;
    if (!yes && strcmp(value, "0") != 0 && strcmp(value, "false") != 0)
        return complain(o, value,
                        dev ? "must be true, false (1 or 0) or public"
                            : "must be true or false (1 or 0)");
    *(_Atomic int64_t *)place(o, target()) = yes;
    return NULL;
}

/* True: s can stand in a header field as one word. */
static bool is_token(const char *s) {
    const char *at = s;
    while (*at > ' ' && *at < 127)
        at++;
    return at > s && !*at;
}

static const char *set_string(option *o, const char *value) {
    host_addr a;
    if (o->to == &options.admin_token && !is_token(value))
        return "admin-token: must be one word of printable ASCII"; /* the token is not shown */
    if (o->to == &options.admin && addr_parse(value, &a) < 0) return complain_of_addr(o, value);
    char *copy = strdup(value);
    if (!copy) return "not enough memory";
    *(const char **)place(o, target()) = copy;
    return NULL;
}

const char *options_set(option *o, const char *value, int source) {
    static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
    static const char *const formats[] = {"text", "json", NULL};
    if (source < o->source) return NULL;
    const char *err = NULL;
    switch (o->kind) {
    case KIND_ADDR:
        err = add_addr(o, value, source, target()->listen, &target()->n_listen);
        break;
    case KIND_BIND:
        err = add_addr(o, value, source, options.bind, &options.n_bind);
        break;
    case KIND_FILES:
        err = add_file(o, value, source);
        break;
    case KIND_INT:
    case KIND_LIMIT:
    case KIND_SECONDS:
        err = set_number(o, value);
        break;
    case KIND_LEVEL:
        err = set_word(o, value, levels, "must be debug, info, warn or error");
        break;
    case KIND_FORMAT:
        err = set_word(o, value, formats, "must be text or json");
        break;
    case KIND_STRING:
        err = set_string(o, value);
        break;
    case KIND_NET:
        err = add_net(o, value, source);
        break;
    case KIND_MODE:
        err = set_mode(o, value);
        break;
    case KIND_FLAG:
        err = set_flag(o, value);
        break;
    }
    if (!err) o->source = source;
    return err;
}

const char *option_set(const char *name, const char *value, int source) {
    option *o = options_find(name, strlen(name));
    if (!o) {
        snprintf(complaint, sizeof complaint, "unknown option '%s'%s", name,
                 options_hint(name, strlen(name), SERVE, ""));
        return complaint;
    }
    if (source == FROM_APP && o->to == &options.procs)
        return "procs: can't be set by the app, which is loaded when they run already";
    if (source == FROM_APP &&
        (o->to == &options.watch || o->to == &options.dev || o->to == &options.user ||
         o->to == &options.state || o->kind == KIND_BIND || strncmp(o->name, "tls-", 4) == 0))
        return complain(o, value, "can't be set by the app, but by who starts it");
    return options_set(o, value, source);
}

bool option_get(const char *name, double *number, const char **text) {
    option *o = options_find(name, strlen(name));
    if (!o || !o->to) return false; /* lists have no value */
    *text = NULL;
    if (o->kind == KIND_STRING)
        *text = *(const char **)o->to;
    else if (o->kind == KIND_SECONDS)
        *number = *(_Atomic double *)o->to;
    else
        *number = (double)*(_Atomic int64_t *)o->to;
    return o->kind != KIND_STRING || *text;
}

void options_from_env(void) {
    for (int i = 0; i < N_OPTIONS; i++) {
        char name[64] = "LUNAPARK_";
        size_t n = strlen(name);
        for (const char *s = options_table[i].name; *s; s++)
            name[n++] = (char)(*s == '-' ? '_' : *s >= 'a' && *s <= 'z' ? *s - 'a' + 'A' : *s);
        name[n] = 0;
        const char *value = getenv(name);
        if (!value) continue;
        const char *err = options_set(&options_table[i], value, FROM_ENV);
        if (err) {
            fprintf(stderr, "lunapark: environment: %s: %s\n", name, err);
            exit(64);
        }
    }
}

/* ---- what an app sets ---- */

static const char *string_of(const option *o, host_options *h) {
    return *(const char **)place(o, h);
}

static bool same_listeners(void) {
    bool same = staged.options.n_listen == options.n_listen;
    for (int i = 0; same && i < options.n_listen; i++)
        same = strcmp(staged.options.listen[i], options.listen[i]) == 0;
    return same;
}

static bool same_nets(void) {
    const host_nets *a = &staged.options.trusted, *b = &options.trusted;
    return a->n == b->n && memcmp(a->list, b->list, (size_t)a->n * sizeof *a->list) == 0;
}

static void free_staged(void) {
    for (int i = 0; i < staged.options.n_listen; i++)
        if (i >= options.n_listen || staged.options.listen[i] != options.listen[i])
            free((char *)staged.options.listen[i]);
    for (int i = 0; i < N_OPTIONS; i++)
        if (options_table[i].kind == KIND_STRING &&
            string_of(&options_table[i], &staged.options) != string_of(&options_table[i], &options))
            free((char *)string_of(&options_table[i], &staged.options));
}

void options_stage(void) {
    static host_options defaults = DEFAULTS;
    staged.on = true;
    staged.options = options;
    for (int i = 0; i < N_OPTIONS; i++) {
        option *o = &options_table[i];
        staged.source[i] = o->source;
        if (o->source != FROM_APP) continue;
        o->source = FROM_DEFAULT;
        if (o->kind == KIND_ADDR)
            staged.options.n_listen = 0;
        else if (o->kind == KIND_NET)
            staged.options.trusted.n = 0;
        else
            memcpy(place(o, &staged.options), place(o, &defaults), 8);
    }
}

const host_limits *options_staged_limits(void) {
    return &staged.options.limits;
}

void options_drop(void) {
    free_staged();
    staged.on = false;
    for (int i = 0; i < N_OPTIONS; i++)
        options_table[i].source = staged.source[i];
}

static bool is_same(const option *o) {
    if (o->kind == KIND_ADDR) return same_listeners();
    if (o->kind == KIND_NET) return same_nets();
    return string_of(o, &staged.options) == string_of(o, &options);
}

static void commit(option *o, bool first) {
    if (o->kind == KIND_BIND || o->kind == KIND_FILES) return;
    if (o->kind == KIND_ADDR || o->kind == KIND_STRING || o->kind == KIND_NET) {
        bool same = is_same(o);
        if (!first && !same)
            log_line(LOG_WARN, "--%s can't be changed by a reload, but by a restart", o->name);
        return;
    }
    *(_Atomic int64_t *)o->to =
        *(_Atomic int64_t *)place(o, &staged.options); /* or a double's bits */
}

void options_commit(void) {
    static bool done;
    for (int i = 0; i < N_OPTIONS; i++)
        commit(&options_table[i], !done);
    if (done) {
        free_staged();
    } else {
        for (int i = 0; i < staged.options.n_listen; i++)
            options.listen[i] = staged.options.listen[i];
        options.n_listen = staged.options.n_listen;
        options.trusted = staged.options.trusted;
        for (int i = 0; i < N_OPTIONS; i++)
            if (options_table[i].kind == KIND_STRING)
                memcpy(options_table[i].to, place(&options_table[i], &staged.options),
                       sizeof(char *));
    }
    done = true;
    staged.on = false;
}
