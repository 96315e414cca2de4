/* The admin API: see admin.c. */
#ifndef ADMIN_H
#define ADMIN_H

#include "host.h"

/* The VM that answers it. Waits; any native G. */
host_vm *admin_vm(void);

#endif
