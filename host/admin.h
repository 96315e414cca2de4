/* The admin listener: see admin.c. */
#ifndef ADMIN_H
#define ADMIN_H

#include "host.h"

/* Serves lunapark.admin on addr: its server, or NULL and what is wrong, to be freed. Waits; any native G. */
host_server *admin_start(const char *addr, char **err);

#endif
