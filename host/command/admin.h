/* The admin API: see admin.c. */
#ifndef ADMIN_H
#define ADMIN_H

#include "../serve/server.h"

/* The listener of --admin, with the VM that answers there, which has loaded nothing yet. Any native G. Does not
 * wait. */
host_listener admin_listener(void);

/* Loads the admin API in that VM. Any native G. Waits. */
void admin_load(host_vm *vm);

#endif
