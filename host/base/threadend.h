/* What is to happen when a thread ends. */
#ifndef THREADEND_H
#define THREADEND_H

/* Calls fn on the calling thread when that ends, while its thread-local variables are still there. Once per thread and
 * function. Any thread. Does not wait. */
void threadend_call(void (*fn)(void));

#endif
