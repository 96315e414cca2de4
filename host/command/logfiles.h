/* The files of --log-file and --access-log. See logfiles.c. */
#ifndef LOGFILES_H
#define LOGFILES_H

/* Opens the files that the options name by now and that are not open yet, or ends the process (start_failed). The main
 * G. Blocks the thread. */
void logfiles_open(void);

/* Has the files opened anew by their names, for tools that have renamed them. Any thread. Does not wait. */
void logfiles_reopen(void);

#endif
