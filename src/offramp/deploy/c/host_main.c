/* Runs or times a generated network on the host. Samples come as bytes on standard input.
 *
 * predict: for each sample, exit, label and scores as int32 on standard output.
 * time ROUNDS: int64 [samples][ROUNDS][2 * exits + 1]: nanoseconds of every stage and branch alone, then of
 * offramp_predict, in processor time: what other work on the machine takes does not count.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "offramp.h"
#include "offramp_parts.h"

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void time_parts(const int8_t *in) {
    int64_t times[2 * OFFRAMP_EXITS + 1], start;
    offramp_result result;
    for (int part = 0; part < 2 * OFFRAMP_EXITS; part++) {
        start = now();
        offramp_part(part, in);
        times[part] = now() - start;
    }
    start = now();
    offramp_predict(in, &result);
    times[2 * OFFRAMP_EXITS] = now() - start;
    fwrite(times, sizeof *times, 2 * OFFRAMP_EXITS + 1, stdout);
}

int main(int argc, char **argv) {
    static int8_t sample[OFFRAMP_INPUT_BYTES];
    static offramp_result result;
    const int rounds = argc > 2 && !strcmp(argv[1], "time") ? atoi(argv[2]) : 0;
    while (fread(sample, 1, sizeof sample, stdin) == sizeof sample) {
        if (rounds) {
            for (int i = 0; i < rounds; i++) time_parts(sample);
        } else {
            if (offramp_predict(sample, &result)) return 1;
            fwrite(&result.exit, sizeof result.exit, 1, stdout);
            fwrite(&result.label, sizeof result.label, 1, stdout);
            fwrite(result.scores, sizeof *result.scores, OFFRAMP_CLASSES, stdout);
        }
    }
    return 0;
}
