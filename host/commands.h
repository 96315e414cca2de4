/* The commands; each runs as the main G and ends the process. See commands.c. */
#ifndef COMMANDS_H
#define COMMANDS_H

#define LUNAPARK_VERSION "0.1.0"

typedef struct command_call {
    const char *exe;
    int argc; /* what the options left: the script first */
    char **argv;
} command_call;

void command_serve(void *call);
void command_run(void *call);
void command_test(void *call);
void command_check(void *call);
void command_repl(void *call);

#endif
