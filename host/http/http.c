/* HTTP at a listener: which protocol a connection begins with, and what a client is told that gets no connection. */
#include "http.h"

#include "conn.h"
#include "http1.h"
#include "site.h"

static void start(host_server *s, int fd, server_client client, bool refuse) {
    conn_start(s, fd, client, &http1_protocol, refuse ? 503 : 0);
}

static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                           "Connection: close\r\nContent-Length: 0\r\n\r\n";

#define PLAIN "This port speaks HTTPS: use https:// in the address.\n"
_Static_assert(sizeof PLAIN - 1 == 53, "its Content-Length");
static const char plain[] =
    "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    "Connection: close\r\nContent-Length: 53\r\n\r\n" PLAIN;

const server_protocol http_protocol = {
    .start = start,
    .look = conn_look,
    .ended = site_drop,
    .busy = busy,
    .busy_len = sizeof busy - 1,
    .plain = plain,
    .plain_len = sizeof plain - 1,
};
