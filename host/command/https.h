/* HTTPS: the certificates of --listen. See https.c. The main G. */
#ifndef HTTPS_H
#define HTTPS_H

typedef struct certs certs;

/* Reads what --tls-cert and the other options of TLS name. NULL: --listen is plain. A mistake ends the process with 64,
 * a file that can't be used with 1. Once. Blocks. */
certs *https_open(void);

/* The process serves: files that change are loaded from now on. Does not wait. */
void https_watch(void);

/* SIGHUP: the files are loaded now. Does not wait. */
void https_reload(void);

#endif
