/* Requests and servers, for VMs: the operations of luag.h's luag_request_ops. */
#include "requests.h"

#include "../net/certs.h"
#include "../vm/luag.h"
#include "../serve/server.h"
#include "hold.h"
#include "http.h"
#include "site.h"

#include <errno.h>

static int route_of(const host_exchange *x) {
    return x->req.label;
}

int host_serve(const char *addr, int handler, const char *text, size_t len, host_tls *tls,
               char *bound, size_t cap, int *err) {
    site *s = len > 0 ? site_new(text, len) : NULL;
    certs *c = tls ? certs_of(tls) : NULL;
    int id = -1;
    if ((len > 0 && !s) || (tls && !c)) {
        *err = -ENOMEM;
    } else {
        const host_listener l = {
            .addr = addr, .protocol = &http_protocol, .handler = handler, .certs = c, .data = s};
        id = server_serve(&l, bound, cap, err);
    }
    if (id == -1 && s) site_drop(s); /* no server has it */
    if (c) certs_release(c);
    return id;
}

/* What is queued for the client leaves before the handler waits. Only the holder of the connection writes req.queued, and
 * while x has a handler, the holder is this thread or does not write. */
static void waits(host_exchange *x) {
    if (!x->req.queued || !hold_take(x)) return;
    if (!x->broken) (void)x->ops->send(x, "", 0, 0); /* what does not go now is sent later */
    hold_give(x);
}

static const luag_request_ops ops = {
    .name = hold_name,
    .print_name = hold_print_name,
    .route = route_of,
    .overdue = hold_overdue,
    .waits = waits,
    .pd_take = exchange_pd_take,
    .pd_give = exchange_pd_give,
    .awaited = server_any_of,
    .ended = server_ended_of,
};

void requests_open(void) {
    luag_requests = &ops;
}
