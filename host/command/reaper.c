/* What process 1 of a container has to do, and no other process: it becomes the parent of every process whose own
 * parent has ended, and has to reap them; and signals do nothing to it that it does not handle.
 *
 * A server cannot do so by the way: it waits for its own programs by their pidfds, each where it is needed
 * (sys/exec.c), and a wait for any child would take their ends away. So process 1 stays a small process of its own. It
 * starts the server as its only child, hands each signal on to it, and reaps whoever else ends. When the server ends,
 * it ends likewise, and with it the container.
 *
 * The server leads a process group of its own, in the foreground of the terminal if there is one. Else a ^C would reach
 * it twice, and stop it at once.
 */
#include "reaper.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BY_SIGNAL = 128 }; /* as shells say that a signal has ended a process */

/* Reaps all that have ended. Ends when `server` is one of them. */
static void reap(pid_t server) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == server)
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : BY_SIGNAL + WTERMSIG(status));
}

static _Noreturn void be_first(pid_t server, const sigset_t *all) {
    for (;;) {
        siginfo_t info;
        int signo = sigwaitinfo(all, &info);
        if (signo == SIGCHLD)
            reap(server);
        else if (signo > 0)
            (void)kill(server, signo); /* fails if the server has just ended */
    }
}

/* Sockets that process 1 was started with (inherit.c) are for the server. */
static void take_listeners(void) {
    char text[16];
    const char *pid = getenv("LISTEN_PID");
    if (!pid || strcmp(pid, "1") != 0) return;
    snprintf(text, sizeof text, "%d", (int)getpid());
    setenv("LISTEN_PID", text, 1);
}

void reaper_split(void) {
    sigset_t all, before;
    if (getpid() != 1) return;
    sigfillset(&all);
    /* Those of a fault are not to wait. */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&all, faults[i]);
    sigdelset(&all, SIGTTOU);
    sigdelset(&all, SIGTTIN);
    sigprocmask(SIG_BLOCK, &all, &before);
    pid_t pid = fork();
    if (pid < 0) {
        perror("lunapark: fork");
        exit(1);
    }
    if (pid > 0) be_first(pid, &all);
    struct sigaction ignore = {.sa_handler = SIG_IGN}, old;
    setpgid(0, 0);
    sigaction(SIGTTOU, &ignore,
              &old); /* a group in the background stops when it takes the terminal */
    (void)tcsetpgrp(STDIN_FILENO, getpid());
    sigaction(SIGTTOU, &old, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    take_listeners();
}
