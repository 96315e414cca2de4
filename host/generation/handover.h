/* State that a generation leaves to the next. See handover.c. */
#ifndef HANDOVER_H
#define HANDOVER_H

#include "generation.h"

/* The values that the app's hand_over functions return in the VMs of `from` go to the take_over functions in the VMs of
 * `to`. NULL, or what is wrong (message.h). The G that reloads. Waits. */
char *hand_over(generation *from, generation *to);

#endif
