/* Scripts of the connections' fuzz target: those that it begins with, and those that have found a fault once, which
 * must not come back. Each is a test; named on the command line, those alone, with what the clients got. */
#include "../../runtime/runtime.h"
#include "../fuzz/play.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    int argc;
    char **argv;
} call;

static void replay(const char *path) {
    static uint8_t script[1 << 20];
    FILE *f = fopen(path, "re");
    if (!f) rt_throw("cannot read %s", path);
    size_t n = fread(script, 1, sizeof script, f);
    fclose(f);
    printf("[ RUN      ] %s\n", path);
    fflush(stdout);
    play(script, n);
    printf("[       OK ] %s\n", path);
}

static int visible(const struct dirent *e) {
    return e->d_name[0] != '.';
}

static void replay_folder(const char *folder) {
    struct dirent **names;
    int n = scandir(folder, &names, visible, alphasort);
    if (n < 0) rt_throw("cannot list %s; the current folder must be the source tree's", folder);
    for (int i = 0; i < n; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        replay(path);
        free(names[i]);
    }
    free(names);
}

static void replay_all(void *arg) {
    (void)arg;
    play_begin();
    play_shows = call.argc > 1;
    for (int i = 1; i < call.argc; i++)
        replay(call.argv[i]);
    if (call.argc == 1) {
        replay_folder("host/fuzz/conn");
        replay_folder("host/fuzz/regress");
    }
    fflush(stdout);
    _exit(0); /* the log's thread and others go with it */
}

int main(int argc, char **argv) {
    call.argc = argc;
    call.argv = argv;
    play_main(replay_all, NULL);
}
