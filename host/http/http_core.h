/* The functions of lunapark.core for routes. See http_core.c. */
#ifndef HTTP_CORE_H
#define HTTP_CORE_H

/* Adds the functions. Before any VM is made. */
void http_core_open(void);

#endif
