/* Addresses as users write them: host:port with a numeric host, [v6]:port, unix:path. */
#include "addr.h"

#include "base_ffi.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static int parse_port(const char *s) {
    char *end;
    if (*s < '0' || *s > '9') return -EINVAL;
    long port = strtol(s, &end, 10);
    return *end || port > 65535 ? -EINVAL : (int)port;
}

static int parse_unix(const char *path, host_addr *a) {
    struct sockaddr_un *un = (struct sockaddr_un *)&a->sa;
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof un->sun_path) return -EINVAL;
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, n + 1);
    a->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    return 0;
}

int addr_parse(const char *s, host_addr *a) {
    memset(a, 0, sizeof *a);
    if (strncmp(s, "unix:", 5) == 0) return parse_unix(s + 5, a);
    const char *colon = strrchr(s, ':');
    if (!colon) return -EINVAL;
    int port = parse_port(colon + 1);
    char host[64];
    bool v6 = s[0] == '[';
    if (v6 && (colon == s + 1 || colon[-1] != ']')) return -EINVAL;
    size_t n = v6 ? (size_t)(colon - s) - 2 : (size_t)(colon - s);
    if (port < 0 || n >= sizeof host) return -EINVAL;
    memcpy(host, v6 ? s + 1 : s, n);
    host[n] = 0;
    if (v6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&a->sa;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        a->len = sizeof *in6;
        return inet_pton(AF_INET6, host, &in6->sin6_addr) == 1 ? 0 : -EINVAL;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)&a->sa;
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)port);
    a->len = sizeof *in;
    const char *numeric = n == 0 ? "0.0.0.0" : strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    return inet_pton(AF_INET, numeric, &in->sin_addr) == 1 ? 0 : -EINVAL;
}

bool addr_is_local(const char *s) {
    host_addr a;
    if (addr_parse(s, &a) < 0) return false;
    if (a.sa.ss_family == AF_UNIX) return true;
    if (a.sa.ss_family == AF_INET)
        return ((const uint8_t *)&((struct sockaddr_in *)&a.sa)->sin_addr)[0] == 127;
    const uint8_t *six = ((struct sockaddr_in6 *)&a.sa)->sin6_addr.s6_addr;
    if (addr_is_mapped(six)) return six[12] == 127;
    return memcmp(six, &in6addr_loopback, 16) == 0;
}

int addr_format(const struct sockaddr *sa, socklen_t len, char *buf, size_t cap) {
    char host[INET6_ADDRSTRLEN];
    if (sa->sa_family == AF_INET6 &&
        addr_is_mapped(((const struct sockaddr_in6 *)sa)->sin6_addr.s6_addr)) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;
        inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], host, sizeof host);
        return snprintf(buf, cap, "%s:%d", host, ntohs(in6->sin6_port));
    }
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        return snprintf(buf, cap, "%s:%d", host, ntohs(in->sin_port));
    }
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        return snprintf(buf, cap, "[%s]:%d", host, ntohs(in6->sin6_port));
    }
    const struct sockaddr_un *un = (const struct sockaddr_un *)sa;
    size_t n = len > offsetof(struct sockaddr_un, sun_path)
                   ? strnlen(un->sun_path, len - offsetof(struct sockaddr_un, sun_path))
                   : 0;
    return snprintf(buf, cap, "unix:%.*s", (int)n, un->sun_path);
}

int host_addr_check(const char *addr) {
    host_addr a;
    return addr_parse(addr, &a);
}

int host_ip_text(const char *bytes, size_t len, char *buf, size_t cap) {
    int family = len == 4 ? AF_INET : len == 16 ? AF_INET6 : AF_UNSPEC;
    if (!inet_ntop(family, bytes, buf, (socklen_t)cap)) return -EINVAL;
    return (int)strlen(buf);
}

int host_ip_bytes(const char *text, uint8_t *bytes) {
    if (inet_pton(AF_INET, text, bytes) == 1) return 4;
    return inet_pton(AF_INET6, text, bytes) == 1 ? 16 : 0;
}
