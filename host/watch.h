/* Noticing that files change. See watch.c. One per process. */
#ifndef WATCH_H
#define WATCH_H

#include "source.h"

/* Once, on a native G. changed() is called on the watch's own G after something happened to a watched file, once for
 * a burst of events; it may wait, and may call watch_files. It decides whether that was a change: a file that was
 * touched is reported as well. */
void watch_start(void (*changed)(void));

/* From now on the files of both sets are watched, and no others. Either may be NULL. `failed` is what was loaded
 * last and did not run: what was missing may come, what was wrong may be put right. The sets may be freed afterwards.
 * A change between the loading of the newer set (failed, else current) and this call is reported too. Any
 * native G, one or several at a time; it waits for the disk. */
void watch_files(source_set *current, source_set *failed);

#endif
