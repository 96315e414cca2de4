/* Options of the command line, the environment and the app. See options.c. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "nets.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { MAX_LISTEN = 16, MAX_CERTS = 32 };

/* --dev=public: --dev for clients on other machines too. */
enum { DEV_PUBLIC = 2 };

/* What the clients of a listener may take (serve/server.h). Any thread reads. */
typedef struct host_limits {
    _Atomic int64_t max_body;    /* bytes */
    _Atomic int64_t max_head;    /* bytes of a request's head, and of its trailers */
    _Atomic int64_t max_headers; /* fields of each */
    _Atomic int64_t min_rate;    /* bytes a second; 0: no limit */
    _Atomic double header_timeout, idle_timeout,
        handler_timeout; /* seconds; the last 0: no limit */
} host_limits;

/* Atomic fields change when a generation begins to serve. Any thread reads. */
typedef struct host_options {
    const char *listen[MAX_LISTEN], *bind[MAX_LISTEN];
    int n_listen, n_bind;
    _Atomic int64_t procs;                                     /* 0: as many as there are CPUs */
    _Atomic int64_t max_vms;                                   /* 0: by the number of Ps */
    host_limits limits;                                        /* of the app's listeners */
    _Atomic double kill_after, drain_timeout, upgrade_timeout; /* seconds */
    _Atomic int64_t max_conns;    /* 0: as many as the limit of descriptors leaves room for */
    _Atomic double load_timeout;  /* seconds; 0: no limit */
    _Atomic double block_timeout; /* seconds; 0: no limit */
    _Atomic int64_t log_level;    /* LOG_DEBUG .. LOG_ERROR; a script may change it */
    _Atomic int64_t log_format;   /* LOG_TEXT or LOG_JSON */
    const char *pid_file, *admin, *admin_token, *user, *state, *access_log, *log_file;
    const char *tls_cert[MAX_CERTS], *tls_key[MAX_CERTS]; /* pairs */
    int n_tls_cert, n_tls_key;
    const char *tls_client_ca, *tls_ticket_keys;
    const char *tls_self_signed; /* NULL: no; else the file for the certificate, or "" */
    host_nets trusted;           /* --trusted-proxy; does not change while connections are served */
    _Atomic int64_t proxied;     /* yes or no: --proxy-protocol */
    _Atomic int64_t socket_mode; /* of the files of unix sockets; 0: what the umask leaves */
    _Atomic int64_t vm_memory;   /* bytes that LuaJIT may map for one VM; 0: no limit */
    _Atomic int64_t watch, live_reload, strict, remove, json; /* yes or no */
    _Atomic int64_t dev;                                      /* no, yes, DEV_PUBLIC */
    _Atomic int64_t jobs;                                     /* spec files that run at once */
    const char *coverage_dir;
    _Atomic int64_t seed;               /* -1: none */
    _Atomic int64_t rounds;             /* 1: one */
    _Atomic int64_t max_conns_per_addr; /* 0: no limit */
} host_options;

extern host_options options;

/* Any thread. Does not wait. */
static inline void limits_copy(host_limits *to, const host_limits *from) {
    _Static_assert(sizeof *to == 7 * sizeof(int64_t), "a limit that is not copied");
    to->max_body = from->max_body;
    to->max_head = from->max_head;
    to->max_headers = from->max_headers;
    to->min_rate = from->min_rate;
    to->header_timeout = from->header_timeout;
    to->idle_timeout = from->idle_timeout;
    to->handler_timeout = from->handler_timeout;
}

/* The sources of an option; a later one is stronger. */
enum { FROM_DEFAULT, FROM_APP, FROM_ENV, FROM_COMMAND_LINE };

/* Sets the option `name` (words joined by - or _), unless a stronger source has set it. NULL, or what is wrong, in a
 * static buffer. One thread at a time. */
const char *option_set(const char *name, const char *value, int source);

/* Takes --name value and --name=value out of argv, from index 1 on. Returns the number of words that stay.
 * stop_at_word: the first word that is no option, and all words behind it, belong to the script. Prints a mistake and
 * exits with 64. main alone. */
int options_parse(int argc, char **argv, const char *command, bool stop_at_word);
void options_from_env(void);

/* The value of an option: in *text, or in *number, and *text is NULL. False: no option has this name. Any thread. */
bool option_get(const char *name, double *number, const char **text);

/* Options of an app that loads. options_stage: what the app sets from now on is put aside. options_commit: it counts.
 * options_drop: it is forgotten. options_staged_limits: the limits that are put aside. The G that loads a generation. */
void options_stage(void);
const host_limits *options_staged_limits(void);
void options_commit(void);
void options_drop(void);

/* Prints what a command does, and its options; NULL: all commands. See usage.c. main alone. */
void options_help(const char *command);

#endif
