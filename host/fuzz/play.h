/* Plays a script of bytes, time and ends against the real connections. See play.c. */
#ifndef PLAY_H
#define PLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct host_conn host_conn;

enum { CLIENTS = 4 };

/* What one client of a script has, and what is expected of it. */
typedef struct client {
    int fd; /* -1: it has closed its side, or there is none */
    int number;
    char *todo; /* bytes that wait to be sent, todo[sent .. n_todo) */
    size_t sent, n_todo, todo_cap;
    char *got; /* what has come */
    size_t n_got, got_cap;
    int markers;    /* so many were made */
    bool started;   /* it was connected */
    bool reads;     /* at once whatever comes */
    bool half;      /* shuts its side down when everything is sent */
    bool carries;   /* its next piece brings a descriptor along */
    bool impatient; /* it has shut its side, or does not read: not everything must be answered */
    bool ended;     /* the server has closed the connection */
} client;

/* What the answers to a client are. */
typedef struct answers {
    int n;           /* final ones that have begun */
    bool whole;      /* the last of them has ended, too */
    bool closes;     /* the last of them says that the connection ends */
    char wrong[256]; /* empty: nothing is */
} answers;

/* answers.c */
/* Looks at everything that c has got: is it HTTP/1.1, and its own? input: the script, whose bytes may be repeated. */
void answers_read(const client *c, const uint8_t *input, size_t size, answers *a);
/* Appends a word to `to` (MARKER_SIZE bytes, without a 0) that no other client, request or script has. */
enum { MARKER_SIZE = 18 };
void answers_mark(client *c, char *to);
/* The next script's words are others. */
void answers_next_script(void);

/* play.c */
/* What the clients of each script got is printed. */
extern bool play_shows;
/* Starts the server on the calling G, the only one but its own. Once; the current folder is the source tree's. */
void play_begin(void);
/* Plays the script and looks at everything that came of it. Aborts with words if something is wrong. By the G of
 * play_begin. */
void play(const uint8_t *input, size_t size);
/* A connection of the script that is played, 0 ...; NULL: there are no more. play_is_bound: it waits for its handler. */
host_conn *play_conn(int i);
bool play_is_bound(const host_conn *c);
/* Runs fn as the runtime's main G on the calling thread, with one P, a clock that stands still, and no sysmon. */
_Noreturn void play_main(void (*fn)(void *), void *arg);

#endif
