/* Signals, processes and files, for Lua. The rules of vm_ffi.h hold. */
#ifndef SYS_FFI_H
#define SYS_FFI_H

#include "../net/net_ffi.h"
#include "../vm/vm_ffi.h"

#include <stddef.h>
#include <stdint.h>

/* ffi:begin */
/* ---- signals (signals.c) ---- */

/* The signals that the scripts of a VM want. */
typedef struct host_signals host_signals;

/* At most one per VM. NULL: no memory. */
host_signals *host_signals_new(void);

/* The finalizer. */
void host_signals_free(host_signals *s);

/* on: from now on the signal calls lunapark.signaled, in the VM's registry, with its number. 0; -EBUSY: the host itself
 * uses the signal; -EINVAL: no process can catch it. */
int host_signals_want(host_signals *s, int signo, int on);

/* ---- processes (exec.c) ---- */

typedef struct host_proc host_proc;

/* The kinds of standard streams of a new process. HOST_STDOUT: stderr goes where stdout goes. */
enum { HOST_PIPE, HOST_INHERIT, HOST_NOTHING, HOST_STDOUT };

/* A job that starts a process. argv and env: argc and envc strings, each with its NUL; envc -1: our environment. cwd:
 * NULL: ours. own_group: the process leads a group of its own. NULL: no memory. */
host_job *host_exec(const char *argv, size_t argv_len, int argc, const char *env, size_t env_len,
                    int envc, const char *cwd, int in, int out, int err, int own_group);

/* Takes the process that a job has started, which has ended. NULL: *err says why there is none, and host_exec_bad_cwd
 * is 1 if cwd was missing. */
host_proc *host_exec_take(host_job *job, int *err);
int host_exec_bad_cwd(host_job *job);
int host_proc_pid(host_proc *p);

/* Takes our end of stream 0 .. 2 of p. NULL: p has none; or none can be made, if *err is not 0. */
host_sock *host_proc_stream(host_proc *p, int i, int *err);

/* A socket that becomes readable when the process ends; it belongs to p. NULL: *err says why. */
host_sock *host_proc_watch(host_proc *p, int *err);

/* 1: the process has ended; it is a zombie unless it was reaped. */
int host_proc_ended(host_proc *p);

/* Reaps the process: its exit code, or minus the signal that ended it; -1000: it has not ended. */
int host_proc_reap(host_proc *p);

/* Sends a signal to the process, or to its own group. 0; -ESRCH: it was reaped. */
int host_proc_kill(host_proc *p, int signo);

/* on: if p is let go of before it was reaped, its group gets SIGKILL. */
void host_proc_bind(host_proc *p, int on);

/* The finalizer. A process that runs is reaped later. */
void host_proc_free(host_proc *p);

/* "TERM" for 15; NULL: no signal of Linux. */
const char *host_signal_name(int signo);

/* ---- files (fs.c) ---- */

typedef struct host_file host_file;

enum { HOST_FS_READ, HOST_FS_REPLACE, HOST_FS_APPEND, HOST_FS_STAT, HOST_FS_LIST, HOST_FS_CHECK };
enum { HOST_FILE_READ, HOST_FILE_WRITE, HOST_FILE_SEEK, HOST_FILE_SYNC, HOST_FILE_CLOSE };

typedef struct host_fs_result {
    int64_t n;           /* 0, a count, an offset; or -errno, RT_ECLOSED */
    int32_t stream;      /* 1: no file on a disk, of which nothing was read: host_fs_stream */
    const char *data;    /* what was read; a list's names, each with its NUL */
    size_t len;          /* bytes of it */
    int64_t size;        /* of stat and open: bytes */
    double mtime, atime; /* seconds since 1970 */
    double ctime;
    uint32_t mode; /* type and permissions as in stat(2) */
    uint32_t uid, gid;
    uint32_t links;
    double ino, dev;  /* ino: of open, too */
    int64_t mtime_ns; /* of open: nanoseconds since 1970 */
} host_fs_result;

/* A job that does op with the file path. data is copied. root: for READ, APPEND and CHECK, the folder that path is
 * counted from and may not lead out of (-EXDEV); NULL: none. CHECK looks whether path is there, or could be made. The
 * result is -EAGAIN if a FIFO can't be opened to write because nobody has opened it to read. NULL: no memory. */
host_job *host_fs(int op, const char *root, const char *path, const char *data, size_t len);

/* A job that opens a file. flags: as for open(2). root: as host_fs. NULL: no memory. */
host_job *host_fs_open(const char *root, const char *path, int flags);

/* Opens a regular file to read at once, if the kernel needs no disk for that. root: as host_fs, and not NULL. Fills *r
 * as host_fs_open does. NULL: r->n is -errno; -EAGAIN: host_fs_open can tell; 0: it is another kind of file (r->mode).
 * Does not wait. */
host_file *host_fs_open_cached(const char *root, const char *path, host_fs_result *r);

/* A job that does op with f. n: bytes to read at most, or the offset. whence: as for lseek. NULL: no memory. */
host_job *host_file_job(host_file *f, int op, const char *data, size_t len, double n, int whence);

/* The result of a job, which lives as long as the job; NULL: the job has not ended. */
const host_fs_result *host_fs_result_of(host_job *job);

/* Takes the file that a job of host_fs_open has opened. */
host_file *host_fs_take(host_job *job);

/* The descriptor of f, for other calls of the host; -1: closed. */
int host_file_fd(host_file *f);

/* Takes the stream that a read, a write or host_fs_open has opened: a FIFO, a terminal, a device that can be waited
 * for. NULL: *err says why there is none. */
host_sock *host_fs_stream(host_job *job, int *err);

