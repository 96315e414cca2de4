/* Listening sockets of servers: how an address becomes one.
 *
 * The file of a unix socket has the mode that --socket-mode says, or is its owner's alone (the admin API), from its
 * making on: the kernel makes the file with the mode of the socket. The umask may only take from that, so the file gets
 * the rest afterwards, before anybody can connect. Its owner is the user that serves: --user.
 *
 * A socket of [::] takes clients of IPv4, too, unless 0.0.0.0 with the same port is asked for beside it: then each has
 * its own family.
 */
#include "../base/options.h"
#include "server.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Does --listen ask for all addresses of IPv4 at the port of a, which are those of IPv6? */
static bool is_both(const host_addr *a) {
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&a->sa;
    if (a->sa.ss_family != AF_INET6 || six->sin6_port == 0) return false;
    if (!IN6_IS_ADDR_UNSPECIFIED(&six->sin6_addr)) return false;
    for (int i = 0; i < options.n_listen; i++) {
        host_addr other;
        const struct sockaddr_in *four = (const struct sockaddr_in *)&other.sa;
        if (addr_parse(options.listen[i], &other) == 0 && other.sa.ss_family == AF_INET &&
            four->sin_addr.s_addr == INADDR_ANY && four->sin_port == six->sin6_port)
            return true;
    }
    return false;
}

/* Binds fd. 0 or -errno. mode: of the file; 0: any. */
static int bind_to(int fd, const char *addr, const host_addr *a, mode_t mode) {
    int one = 1;
    bool is_unix = a->sa.ss_family == AF_UNIX;
    if (is_unix && mode && fchmod(fd, mode) < 0) return -errno;
    /* Without SO_REUSEADDR a restarted server waits for TIME_WAIT. A failure shows in bind. */
    if (!is_unix) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (is_both(a) && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)&a->sa, a->len) < 0) return -errno;
    return is_unix && mode ? sock_file_mode(addr, mode) : 0;
}

int server_bind(const char *addr, bool is_private, int backlog) {
    host_addr a;
    int err = addr_parse(addr, &a);
    if (!err) err = sock_file_clear(addr);
    if (err) return err;
    int fd = rt_socket(a.sa.ss_family, SOCK_STREAM, 0);
    if (fd < 0) return fd;
    err = bind_to(fd, addr, &a, is_private ? 0600 : (mode_t)options.socket_mode);
    if (!err && listen(fd, backlog > 0 ? backlog : SOMAXCONN) < 0) err = -errno;
    if (!err) return fd;
    close(fd);
    return err;
}
