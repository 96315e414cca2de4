/* Requests and servers, for VMs: the operations of luag.h's luag_request_ops. */
#include "requests.h"

#include "../vm/luag.h"
#include "hold.h"
#include "server.h"

static int route_of(const host_exchange *x) {
    return x->req.label;
}

static const luag_request_ops ops = {
    .name = hold_name,
    .print_name = hold_print_name,
    .route = route_of,
    .overdue = hold_overdue,
    .pd_take = exchange_pd_take,
    .pd_give = exchange_pd_give,
    .awaited = server_any_of,
    .ended = server_ended_of,
};

void requests_open(void) {
    luag_requests = &ops;
}
