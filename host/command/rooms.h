/* Gives the lower rooms of the host the operations of the rooms above. See rooms.c. */
#ifndef ROOMS_H
#define ROOMS_H

/* Before any VM is made. */
void rooms_open(void);

#endif