/* 1: the path leads to a FIFO, a terminal or another device, which may have to be waited for, but not to a device of
 * the kernel's own memory (/dev/null, /dev/urandom). Does not open it. Any thread. */
int host_fs_may_wait(const char *path);

/* The finalizer: closes f when no job works on it any more. */
void host_file_free(host_file *f);

/* ---- making, renaming, removing (tree.c) ---- */

enum { HOST_FS_MKDIR, HOST_FS_RENAME, HOST_FS_REMOVE };
enum { HOST_FS_PARENTS = 1, HOST_FS_RECURSIVE = 2 };
enum { HOST_FS_EACROSS = -20002 }; /* of a rename: the two names are on two file systems */

typedef struct host_fs_changed {
    int64_t n; /* 0; -errno; 1: a part of the tree is removed, and another such job removes more */
    const char *failed; /* what of a tree can't be removed; NULL: the path itself */
} host_fs_changed;

/* A job that makes or removes path, or renames it to `to`. root: as host_fs, for both. mode: of a new directory. flags:
 * HOST_FS_PARENTS: with MKDIR, makes what is missing on the way, and a directory that is there is no error.
 * HOST_FS_RECURSIVE: with REMOVE, a directory and all that is in it, following no link. NULL: no memory. */
host_job *host_fs_change(int op, const char *root, const char *path, const char *to, int mode,
                         int flags);

/* As host_fs_result_of. */
const host_fs_changed *host_fs_changed_of(host_job *job);

/* ---- what is in a tree (walk.c) ---- */

/* A walk through the directory path and those in it, each before what is in it. */
typedef struct host_walk host_walk;

/* Records, each with its NUL: a letter of "fdlspcb?" and a path counted from the walk's; or "e", an errno, a space and
 * the path of a directory that can't be read. No bytes: there are no more. */
typedef struct host_walk_batch {
    const char *text;
    size_t len;
    int32_t err; /* 0 or -ENOMEM */
} host_walk_batch;

/* root: as host_fs. Opens nothing yet. NULL: no memory. */
host_walk *host_walk_new(const char *root, const char *path);

/* A job that reads on; not before the job before has ended. NULL: no memory. */
host_job *host_walk_next(host_walk *w);

/* As host_fs_result_of. */
const host_walk_batch *host_walk_batch_of(host_job *job);

/* The finalizer: closes the walk's directories when no job works on it any more. */
void host_walk_free(host_walk *w);

/* ---- compression (compress.c) ---- */

enum { HOST_GZIP, HOST_BROTLI, HOST_ZSTD };
enum { HOST_COMPRESS_MORE, HOST_COMPRESS_FLUSH, HOST_COMPRESS_END };

/* What the last call has compressed is out[0 .. n), in a buffer of cap bytes. */
typedef struct host_compressor {
    uint8_t *out;
    size_t n, cap;
} host_compressor;

/* level: of the format, 1 to 9 (gzip), 0 to 11 (brotli), 1 to 19 (zstd). NULL: no memory, or no
 * such format. */
host_compressor *host_compressor_new(int format, int level);

/* Compresses data. op: FLUSH: all that was given so far can be read from what has been put out so far; END: so it is,
 * and the next call begins anew. 0; -EINVAL: no such op; -ENOMEM: c is of no use any more. Any thread, one at a time. */
int host_compress(host_compressor *c, const char *data, size_t len, int op);

/* The finalizer. */
void host_compressor_free(host_compressor *c);

/* ---- hashes, random bytes, passwords, sealed messages (crypto.c) ----
 *
 * Any thread. None of these functions waits; host_scrypt computes for long. */

enum { HOST_MD5, HOST_SHA1, HOST_SHA256, HOST_SHA384, HOST_SHA512, HOST_DIGESTS };
enum { HOST_DIGEST_MAX = 64, HOST_SEAL_KEY = 32, HOST_SEAL_NONCE = 12, HOST_SEAL_TAG = 16 };

/* The hash of s[0 .. n), into out, which has HOST_DIGEST_MAX bytes. Its length; -EINVAL: libcrypto has no such
 * algorithm; -ENOMEM. */
int host_digest(int alg, const char *s, size_t n, uint8_t *out);
int host_hmac(int alg, const char *key, size_t key_len, const char *s, size_t n, uint8_t *out);

/* 1: the n bytes are alike. Takes the same time for all bytes. */
int host_equal(const char *a, const char *b, size_t n);

/* Derives len bytes of a password. cost: N of scrypt, a power of two; block: r; parallel: p. 0; -EINVAL: bad parameters,
 * or too little memory. */
int host_scrypt(const char *password, size_t n, const char *salt, size_t salt_len, double cost,
                double block, double parallel, uint8_t *out, size_t len);

/* n random bytes, fit for keys. 0; -EIO: there are none. */
int host_random(uint8_t *out, size_t n);

/* base64 with '=' at the end. out has 4 * ((n + 2) / 3) + 1 bytes, n is at most 2^30. The length. */
size_t host_base64(const char *s, size_t n, char *out);

/* The reverse; out has n bytes. s has no blanks. The length; -EINVAL: s is no base64. */
int64_t host_unbase64(const char *s, size_t n, uint8_t *out);

/* Encrypts a message so that only the key opens it, unchanged and with the same `about` (a text that is not encrypted).
 * key: HOST_SEAL_KEY bytes. out has n + HOST_SEAL_NONCE + HOST_SEAL_TAG bytes. The length; -EIO. */
int64_t host_seal(const char *key, const char *about, size_t about_len, const char *s, size_t n,
                  uint8_t *out);

/* The reverse; out has n bytes. The length; -EINVAL: it was sealed by another key, about something else, or changed. */
int64_t host_unseal(const char *key, const char *about, size_t about_len, const char *s, size_t n,
                    uint8_t *out);
/* ffi:end */

#endif
