/* Profiles and traces for the admin API. See recording.c. */
#ifndef RECORDING_H
#define RECORDING_H

/* From now on profiles name Lua functions. Once, before any VM runs. */
void recording_init(void);

/* Recordings end soon, with what they have. Any thread. Does not wait. */
void recording_stop(void);

#endif
