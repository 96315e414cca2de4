/* Gives the lower rooms of the host what the rooms above have for them. See rooms.c. */
#ifndef ROOMS_H
#define ROOMS_H

/* Before any VM is made. */
void rooms_open(void);

#endif
