/* Where serve writes its log and its access log: --log-file, --access-log.
 *
 * The files are opened before the app is loaded if the command line or the environment names them, and after it if the
 * app does. With --user the user opens them, as it will at each SIGHUP: so a file that could not be opened anew fails the
 * start. What is no line of the log stays on stderr: where the server listens, why it cannot start, dumps.
 *
 * A process that takes over (SIGUSR2) opens the same files by itself. Both append, so lines of the two do not mix. */
#include "logfiles.h"

#include "../base/log.h"
#include "../base/logq.h"
#include "../base/options.h"

#include <stdbool.h>
#include <string.h>
#include <unistd.h>

static void open_one(const char *option, logq *q, const char *path, bool *is_open) {
    if (!path || *is_open) return;
    *is_open = true;
    int err = logq_open(q, path);
    if (err) start_failed("--%s %s: %s", option, path, strerror(-err));
}

void logfiles_open(void) {
    static bool log, access;
    open_one("log-file", logq_log, options.log_file, &log);
    if (options.access_log && strcmp(options.access_log, "-") == 0)
        logq_use(logq_access, STDOUT_FILENO);
    else
        open_one("access-log", logq_access, options.access_log, &access);
}

void logfiles_reopen(void) {
    logq_reopen(logq_log);
    logq_reopen(logq_access);
}
