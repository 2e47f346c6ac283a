/* Exit decisions on integers: softmax as powers of two, no tables, no floating point.
 *
 * Scores are logits in units of temperature * ln 2 / 2^20 once shifted left by `shift`; powers have 44 fractional bits.
 * Thresholds say what may be missing to certainty: of max_softmax 1 / threshold - 1 and of margin 1 - threshold with 44
 * fractional bits, negative for never; of entropy log2(classes) * (1 - threshold) with 20.
 */
#ifndef OFFRAMP_EXITS_H
#define OFFRAMP_EXITS_H

#include <stdint.h>

#ifdef __GNUC__
#define OFFRAMP_RULE static __attribute__((noinline, unused)) /* one copy, however many exits ask */
#else
#define OFFRAMP_RULE static inline
#endif

OFFRAMP_RULE int offramp_best(const int32_t *scores, int classes) {
    int best = 0;
    for (int k = 1; k < classes; k++) best = scores[k] > scores[best] ? k : best;
    return best;
}

/* 2^-(d / 2^20) with 44 fractional bits: a polynomial with 30, within 1e-7 of its value. */
OFFRAMP_RULE int64_t offramp_power(int64_t d) {
    static const int32_t coefficients[] = {9871761, 59364954, 257888335, 744257103, 1 << 30};
    const int64_t whole = d >> 20;
    const int32_t part = (int32_t)(d & 0xfffff);
    int32_t value = 1008952;
    if (whole > 44) return 0;
    for (int k = 0; k < 5; k++) value = coefficients[k] - (int32_t)(((int64_t)value * part) >> 20);
    return ((int64_t)value << 14) >> whole;
}

OFFRAMP_RULE int offramp_max_softmax(const int32_t *scores, int classes, int shift, int64_t threshold) {
    const int best = offramp_best(scores, classes);
    int64_t others = 0;
    for (int k = 0; k < classes; k++)
        if (k != best) others += offramp_power(((int64_t)scores[best] - scores[k]) * ((int64_t)1 << shift));
    return others <= threshold;
}

OFFRAMP_RULE int offramp_margin(const int32_t *scores, int classes, int shift, int64_t threshold) {
    const int best = offramp_best(scores, classes);
    int64_t others = 0, second = 0;
    if (threshold < 0) return 0;
    for (int k = 0; k < classes; k++) {
        if (k == best) continue;
        const int64_t power = offramp_power(((int64_t)scores[best] - scores[k]) * ((int64_t)1 << shift));
        others += power;
        second = power > second ? power : second;
    }
    return second + others <= threshold + ((threshold >> 14) * (others >> 22) >> 8);
}

/* log2 with 20 fractional bits, bit by bit: a square has twice the logarithm. */
OFFRAMP_RULE int32_t offramp_log2(int64_t total) {
    int32_t log = 0;
    while (total >> (log + 1)) log++;
    uint32_t m = (uint32_t)(log > 30 ? total >> (log - 30) : total << (30 - log));
    for (int k = 0; k < 20; k++) {
        m = (uint32_t)(((uint64_t)m * m) >> 30);
        log = 2 * log + (int32_t)(m >> 31);
        m >>= m >> 31;
    }
    return log;
}

OFFRAMP_RULE int offramp_entropy(const int32_t *scores, int classes, int shift, int64_t threshold) {
    const int64_t top = scores[offramp_best(scores, classes)], most = (int64_t)25 << 20;
    int64_t total = 0, spread = 0;
    for (int k = 0; k < classes; k++) {
        const int64_t d = (top - scores[k]) * ((int64_t)1 << shift), power = offramp_power(d) >> 20;
        total += power;
        spread += power * (d < most ? d : most);
    }
    return (offramp_log2(total) - ((int64_t)24 << 20)) * total + spread <= threshold * total;
}

#endif
