/* Signals that scripts ask for. See signals.c. */
#ifndef SIGNALS_H
#define SIGNALS_H

/* Reserves the signals by which serve is told to stop, reload and upgrade: scripts can not ask for them. Before any
 * script runs. */
void signals_reserve(void);

/* Waits for a signal that rt_signal_notify was asked for, and returns its number; meanwhile tells scripts of theirs. In
 * place of rt_signal_wait, once signals_reserve was called. One native G at a time. */
int signals_wait(void);

#endif
