/* TLS on sockets of Lua. */
#include "sock.h"
#include "tls.h"

#include <errno.h>

_Static_assert((int)STREAM_ETLS == (int)HOST_ETLS, "one code");

host_tls *host_tls_new(const host_tls_settings *settings, char *why) {
    return tls_config_new(settings, why);
}

void host_tls_free(host_tls *config) {
    tls_config_release(config);
}

int host_sock_tls(host_sock *s, host_tls *config, const char *name) {
    if (s->io.fd < 0) return RT_ECLOSED;
    if (s->io.tls) return -EALREADY;
    if (s->rbuf.pos < s->rbuf.end) return -EBUSY;
    (void)sock_await(s, 0); /* no mark: the kernel counts other bytes than readers from now on */
    return tls_begin(&s->io, config, name);
}

int host_sock_shake(host_sock *s) {
    int err = sock_check(s, RT_R);
    if (err) return err;
    return s->io.ops->shake ? s->io.ops->shake(&s->io) : 0;
}

const char *host_sock_tls_why(host_sock *s) {
    return s->io.tls ? tls_why(&s->io) : "";
}

void host_sock_abandon(host_sock *s) {
    if (s->io.tls) tls_abandon_write(&s->io);
}

bool host_sock_tls_agreed(host_sock *s, host_tls_agreed *to) {
    if (!s->io.tls || s->io.ops->shake(&s->io) != 0) return false;
    tls_agreed_on(&s->io, to);
    return true;
}
