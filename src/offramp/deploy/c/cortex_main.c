/* Runs a generated network on QEMU's mps2-an386 (Cortex-M4): samples and results are files of the host (semihosting).
 *
 * Results per sample as uint32: exit, label, instructions of offramp_predict, then of every stage and branch (0 beyond
 * the first TIMED samples). Instructions come from the board's 25 MHz counter under `-icount shift=5`, where one
 * instruction takes 32 ns and one tick 40 ns.
 */
#include <stdint.h>
#include <string.h>

#include "offramp.h"
#include "offramp_parts.h"

#define COUNTER (*(volatile uint32_t *)0x40028018u)
#define TIMED 3

enum { SYS_OPEN = 1, SYS_CLOSE = 2, SYS_WRITE = 5, SYS_READ = 6, SYS_EXIT = 0x18 };

extern uint32_t stack_top, data_load, data_start, data_end, bss_start, bss_end;

static int32_t host(int call, const void *arguments) {
    register int32_t r0 __asm__("r0") = call;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static int32_t host_open(const char *name, uint32_t mode) {
    const uint32_t arguments[3] = {(uint32_t)name, mode, (uint32_t)strlen(name)};
    return host(SYS_OPEN, arguments);
}

static void host_leave(uint32_t code) { host(SYS_EXIT, (const void *)code); }

static uint32_t instructions(uint32_t ticks) { return (uint32_t)((uint64_t)ticks * 40u / 32u); }

static uint32_t count_part(int part, const int8_t *in) {
    const uint32_t start = COUNTER;
    if (part >= 0) offramp_part(part, in);
    return COUNTER - start;
}

static void run(void) {
    static int8_t sample[OFFRAMP_INPUT_BYTES];
    static offramp_result result;
    static uint32_t line[3 + 2 * OFFRAMP_EXITS];
    const int32_t from = host_open("samples.bin", 1), to = host_open("results.bin", 5);
    if (from < 0 || to < 0) host_leave(0x20023);
    const uint32_t idle = count_part(-1, sample);
    for (int n = 0;; n++) {
        const uint32_t reading[3] = {(uint32_t)from, (uint32_t)sample, sizeof sample};
        if (host(SYS_READ, reading)) break;
        for (int part = 0; part < 2 * OFFRAMP_EXITS; part++)
            line[3 + part] = n < TIMED ? instructions(count_part(part, sample) - idle) : 0;
        const uint32_t start = COUNTER;
        offramp_predict(sample, &result);
        line[2] = instructions(COUNTER - start - idle);
        line[0] = (uint32_t)result.exit;
        line[1] = (uint32_t)result.label;
        const uint32_t writing[3] = {(uint32_t)to, (uint32_t)line, sizeof line};
        host(SYS_WRITE, writing);
    }
    const uint32_t closing[1] = {(uint32_t)to};
    host(SYS_CLOSE, closing);
    host_leave(0x20026);
}

void reset(void) {
    memcpy(&data_start, &data_load, (size_t)((uint8_t *)&data_end - (uint8_t *)&data_start));
    memset(&bss_start, 0, (size_t)((uint8_t *)&bss_end - (uint8_t *)&bss_start));
    run();
    for (;;) {
    }
}

static void fault(void) {
    host_leave(0x20024);
    for (;;) {
    }
}

typedef void (*handler)(void);
__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    handler handlers[6];
} vectors = {&stack_top, {reset, fault, fault, fault, fault, fault}};
