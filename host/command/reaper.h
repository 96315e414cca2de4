/* Process 1 of a container. See reaper.c. */
#ifndef REAPER_H
#define REAPER_H

/* If this is process 1: goes on in a child, and returns there; the parent stays as what process 1 has to be, and ends
 * as the child does. Else returns at once. main alone, before there are threads. */
void reaper_split(void);

#endif
