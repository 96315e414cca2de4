/* --user: serving as another user than root. See user.c. */
#ifndef USER_H
#define USER_H

/* Binds what root alone may bind, then becomes the user of --user, if there is one. A mistake ends the process with 64,
 * a refusal of the system with 1. Once, when options are parsed and inherit_init was called, while the process has one
 * thread. */
void user_become(void);

#endif
