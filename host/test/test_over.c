/* over: an exchange is over once, whatever ends it: an answer of a handler, or of C in its place; the handler's time,
 * or its VM; the client, which leaves or does not read; the connection. Scripts of host/fuzz/play.c, which looks at the
 * sums of all scripts; here each says what it should come to. */
#include "../../runtime/runtime.h"
#include "../base/base.h"
#include "../fuzz/play.h"
#include "../http/conn.h"
#include "../http/hold.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Orders of a script. */
#define GO    "\xff|"
#define PIECE "\xffp"
#define LEAVE "\xffx"
#define DEAF  "\xffq"
#define HALF  "\xffh"
#define STOP  "\xffs"
#define FULL                                                                                       \
    "\xff"                                                                                         \
    "b"
#define WAIT_S "\xfft\x0a" /* 1,024 ms */
#define WAIT_8                                                                                     \
    "\xfft\x0d" /* 8,192 ms: longer than any time that play_begin sets but for the rest of a purse */
#define MUCH                                                                                       \
    "\xff"                                                                                         \
    "f\xff"                                                                                        \
    "A"                                                                                            \
    "\xff"                                                                                         \
    "f\xff"                                                                                        \
    "A" /* 32,640 bytes */

#define GET(path)  "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"
#define OK         GET("/ok/a")
#define POST(path) "POST " path " HTTP/1.1\r\nHost: x\r\n"

typedef struct ending {
    const char *name, *script;
    int n[HOST_STATUS_CLASSES]; /* exchanges: no answer, others, ..., 5xx */
} ending;

static const ending endings[] = {
    {"nothing is asked", LEAVE, {0}},
    {"an answer", OK GO, {[2] = 1}},
    {"an answer, and the client leaves", OK GO LEAVE, {[2] = 1}},
    {"one after the other", OK GO OK GO OK GO, {[2] = 3}},
    {"all at once", OK OK OK GO, {[2] = 3}},
    {"in the midst of the second", OK "GET /ok" GO LEAVE, {1, [2] = 1}},
    {"Connection: close",
     "GET /ok/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" GO,
     {[2] = 1}},
    {"HTTP/1.0", "GET /ok/a HTTP/1.0\r\n\r\n" GO, {[2] = 1}},
    {"HTTP/1.0, streamed", "GET /stream HTTP/1.0\r\n\r\n" GO WAIT_S, {[2] = 1}},
    {"HEAD", "HEAD /ok/a HTTP/1.1\r\nHost: x\r\n\r\n" GO, {[2] = 1}},
    {"half of it shut", OK HALF, {[2] = 1}},
    {"the server stops", OK GO STOP, {[2] = 1}},
    {"a redirection", GET("/status/303") GO, {[3] = 1}},
    {"a status of the app's own", GET("/status/999") GO, {[1] = 1}},
    {"no route", GET("/none") GO, {[4] = 1}},
    {"an error", GET("/error") GO, {[5] = 1}},
    {"a stream", GET("/stream") GO WAIT_S, {[2] = 1}},
    {"a stream that is short", GET("/sized?n=20&w=10") GO, {[2] = 1}},

    {"a bad line", "what\r\n\r\n" GO, {[4] = 1}},
    {"a bad line, and more and more", "what\r\n\r\n" MUCH GO MUCH GO LEAVE, {[4] = 1}},
    {"a long head", "GET / HTTP/1.1\r\nA: " MUCH GO, {[4] = 1}},
    {"a method that nobody knows",
     GET("/ok/a") "BREW / HTTP/1.1\r\nHost: x\r\n\r\n" GO,
     {[2] = 1, [5] = 1}},
    {"another version", "HEAD /ok/a HTTP/2.0\r\nHost: x\r\n\r\n" GO, {[5] = 1}},
    {"an expectation", POST("/echo") "Expect: tea\r\nContent-Length: 3\r\n\r\nabc" GO, {[4] = 1}},
    {"line ends alone", "\r\n" GO "\r\n\r" GO WAIT_8 LEAVE, {0}},
    {"line ends around an answer", "\r\n" OK "\r\n\r\n" GO WAIT_S "\n" GO OK GO LEAVE, {[2] = 2}},
    {"a head without an end", "GET / HT" GO WAIT_8, {[4] = 1}},
    {"a body that is too long", POST("/echo") "Content-Length: 99999\r\n\r\n" GO, {[4] = 1}},
    {"an answer, then a bad line", OK "what\r\n\r\n" GO, {[2] = 1, [4] = 1}},
    {"no room for the client", FULL GO, {[5] = 1}},

    {"a body", POST("/echo") "Content-Length: 3\r\n\r\na" GO "bc" GO, {[2] = 1}},
    {"a body that nobody reads",
     POST("/early") "Content-Length: 3\r\n\r\na" GO "bc" OK GO,
     {[2] = 2}},
    {"a body that nobody reads, without an end",
     POST("/early") "Content-Length: 3\r\n\r\na" GO WAIT_8 WAIT_8,
     {[2] = 1}},
    {"a bad body that nobody reads",
     POST("/early") "Transfer-Encoding: chunked\r\n\r\n" GO "x" GO,
     {[2] = 1}},
    {"a body that nobody asks for",
     POST("/early") "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n" GO,
     {[2] = 1}},
    {"a body without an end", POST("/echo") "Content-Length: 3\r\n\r\na" GO LEAVE, {1}},

    {"no answer in time", GET("/sleep?s=100") GO WAIT_8, {[5] = 1}},
    {"no answer in time, and another request", GET("/sleep?s=100") OK GO WAIT_8, {[5] = 1}},
    {"no answer in time, behind one", OK GET("/sleep?s=100") GO WAIT_8, {[2] = 1, [5] = 1}},
    {"no end in time", GET("/stream?s=100") GO WAIT_8, {[2] = 1}},
    {"no end in time for HTTP/1.0", "GET /stream?s=100 HTTP/1.0\r\n\r\n" GO WAIT_8, {[2] = 1}},
    {"a handler that has answered goes on", GET("/later") GO WAIT_8, {[2] = 1}},
    {"a handler that does not return", GET("/yields") GO WAIT_8, {[5] = 1}},

    /* The request behind keeps the handler from being canceled. */
    {"no end in time, and the client is gone", GET("/deaf") OK GO LEAVE WAIT_8, {[2] = 1}},

    {"gone while the handler sleeps", GET("/sleep?s=2") GO LEAVE, {[2] = 1}},
    {"gone in the midst of a stream", GET("/stream?s=1") GO LEAVE, {[2] = 1}},
    {"gone with an answer half read", GET("/big") DEAF GO LEAVE, {[2] = 1}},
    {"an answer that nobody reads", GET("/big") DEAF GO WAIT_8 WAIT_8, {[2] = 1}},
    {"a stream that nobody reads",
     GET("/stream?n=50&size=9999&s=0.01") DEAF GO WAIT_8 WAIT_8,
     {[2] = 1}},
};

