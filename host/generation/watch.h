/* Noticing that files change. See watch.c. One watch per process. */
#ifndef WATCH_H
#define WATCH_H

#include "source.h"

/* Begins to watch. changed() is called on the watch's own G after something happened to a watched file, once for a
 * burst of events; it may wait, and may call watch_files. A file whose times alone have changed is reported too. Once,
 * on a native G. */
void watch_start(void (*changed)(void));

/* Watches the files of both sets, and no others. Either may be NULL. `failed` was loaded last and did not run: a file
 * that it missed may come. The sets may be freed afterwards. A change between the loading of the newer set (failed,
 * else current) and this call is reported too. Any native G, several at a time. Waits for the disk. */
void watch_files(source_set *current, source_set *failed);

#endif
