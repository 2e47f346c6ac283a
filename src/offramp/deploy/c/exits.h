/* Exit decisions on integers: softmax as powers of two from a table, no floating point.
 *
 * Scores are logits in units of temperature * ln 2 / 2^20 once shifted left by `shift`; powers have 24 fractional bits,
 * thresholds 28 (entropy: log2(classes) * (1 - threshold) with 20).
 */
#ifndef OFFRAMP_EXITS_H
#define OFFRAMP_EXITS_H

#include <stdint.h>

static inline int offramp_best(const int32_t *scores, int classes) {
    int best = 0;
    for (int k = 1; k < classes; k++) best = scores[k] > scores[best] ? k : best;
    return best;
}

/* 2^-(d / 2^20) with 24 fractional bits. */
static inline int64_t offramp_power(const int32_t *powers, int64_t d) {
    const int64_t whole = d >> 20;
    if (whole > 24) return 0;
    const int32_t part = (int32_t)(d & 0xfffff), index = part >> 12, rest = part & 0xfff;
    const int64_t drop = ((int64_t)(powers[index] - powers[index + 1]) * rest) >> 12;
    return (powers[index] - drop) >> whole;
}

static inline int offramp_max_softmax(const int32_t *powers, const int32_t *scores, int classes, int shift,
                                      int64_t threshold) {
    const int64_t top = scores[offramp_best(scores, classes)];
    int64_t total = 0;
    for (int k = 0; k < classes; k++) total += offramp_power(powers, (top - scores[k]) * ((int64_t)1 << shift));
    return (int64_t)1 << 52 >= threshold * total;
}

static inline int offramp_margin(const int32_t *powers, const int32_t *scores, int classes, int shift,
                                 int64_t threshold) {
    const int best = offramp_best(scores, classes);
    int64_t total = 0, second = 0;
    for (int k = 0; k < classes; k++) {
        const int64_t d = (int64_t)scores[best] - scores[k], power = offramp_power(powers, d * ((int64_t)1 << shift));
        total += power;
        if (k != best && power > second) second = power;
    }
    return (((int64_t)1 << 24) - second) * ((int64_t)1 << 28) >= threshold * total;
}

/* log2 with 20 fractional bits. */
static inline int64_t offramp_log2(const int32_t *logs, int64_t total) {
    int top = 0;
    while (total >> (top + 1)) top++;
    const int64_t scaled = top >= 20 ? total >> (top - 20) : total << (20 - top);
    const int32_t part = (int32_t)(scaled & 0xfffff), index = part >> 12, rest = part & 0xfff;
    return ((int64_t)top << 20) + logs[index] + (((int64_t)(logs[index + 1] - logs[index]) * rest) >> 12);
}

static inline int offramp_entropy(const int32_t *powers, const int32_t *logs, const int32_t *scores, int classes,
                                  int shift, int64_t threshold) {
    const int64_t top = scores[offramp_best(scores, classes)], most = (int64_t)25 << 20;
    int64_t total = 0, spread = 0;
    for (int k = 0; k < classes; k++) {
        const int64_t d = (top - scores[k]) * ((int64_t)1 << shift), power = offramp_power(powers, d);
        total += power;
        spread += power * (d < most ? d : most);
    }
    return (offramp_log2(logs, total) - ((int64_t)24 << 20)) * total + spread <= threshold * total;
}

#endif
