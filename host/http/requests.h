/* Requests, for the VMs that answer them: see luag_request_ops. */
#ifndef REQUESTS_H
#define REQUESTS_H

/* Gives VMs these operations. Before any VM is made. */
void requests_open(void);

#endif
