/* The commands of the program. Each runs as the main G and ends the process. See commands.c. */
#ifndef COMMANDS_H
#define COMMANDS_H

#define LUNAPARK_VERSION "0.1.0"

typedef struct command_call {
    const char *exe;
    int argc; /* the words that are no options: the script first */
    char **argv;
} command_call;

/* Ends the process with 64 if the options let other machines reach what shows the app's source or takes orders, and
 * nothing says that this is meant. Any thread. Does not wait. */
void check_reach(void);

void command_serve(void *call);
void command_run(void *call);
void command_test(void *call);
void command_check(void *call);
void command_routes(void *call);
void command_repl(void *call);
void command_tag(void *call);

#endif
