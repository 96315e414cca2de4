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

const server_protocol http_protocol = {
    .start = start,
    .look = conn_look,
    .ended = site_drop,
    .busy = busy,
    .busy_len = sizeof busy - 1,
};
