/* The process and its terminal, for Lua. The rules of vm_ffi.h hold. */
#ifndef COMMAND_FFI_H
#define COMMAND_FFI_H

#include "../vm/vm_ffi.h"

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- lines from a terminal (repl.c) ---- */

/* 1: stdin is a terminal; then the history is in that file, if it is not NULL. Once, before the other functions. */
int host_repl_open(const char *history);

/* A job that reads a line from stdin. One at a time. */
host_job *host_repl_read(const char *prompt);

/* The result of a host_repl_read. 1: a line, without its break, which lives as long as the job; 0: the end; -EINTR:
 * host_repl_interrupt; -EAGAIN: the job has not ended; -errno. */
int host_repl_line(host_job *job, const char **line, size_t *len);

/* Ends a read, if there is one. */
void host_repl_interrupt(void);

/* A job that ends when the tab key asks what may follow. Call host_repl_answer within a second. */
host_job *host_repl_question(void);

/* The text before the cursor, of a host_repl_question; NULL: the job has not ended. */
const char *host_repl_before(host_job *job, size_t *len);

/* Answers a question: the text to insert, and the text to list; each may be empty. */
void host_repl_answer(const char *insert, const char *list);

/* ---- the process and its generations (admin.c, commands.c) ---- */

/* The number of the generation that serves, 0: none; and its id and its commit's, each cut off at cap. */
int host_generation(char *id, char *commit, size_t cap);

/* A job that reloads. to: the generation of the history that is to serve again (history_find), NULL: the files as they
 * are now. message: for the history; may be empty. */
host_job *host_reload(const char *to, const char *message);

/* The result of a host_reload. *result: 0 a new generation serves, 1 no file has changed, 2 the load has failed, 3 `to`
 * names no generation, or several. Returns the id, or why, which lives as long as the job; NULL: the job has not
 * ended. */
const char *host_reload_result(host_job *job, int *result);

/* A job that lists the history: history_print's records. */
host_job *host_generations(void);

/* The result of a host_generations. NULL: no memory, or the job has not ended. */
const char *host_generations_text(host_job *job, size_t *len);

/* A job that gives a generation a tag (history_tag). to: the generation, "": the one that serves; NULL: the tag goes. */
host_job *host_tag(const char *name, const char *to);

/* The result of a host_tag. *result: 0 done, 1 no such generation or tag, 2 no such name can be given, 3 another
 * generation has it, 4 --state could not be written. Returns the commit, or why; NULL: the job has not ended. */
const char *host_tag_result(host_job *job, int *result);

const char *host_version(void);

/* Compares with --admin-token: 1 equal, 0 different, -1 there is no token. Takes the same time for all wrong tokens of
 * one length. */
int host_admin_token(const char *given, size_t len);

/* ---- recordings (recording.c) ---- */

enum { HOST_RECORD_PROFILE, HOST_RECORD_TRACE };

/* A job that records for so many seconds. NULL: no memory. */
host_job *host_record(int kind, double seconds);

/* The result of a host_record: bytes; samples of a profile; samples, or events of a trace, that found no room. 0;
 * -EBUSY: there is another recording of that kind; -EAGAIN: the job has not ended; -errno. */
int host_record_result(host_job *job, double *size, double *samples, double *dropped);

/* Copies from byte `at` of a recording on. Returns how many bytes, n at most; 0: the end; -errno. Of a job whose result
 * is 0. */
int host_record_read(host_job *job, double at, uint8_t *buf, size_t n);

/* ---- the process ends (commands.c) ---- */

/* Has serve stop as by SIGTERM, with this exit code; while the app loads, as soon as it serves. The first call
 * counts. */
void host_stop(int code);
/* ffi:end */

#endif
