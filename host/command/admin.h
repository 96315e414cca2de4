/* The admin API: see admin.c. */
#ifndef ADMIN_H
#define ADMIN_H

typedef struct host_vm host_vm;

/* Makes the VM that answers the admin API. Any native G. Waits. */
host_vm *admin_vm(void);

#endif
