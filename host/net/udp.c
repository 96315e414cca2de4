/* Datagrams for Lua: UDP over IPv4 and IPv6, and unix datagrams.
 *
 * They are host_socks like streams, without the buffer: a datagram is taken whole or not at all. If a unix receiver's
 * queue is full, sendto says EAGAIN though our own socket is writable, so no wait would end. As on the BSDs, this is
 * ENOBUFS. A connected socket can be waited for. */
#include "sock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

host_sock *host_sock_udp(const char *addr, int *err) {
    host_addr a;
    *err = sock_addr(addr, true, &a);
    if (*err) return NULL;
    int fd = rt_socket(a.sa.ss_family, SOCK_DGRAM, 0);
    if (fd < 0) {
        *err = fd;
        return NULL;
    }
    if (bind(fd, (struct sockaddr *)&a.sa, a.len) < 0) {
        *err = -errno;
        close(fd);
        return NULL;
    }
    host_sock *s = sock_new(fd, err);
    sock_own_file(s, addr);
    return s;
}

int host_sock_connect(host_sock *s, const char *addr) {
    if (s->io.fd < 0) return RT_ECLOSED;
    host_addr a;
    int err = addr_parse(addr, &a);
    if (err) return err;
    int r;
    do
        r = connect(s->io.fd, (struct sockaddr *)&a.sa, a.len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int host_sock_send(host_sock *s, const char *data, size_t len, const char *addr) {
    int err = sock_check(s, RT_W);
    if (err) return err;
    host_addr a = {.len = 0};
    if (addr) err = addr_parse(addr, &a);
    if (err) return err;
    for (;;) {
        ssize_t n = sendto(s->io.fd, data, len, MSG_NOSIGNAL,
                           addr ? (struct sockaddr *)&a.sa : NULL, a.len);
        if (n >= 0) return (int)n;
        if (errno == EAGAIN && addr && a.sa.ss_family == AF_UNIX) return -ENOBUFS;
        if (errno != EINTR) return -errno;
    }
}

int host_sock_recv(host_sock *s, uint8_t *buf, size_t cap, char *from, size_t from_cap) {
    int err = sock_check(s, RT_R);
    if (err) return err;
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof sa;
    ssize_t n;
    do
        n = recvfrom(s->io.fd, buf, cap, MSG_TRUNC, (struct sockaddr *)&sa, &len);
    while (n < 0 && errno == EINTR);
    if (n < 0) return -errno;
    from[0] = 0;
    if (len > 0) addr_format((struct sockaddr *)&sa, len, from, from_cap);
    return (int)n;
}
