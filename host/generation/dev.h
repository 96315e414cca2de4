/* Showing a browser reloads, for --dev. See dev.c. Any thread. */
#ifndef DEV_H
#define DEV_H

#include "source.h"

/* The last attempt to load the app has failed. what: why. files: what it had loaded; may be NULL. */
void dev_failed(const char *what, source_set *files);
/* The generation that serves has loaded the files that are on the disk. */
void dev_loaded(void);

#endif
