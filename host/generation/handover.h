/* State that a generation hands to the next. See handover.c. */
#ifndef HANDOVER_H
#define HANDOVER_H

#include "generation.h"

/* Calls the app's hand_over functions in the VMs of `from`, and passes their values to the take_over functions in the
 * VMs of `to`. NULL, or what is wrong (message.h). Only the G that reloads. Waits. */
char *hand_over(generation *from, generation *to);

#endif
