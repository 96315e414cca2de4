/* libFuzzer's side of play.c: its thread hands each script to the runtime's, which plays it. */
#include "play.h"

#include "../../runtime/note.h"
#include "../../runtime/runtime.h"

#include <pthread.h>
#include <signal.h>

static struct {
    note go, done;
    const uint8_t *input;
    size_t size;
} hand;

static void play_all(void *arg) {
    (void)arg;
    play_begin();
    note_wake(&hand.done);
    for (;;) {
        note_sleep(&hand.go); /* with the P: nothing moves between two scripts */
        note_clear(&hand.go);
        play(hand.input, hand.size);
        note_wake(&hand.done);
    }
}

static void *runtime_thread(void *arg) {
    /* libFuzzer's own signals must come to its thread. */
    sigset_t theirs;
    sigemptyset(&theirs);
    sigaddset(&theirs, SIGALRM);
    sigaddset(&theirs, SIGINT);
    sigaddset(&theirs, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &theirs, NULL);
    play_main(play_all, arg);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    pthread_t t;
    if (pthread_create(&t, NULL, runtime_thread, NULL) != 0) rt_throw("no thread for the runtime");
    note_sleep(&hand.done);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    hand.input = input;
    hand.size = size;
    note_clear(&hand.done);
    note_wake(&hand.go);
    note_sleep(&hand.done);
    return 0;
}
