/* The log, addresses and options, for Lua. The rules of vm_ffi.h hold, but for the thread: any thread. */
#ifndef BASE_FFI_H
#define BASE_FFI_H

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- the log (log.c) ---- */

enum { HOST_LOG_STRING, HOST_LOG_NUMBER, HOST_LOG_JSON };

/* A key and its value: a string, a number, or JSON that is written as it is, of 4096 bytes at most. */
typedef struct host_log_pair {
    const char *key, *text;
    double number;
    uint32_t key_len, text_len;
    int32_t kind;
} host_log_pair;

/* Appends a line to the log, if the level is enabled: 0 debug .. 3 error. As text, msg keeps its lines, and each line
 * after the first is indented. */
void host_log(int level, const char *msg, size_t len);
void host_log_pairs(int level, const char *msg, size_t len, const host_log_pair *pairs, int n);
int host_log_enabled(int level);

/* 1: lines are JSON (--log-format). */
int host_log_is_json(void);

/* The lowest level that is logged, in all VMs. */
int host_log_level(void);
void host_log_set_level(int level);

/* Lines are kept back from now on, until host_log_show: they are written, or dropped if keep is 0. */
void host_log_hold(void);
void host_log_show(int keep);

/* A number of lines. which: 0 queued so far, 1 lost, 2 not written yet. */
double host_log_count(int which);

/* Writes s into buf as a JSON string, cut if buf is too short. cap: 64 or more. Returns the length. */
int host_log_quote(const char *s, size_t len, char *buf, size_t cap);

/* ---- numbers (decimal.cc) ---- */

enum { HOST_NUMBER_MAX = 32 }; /* bytes of a number's text */

/* Writes a number as JSON and whatever else takes a number for text: whole numbers up to 2^53 digit by digit, others by
 * the shortest text that reads back as the same number. NaN and infinity: "nan", "inf", "-inf". The length; no NUL
 * follows. */
int host_number_text(double value, char *text);

/* ---- names of routes and lines (label.c) ---- */

/* The number of a name for the log: of a route, or of a place where Gs are started. 0: there are too many names. */
int host_label(const char *text, size_t len);

/* The name that has this number; "": none has. */
const char *host_label_text(int number);

/* ---- addresses (addr.c) ---- */

/* 0: addr is `host:port`, `[v6]:port` with numeric host, or `unix:path`; else -EINVAL. */
int host_addr_check(const char *addr);

/* Writes an IP address, of 4 or 16 bytes, as text: its length, or -EINVAL. */
int host_ip_text(const char *bytes, size_t len, char *buf, size_t cap);

/* Reads an IP address: the number of its bytes; 0: text is none. */
int host_ip_bytes(const char *text, uint8_t *bytes);

/* ---- folders (folder.c) ---- */

/* Writes the path of the process's folder, NUL-terminated: its length. -errno: there is none by which this user may go
 * there, or it is longer than size. */
int host_cwd(char *path, size_t size);

/* ---- options (options.c) ---- */

/* --rounds; 1 without the option. */
int host_rounds(void);
/* ffi:end */

#endif
