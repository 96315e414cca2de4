/* The functions of lunapark.core for sockets. See net_core.c. */
#ifndef NET_CORE_H
#define NET_CORE_H

/* Adds the functions. Before any VM is made. */
void net_core_open(void);

#endif
