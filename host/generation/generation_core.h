/* The functions of lunapark.core for the files of a generation. See generation_core.c. */
#ifndef GENERATION_CORE_H
#define GENERATION_CORE_H

/* Adds the functions. Before any VM is made. */
void generation_core_open(void);

#endif