/* ---- */

static host_exchanges before, after;

static int more(int class) {
    return (int)(after.by_status[class] - before.by_status[class]);
}

/* Plays the script; before and after: what was over. The last exchange is the one of play's own last client. */
static void run(const char *name, const char *script) {
    printf("[ RUN      ] %s\n", name);
    fflush(stdout);
    host_read_exchanges(&before);
    play((const uint8_t *)script, strlen(script));
    host_read_exchanges(&after);
    after.by_status[2]--;
}

static void expect(const char *name, const int *n) {
    for (int i = 0; i < HOST_STATUS_CLASSES; i++)
        if (more(i) != n[i])
            rt_throw("%s: of class %d %d exchanges are over, not %d", name, i, more(i), n[i]);
    printf("[       OK ] %s\n", name);
}

/* ---- a VM that is dropped: the handler's end is handler_drop's ---- */

static void drop(void *arg) {
    (void)arg;
    rt_sleep(NS_PER_SEC);
    host_conn *c = play_conn(0);
    if (!c || !play_is_bound(c)) rt_throw("no handler is waited for");
    hold_abandon(c->x, 502);
}

static void drop_and_run(const char *name, const char *script, const int *n) {
    rt_go(drop, NULL);
    run(name, script);
    expect(name, n);
}

/* ---- how long ---- */

static void expect_seconds(const char *name, double least, double most, double answer_most) {
    double s = after.seconds - before.seconds,
           answer = after.answer_seconds - before.answer_seconds;
    if (s < least || s > most || answer > answer_most)
        rt_throw("%s: %g s, the answer began after %g s", name, s, answer);
    printf("[       OK ] %s\n", name);
}

static void times(void) {
    run("the time of a handler that sleeps", GET("/sleep?s=2") GO WAIT_8);
    expect_seconds("the time of a handler that sleeps", 2, 2.5, 2.5);
    run("the time of a stream", GET("/stream?n=2&s=2") GO WAIT_8);
    expect_seconds("the time of a stream", 4, 4.5, 0.5);
    run("the time of a handler that was too slow", GET("/sleep?s=100") GO WAIT_8);
    expect_seconds("the time of a handler that was too slow", 5, 5.5, 5.5);
    run("the time of a head in pieces", "GET " GO WAIT_S "/ok/a HTTP/1.1\r\nHost: x\r\n\r\n" GO);
    expect_seconds("the time of a head in pieces", 1, 1.5, 1.5);
    run("the time of a connection that lingers", "what\r\n\r\nmore" GO WAIT_8);
    expect_seconds("the time of a connection that lingers", 0, 0.5, 0.5);
}

static void run_all(void *arg) {
    (void)arg;
    play_begin();
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        run(endings[i].name, endings[i].script);
        expect(endings[i].name, endings[i].n);
    }
    drop_and_run("its VM is dropped", GET("/sleep?s=2") GO WAIT_8, (int[6]){[5] = 1});
    drop_and_run("its VM is dropped in the midst of a stream", GET("/stream?s=2") GO WAIT_8,
                 (int[6]){[2] = 1});
    times();
    printf("[  PASSED  ] over\n");
    fflush(stdout);
    _exit(0); /* as in test_fuzz_conn.c */
}

int main(void) {
    play_main(run_all, NULL);
}
