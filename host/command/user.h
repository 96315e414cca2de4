/* --user: serving as another user than root. See user.c. */
#ifndef USER_H
#define USER_H

/* Binds what root alone may bind, and becomes the user of --user, if there is one; a mistake ends the process: 64, or
 * 1 where the system refuses. Once, when options are parsed and inherit_init was called, while the process has one
 * thread. */
void user_become(void);

#endif
