/* What Lua sees of servers. The rules of vm_ffi.h hold here, too. */
#ifndef SERVE_FFI_H
#define SERVE_FFI_H

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- servers (server.c) ---- */

/* One of this VM's servers stops accepting; its connections end when their requests in flight are answered. */
void host_serve_stop(int server);
/* So do all of this VM's servers. */
void host_serve_stop_all(void);

/* Sets options of the app that the server serves, as far as they are limits of its clients: host_serve_options, then
 * host_serve_option for each (NULL, or what is wrong, until the next call), then host_serve_limits, whatever was wrong.
 * Nothing else is done in between. */
void host_serve_options(void);
const char *host_serve_option(const char *name, const char *value);
void host_serve_limits(int server);

/* How long clients may be silent while their server stops. */
int64_t host_drain_idle_ns(void);

/* 1: the server was stopped, and neither accepts nor has connections. */
int host_serve_ended(int server);

/* ---- connections of other protocols than HTTP (raw.c) ---- */

/* Serves addr with this VM's handler number `handler`, which gets a host_sock as lightuserdata: as host_serve. max:
 * connections at once, 0: no bound. backlog: clients that wait to be accepted, 0: as many as the system allows. */
int host_serve_raw(const char *addr, int handler, int max, int backlog, char *bound, size_t cap,
                   int *err);

/* Connections of the process since its start. accepted: that were given to a handler; refused: there were too many;
 * ended: of those accepted; failed: of those ended, by an error, or since no VM could take them. seconds: of those
 * ended. */
typedef struct host_connections {
    double accepted, refused, ended, failed, seconds;
} host_connections;

/* The sums of all Ps. */
void host_read_connections(host_connections *sum);

/* ---- datagrams that are served (lua/lunapark/net/serve_udp.lua) ---- */

/* Datagrams of the process since its start. received: that were given to a handler; ended: whose handler has ended;
 * failed: of these, by an error. */
typedef struct host_datagrams {
    double received, ended, failed;
} host_datagrams;

/* A handler begins with a datagram; has ended with it. */
void host_datagram_begun(void);
void host_datagram_ended(int failed);
void host_read_datagrams(host_datagrams *sum);
/* ffi:end */

#endif
