/* Integer kernels of Offramp: channels last, int32 sums, fixed-point requantization with ties to even.
 *
 * C11, no heap, nothing but stdint and string. Right shifts of negative integers are taken to be arithmetic, as every
 * compiler for the machines at hand makes them. Weights of a row lie in planes: for 4 bits the low halves of the bytes
 * hold the first half of the row, for 2 bits each of the four fields holds a quarter, so that unpacking needs no
 * shuffling. Rows are padded with zeros to a multiple of 8 integers (16 at 2 bits).
 */
#ifndef OFFRAMP_KERNELS_H
#define OFFRAMP_KERNELS_H

#include <stdint.h>
#include <string.h>
#ifdef __ARM_FEATURE_DSP
#include <arm_acle.h>
#endif

/* One copy of each kernel, whoever calls it. OFFRAMP_ALONE keeps a compiler from tailoring it to its only caller, for
 * programs that time a single layer. */
#if defined(__GNUC__) && !defined(__clang__) && defined(OFFRAMP_ALONE)
#define OFFRAMP_KERNEL static __attribute__((noipa, unused))
#elif defined(__GNUC__)
#define OFFRAMP_KERNEL static __attribute__((noinline, unused))
#else
#define OFFRAMP_KERNEL static inline
#endif

/* gcc vectorizes loops of unknown length from -O3 on. Where there are vector units, programs compiled with -O1 or -O2
 * get that for the kernels alone; -O0 and -Os stay as they are, and so do microcontrollers. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__) && \
    (defined(__SSE2__) || defined(__ARM_NEON))
#pragma GCC push_options
#pragma GCC optimize("O3")
#define OFFRAMP_OPTIONS
#endif

/* What the network's layers have: the bit widths of weights added up, and arrays. The generator sets both, so that no
 * code is kept for what no layer needs. */
#ifndef OFFRAMP_BITS
#define OFFRAMP_BITS (8 + 4 + 2)
#endif
#ifndef OFFRAMP_ANALOG
#define OFFRAMP_ANALOG 1
#endif

#define OFFRAMP_PIXELS 4
#define OFFRAMP_LANES 16

/* Small cores have no vectors to gain from a loop for each case, and flash to lose. */
#ifdef __ARM_FEATURE_DSP
#define OFFRAMP_COMPACT 1
#define OFFRAMP_SHARED static __attribute__((noinline, unused))
#else
#define OFFRAMP_COMPACT 0
#define OFFRAMP_SHARED static inline
#endif

/* a * multiplier / 2^shift (+ offset / 2^shift), one entry per output channel. */
typedef struct {
    const int32_t *multiplier;
    const uint8_t *shift;
    const int64_t *offset; /* NULL: none */
    int32_t low, high;     /* clip of the result */
} offramp_scale;

/* An in-memory-compute array: what its converters do to inputs and partial sums. */
typedef struct {
    int32_t dac_multiplier; /* 0: inputs enter as they are */
    uint8_t dac_shift;
    int16_t dac_low, dac_high;
    int32_t adc_multiplier;
    uint8_t adc_shift;
    int32_t adc_low, adc_high;
} offramp_array;

typedef struct {
    uint16_t in_h, in_w, in_c, out_h, out_w, out_c;
    uint16_t k_h, k_w, stride_h, stride_w, pad_top, pad_left, groups;
    uint16_t block; /* input channels whose products are summed before a converter (all of a group's when digital) */
    uint8_t in_signed, weight_bits;
    const uint8_t *weights;     /* [out_c][blocks][row] packed */
    const int32_t *bias;        /* [out_c]; NULL for an array, whose bias is in scale.offset */
    const offramp_array *array; /* NULL: digital */
    offramp_scale scale;
} offramp_conv_layer;

typedef struct {
    uint16_t in_h, in_w, channels, out_h, out_w, k_h, k_w, stride_h, stride_w, pad_top, pad_left;
    uint8_t in_signed, weight_bits;
    const uint8_t *weights; /* depthwise: [k_h * k_w][channels padded to OFFRAMP_LANES] packed in groups of lanes */
    const int32_t *bias;
    offramp_scale scale; /* average pooling: one entry */
} offramp_window_layer;

typedef struct {
    uint32_t size;
    uint8_t a_signed, b_signed;
    int32_t a_multiplier, b_multiplier;
    uint8_t shift;
    int32_t low, high;
} offramp_add_layer;

/* What a layer clips no processor predicts: two steps without a branch. On small cores branches are cheap. */
static inline int32_t offramp_clip(int64_t value, int32_t low, int32_t high) {
#ifdef __ARM_FEATURE_DSP
    return value < low ? low : value > high ? high : (int32_t)value;
#else
    const int64_t least = low, most = high, above = value < least ? least : value;
    return (int32_t)(above > most ? most : above);
#endif
}

/* product / 2^shift, ties to even, clipped: |product| < 2^62, 1 <= shift <= 61. */
static inline int32_t offramp_round(int64_t product, int shift, int32_t low, int32_t high) {
    const int64_t below_half = (int64_t)(((uint64_t)1 << (shift - 1)) - 1), odd = (product >> shift) & 1;
    return offramp_clip((product + below_half + odd) >> shift, low, high);
}

/* Whether a layer's weights have these bits; known beforehand where no layer or every layer has them. */
static inline int offramp_has(int bits, int wanted) {
    return OFFRAMP_BITS == wanted || ((OFFRAMP_BITS & wanted) != 0 && bits == wanted);
}

/* Sums of channels k..k + count to bytes, or to int32 when `scores` is not NULL. */
static inline void offramp_store(const offramp_scale *scale, int k, int count, const int32_t *acc, uint8_t *out,
                                 int32_t *scores) {
    const int32_t *multiplier = scale->multiplier + k, low = scale->low, high = scale->high;
    const uint8_t *shift = scale->shift + k;
    const int64_t *offsets = OFFRAMP_ANALOG ? scale->offset : NULL;
    if (OFFRAMP_COMPACT || scores || offsets) {
        for (int i = 0; i < count; i++) {
            const int64_t offset = offsets ? offsets[k + i] : 0;
            const int32_t value = offramp_round((int64_t)acc[i] * multiplier[i] + offset, shift[i], low, high);
            if (scores) scores[i] = value;
            else out[i] = (uint8_t)value;
        }
    } else if (count == OFFRAMP_LANES) {
        int32_t values[OFFRAMP_LANES];
        for (int i = 0; i < OFFRAMP_LANES; i++)
            values[i] = offramp_round((int64_t)acc[i] * multiplier[i], shift[i], low, high);
        for (int i = 0; i < OFFRAMP_LANES; i++) out[i] = (uint8_t)values[i];
    } else {
        for (int i = 0; i < count; i++)
            out[i] = (uint8_t)offramp_round((int64_t)acc[i] * multiplier[i], shift[i], low, high);
    }
}

static inline int16_t offramp_value(uint8_t byte, int is_signed) { return is_signed ? (int8_t)byte : (int16_t)byte; }

static inline int offramp_padded(int n, int bits) {
    const int row = bits == 2 ? 16 : 8;
    return (n + row - 1) / row * row;
}

/* Sums of one weight row with four patches of n values each, n apart. OFFRAMP_DIRECT: a digital layer, which has one
 * block, takes them as they are; around the loop for Arm gcc runs out of registers then. */
#ifdef __ARM_FEATURE_DSP
#define OFFRAMP_DIRECT 0
static inline int16x2_t offramp_pair(const int16_t *x) {
    int16x2_t pair;
    memcpy(&pair, x, sizeof pair);
    return pair;
}

static inline uint32_t offramp_word(const uint8_t *w) {
    uint32_t word;
    memcpy(&word, w, sizeof word);
    return word;
}

typedef struct {
    int32_t a, b, c, d;
} offramp_sums;

/* Four weights, one per byte, with the four inputs of each patch: two products per instruction (SMLAD). */
static inline offramp_sums offramp_four(uint32_t four, const int16_t *x, int n, offramp_sums s) {
    const uint32_t even = (uint32_t)__sxtb16((int8x4_t)four), odd = (uint32_t)__sxtb16((int8x4_t)(four >> 8 | four << 24));
    const int16x2_t low = (int16x2_t)((even & 0xffffu) | odd << 16), high = (int16x2_t)(even >> 16 | (odd & 0xffff0000u));
    const int16_t *x1 = x + n, *x2 = x1 + n, *x3 = x2 + n;
    s.a = __smlad(high, offramp_pair(x + 2), __smlad(low, offramp_pair(x), s.a));
    s.b = __smlad(high, offramp_pair(x1 + 2), __smlad(low, offramp_pair(x1), s.b));
    s.c = __smlad(high, offramp_pair(x2 + 2), __smlad(low, offramp_pair(x2), s.c));
    s.d = __smlad(high, offramp_pair(x3 + 2), __smlad(low, offramp_pair(x3), s.d));
    return s;
}

static inline void offramp_rows(const uint8_t *w, int bits, const int16_t *x, int n, int32_t *acc) {
    const uint8_t *const end = w + n * bits / 8;
    const uint32_t sign = offramp_has(bits, 4) ? 0x08080808u : 0x02020202u, mask = 2 * sign - 0x01010101u;
    offramp_sums s = {0, 0, 0, 0};
    if (offramp_has(bits, 8)) {
        for (const uint8_t *at = w; at < end; at += 4, x += 4) s = offramp_four(offramp_word(at), x, n, s);
    } else {
        for (int shift = 0; shift < 8; shift += bits)
            for (const uint8_t *at = w; at < end; at += 4, x += 4) {
                const uint32_t field = (offramp_word(at) >> shift) & mask;
                s = offramp_four((uint32_t)__ssub8((int8x4_t)(field ^ sign), (int8x4_t)sign), x, n, s);
            }
    }
    acc[0] = s.a, acc[1] = s.b, acc[2] = s.c, acc[3] = s.d;
}
#else
#define OFFRAMP_DIRECT 1
static inline void offramp_row8(const int8_t *restrict w, const int16_t *restrict x, int n, int32_t *restrict acc) {
    const int16_t *x1 = x + n, *x2 = x + 2 * n, *x3 = x + 3 * n;
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (int i = 0; i < n; i++) {
        const int16_t v = w[i];
        a += v * x[i];
        b += v * x1[i];
        c += v * x2[i];
        d += v * x3[i];
    }
    acc[0] = a, acc[1] = b, acc[2] = c, acc[3] = d;
}

static inline void offramp_row4(const uint8_t *restrict w, const int16_t *restrict x, int n, int32_t *restrict acc) {
    const int16_t *x1 = x + n, *x2 = x + 2 * n, *x3 = x + 3 * n;
    const int h = n / 2;
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (int i = 0; i < h; i++) {
        const int16_t v = (int16_t)(((w[i] & 15) ^ 8) - 8), u = (int16_t)(((w[i] >> 4) ^ 8) - 8);
        a += v * x[i] + u * x[i + h];
        b += v * x1[i] + u * x1[i + h];
        c += v * x2[i] + u * x2[i + h];
        d += v * x3[i] + u * x3[i + h];
    }
    acc[0] = a, acc[1] = b, acc[2] = c, acc[3] = d;
}

static inline void offramp_row2(const uint8_t *restrict w, const int16_t *restrict x, int n, int32_t *restrict acc) {
    const int q = n / 4;
    acc[0] = acc[1] = acc[2] = acc[3] = 0;
    for (int plane = 0; plane < 4; plane++) {
        const int16_t *x0 = x + plane * q, *x1 = x0 + n, *x2 = x1 + n, *x3 = x2 + n;
        int32_t a = 0, b = 0, c = 0, d = 0;
        for (int i = 0; i < q; i++) {
            const int16_t v = (int16_t)((((w[i] >> (2 * plane)) & 3) ^ 2) - 2);
            a += v * x0[i];
            b += v * x1[i];
            c += v * x2[i];
            d += v * x3[i];
        }
        acc[0] += a, acc[1] += b, acc[2] += c, acc[3] += d;
    }
}

static inline void offramp_rows(const uint8_t *w, int bits, const int16_t *x, int n, int32_t *acc) {
    if (offramp_has(bits, 8)) offramp_row8((const int8_t *)w, x, n, acc);
    else if (offramp_has(bits, 4)) offramp_row4(w, x, n, acc);
    else offramp_row2(w, x, n, acc);
}
#endif

/* The same for a single patch (dense layers). */
OFFRAMP_SHARED int32_t offramp_dot_one(const uint8_t *w, int bits, const int16_t *x, int n) {
    int32_t a = 0;
    if (offramp_has(bits, 8)) {
        const int8_t *v = (const int8_t *)w;
        for (int i = 0; i < n; i++) a += (int16_t)v[i] * x[i];
    } else if (offramp_has(bits, 4)) {
        for (int i = 0; i < n / 2; i++)
            a += (int16_t)(((w[i] & 15) ^ 8) - 8) * x[i] + (int16_t)(((w[i] >> 4) ^ 8) - 8) * x[i + n / 2];
    } else {
        for (int plane = 0; plane < 4; plane++)
            for (int i = 0; i < n / 4; i++)
                a += (int16_t)((((w[i] >> (2 * plane)) & 3) ^ 2) - 2) * x[i + plane * (n / 4)];
    }
    return a;
}

static inline void offramp_dot(const uint8_t *w, int bits, const int16_t *x, int n, int pixels, int32_t *acc) {
    if (pixels == 1) acc[0] = offramp_dot_one(w, bits, x, n);
    else offramp_rows(w, bits, x, n, acc);
}

/* Copy `count` bytes as int16, through the array's input converter when there is one. */
static inline void offramp_widen(const uint8_t *in, int16_t *to, int count, int is_signed, const offramp_array *array) {
    if (is_signed) for (int i = 0; i < count; i++) to[i] = (int8_t)in[i];
    else for (int i = 0; i < count; i++) to[i] = in[i];
    if (OFFRAMP_ANALOG && array && array->dac_multiplier)
        for (int i = 0; i < count; i++)
            to[i] = (int16_t)offramp_round((int64_t)to[i] * array->dac_multiplier, array->dac_shift, array->dac_low,
                                           array->dac_high);
}

static inline void offramp_zero(int16_t *to, int count) {
    if (count > 0) memset(to, 0, (size_t)count * sizeof *to);
}

/* The input under the filter at one output position, channels first..first + count, as a row of int16. */
static inline void offramp_gather(const offramp_conv_layer *l, const uint8_t *in, int oy, int ox, int first, int count,
                                  int16_t *to) {
    const int y0 = oy * l->stride_h - l->pad_top, x0 = ox * l->stride_w - l->pad_left, width = l->k_w * count;
    const int from = x0 < 0 ? -x0 : 0, until = x0 + l->k_w > l->in_w ? l->in_w - x0 : l->k_w;
    const int used = l->k_h * width;
    for (int fy = 0; fy < l->k_h; fy++, to += width) {
        const int y = y0 + fy;
        if (y < 0 || y >= l->in_h || until <= from) {
            offramp_zero(to, width);
            continue;
        }
        offramp_zero(to, from * count);
        offramp_zero(to + until * count, width - until * count);
        const uint8_t *row = in + ((y * l->in_w + x0 + from) * l->in_c + first);
        if (count == l->in_c) {
            offramp_widen(row, to + from * count, (until - from) * count, l->in_signed, l->array);
        } else {
            for (int fx = from; fx < until; fx++, row += l->in_c)
                offramp_widen(row, to + fx * count, count, l->in_signed, l->array);
        }
    }
    offramp_zero(to, offramp_padded(used, l->weight_bits) - used);
}

/* Patches of the input for some output positions of one group, block by block. Patches beyond `pixels` are zero: their
 * sums are not used, but must not overflow. */
static inline void offramp_patches(const offramp_conv_layer *l, const uint8_t *in, int g, int p, int pixels,
                                   int16_t *x) {
    const int per_group = l->in_c / l->groups;
    for (int c = 0; c < per_group; c += l->block) {
        const int count = per_group - c < l->block ? per_group - c : l->block;
        const int n = offramp_padded(l->k_h * l->k_w * count, l->weight_bits);
        for (int i = 0; i < pixels; i++)
            offramp_gather(l, in, (p + i) / l->out_w, (p + i) % l->out_w, g * per_group + c, count, x + i * n);
        if (pixels > 1) offramp_zero(x + pixels * n, (OFFRAMP_PIXELS - pixels) * n);
        x += OFFRAMP_PIXELS * n;
    }
}

/* What an array's converter makes of a partial sum. */
static inline int32_t offramp_convert(const offramp_array *array, int32_t sum) {
    if (!OFFRAMP_ANALOG || !array) return sum;
    return offramp_round((int64_t)sum * array->adc_multiplier, array->adc_shift, array->adc_low, array->adc_high);
}

/* Sums of one output channel at some positions over all array blocks; returns the next channel's weights. */
static inline const uint8_t *offramp_channel(const offramp_conv_layer *l, const uint8_t *w, const int16_t *x,
                                             int pixels, int32_t *total) {
    const int per_group = l->in_c / l->groups;
    for (int c = 0; c < per_group; c += l->block) {
        const int count = per_group - c < l->block ? per_group - c : l->block;
        const int n = offramp_padded(l->k_h * l->k_w * count, l->weight_bits);
        int32_t acc[OFFRAMP_PIXELS];
        offramp_dot(w, l->weight_bits, x, n, pixels, acc);
        for (int i = 0; i < pixels; i++) total[i] += offramp_convert(l->array, acc[i]);
        w += n * l->weight_bits / 8;
        x += OFFRAMP_PIXELS * n;
    }
    return w;
}

/* Sums of channels first..first + count at some positions; returns the next channel's weights. */
static inline const uint8_t *offramp_channels(const offramp_conv_layer *l, const uint8_t *w, const int16_t *x,
                                              int pixels, int first, int count,
                                              int32_t sums[OFFRAMP_PIXELS][OFFRAMP_LANES]) {
    const int n = offramp_padded(l->k_h * l->k_w * l->block, l->weight_bits), bytes = n * l->weight_bits / 8;
    for (int j = 0; j < count; j++) {
        int32_t total[OFFRAMP_PIXELS] = {0, 0, 0, 0};
        const int32_t bias = l->bias ? l->bias[first + j] : 0;
        if ((OFFRAMP_ANALOG && l->array) || !OFFRAMP_DIRECT) {
            w = offramp_channel(l, w, x, pixels, total);
        } else {
            offramp_dot(w, l->weight_bits, x, n, pixels, total);
            w += bytes;
        }
        for (int i = 0; i < OFFRAMP_PIXELS; i++) sums[i][j] = total[i] + bias;
    }
    return w;
}

/* Convolution, any groups. `out` gets bytes, or `scores` gets int32 when it is not NULL. */
OFFRAMP_KERNEL void offramp_conv(const offramp_conv_layer *layer, const uint8_t *in, uint8_t *out, int32_t *scores,
                                int16_t *patch) {
    const offramp_conv_layer local = *layer, *const l = &local; /* bytes written may alias anything but this */
    const int outputs = l->out_c / l->groups, positions = l->out_h * l->out_w;
    const uint8_t *w = l->weights, *next = w;
    for (int g = 0; g < l->groups; g++, w = next) {
        for (int p = 0; p < positions; p += OFFRAMP_PIXELS) {
            const int pixels = positions - p < OFFRAMP_PIXELS ? positions - p : OFFRAMP_PIXELS;
            offramp_patches(l, in, g, p, pixels, patch);
            next = w;
            for (int k = 0; k < outputs; k += OFFRAMP_LANES) {
                const int count = outputs - k < OFFRAMP_LANES ? outputs - k : OFFRAMP_LANES, first = g * outputs + k;
                int32_t sums[OFFRAMP_PIXELS][OFFRAMP_LANES];
                next = offramp_channels(l, next, patch, pixels, first, count, sums);
                for (int i = 0; i < pixels; i++) {
                    const int at = (p + i) * l->out_c + first;
                    offramp_store(&l->scale, first, count, sums[i], scores ? NULL : out + at,
                                  scores ? scores + at : NULL);
                }
            }
        }
    }
}

/* Dense layers: one position, one patch. */
OFFRAMP_KERNEL void offramp_dense(const offramp_conv_layer *layer, const uint8_t *in, uint8_t *out, int32_t *scores,
                                  int16_t *patch) {
    const offramp_conv_layer local = *layer, *const l = &local; /* bytes written may alias anything but this */
    const uint8_t *w = l->weights;
    int16_t *x = patch;
    for (int c = 0; c < l->in_c; c += l->block) {
        const int count = l->in_c - c < l->block ? l->in_c - c : l->block;
        offramp_widen(in + c, x, count, l->in_signed, l->array);
        const int n = offramp_padded(count, l->weight_bits);
        offramp_zero(x + count, n - count);
        x += n;
    }
    for (int k = 0; k < l->out_c; k++) {
        int32_t total = l->bias ? l->bias[k] : 0;
        x = patch;
        for (int c = 0; c < l->in_c; c += l->block) {
            const int n = offramp_padded(l->in_c - c < l->block ? l->in_c - c : l->block, l->weight_bits);
            total += offramp_convert(l->array, offramp_dot_one(w, l->weight_bits, x, n));
            w += n * l->weight_bits / 8;
            x += n;
        }
        offramp_store(&l->scale, k, 1, &total, scores ? NULL : out + k, scores ? scores + k : NULL);
    }
}

/* Weights of one tap for sixteen channels as int16. */
static inline void offramp_unpack(const uint8_t *restrict w, int bits, int16_t *restrict v) {
    if (offramp_has(bits, 8)) for (int i = 0; i < OFFRAMP_LANES; i++) v[i] = ((const int8_t *)w)[i];
    else if (offramp_has(bits, 4))
        for (int i = 0; i < OFFRAMP_LANES; i++) v[i] = (int16_t)((((w[i & 7] >> (i >> 3 << 2)) & 15) ^ 8) - 8);
    else for (int i = 0; i < OFFRAMP_LANES; i++) v[i] = (int16_t)((((w[i & 3] >> (i >> 2 << 1)) & 3) ^ 2) - 2);
}

/* acc += weights of one tap times the input under it, for sixteen channels or fewer. */
static inline void offramp_tap(const int16_t *restrict v, const uint8_t *restrict x, int is_signed, int count,
                               int32_t *restrict acc) {
    if (count == OFFRAMP_LANES && !is_signed) for (int i = 0; i < OFFRAMP_LANES; i++) acc[i] += v[i] * x[i];
    else for (int i = 0; i < count; i++) acc[i] += v[i] * offramp_value(x[i], is_signed);
}

/* Depthwise convolution: sixteen channels at a time, their weights unpacked into `taps`. */
OFFRAMP_KERNEL void offramp_depthwise(const offramp_window_layer *layer, const uint8_t *in, uint8_t *out,
                                     int16_t *taps) {
    const offramp_window_layer local = *layer, *const l = &local; /* bytes written may alias anything but this */
    const int bytes = OFFRAMP_LANES * l->weight_bits / 8, lanes = (l->channels + OFFRAMP_LANES - 1) / OFFRAMP_LANES;
    for (int lane = 0; lane < lanes; lane++) {
        const int first = lane * OFFRAMP_LANES;
        const int count = l->channels - first < OFFRAMP_LANES ? l->channels - first : OFFRAMP_LANES;
        const uint8_t *const weights = l->weights + lane * bytes;
        for (int tap = 0; tap < l->k_h * l->k_w; tap++)
            offramp_unpack(weights + tap * lanes * bytes, l->weight_bits, taps + tap * OFFRAMP_LANES);
        for (int oy = 0; oy < l->out_h; oy++) {
            const int y0 = oy * l->stride_h - l->pad_top;
            const int fy0 = y0 < 0 ? -y0 : 0, fy1 = y0 + l->k_h > l->in_h ? l->in_h - y0 : l->k_h;
            for (int ox = 0; ox < l->out_w; ox++) {
                const int x0 = ox * l->stride_w - l->pad_left;
                const int fx0 = x0 < 0 ? -x0 : 0, fx1 = x0 + l->k_w > l->in_w ? l->in_w - x0 : l->k_w;
                int32_t acc[OFFRAMP_LANES] = {0};
                memcpy(acc, l->bias + first, (size_t)count * sizeof *acc);
                for (int fy = fy0; fy < fy1; fy++) {
                    const uint8_t *from = in + (((y0 + fy) * l->in_w + x0 + fx0) * l->channels + first);
                    const int16_t *v = taps + (fy * l->k_w + fx0) * OFFRAMP_LANES;
                    for (int fx = fx0; fx < fx1; fx++, from += l->channels, v += OFFRAMP_LANES)
                        offramp_tap(v, from, l->in_signed, count, acc);
                }
                offramp_store(&l->scale, first, count, acc, out + (oy * l->out_w + ox) * l->channels + first, NULL);
            }
        }
    }
}

/* Pooling: padding counts as 0 and, in the average, as an element. `scores` as in offramp_conv. */
OFFRAMP_KERNEL void offramp_pool(const offramp_window_layer *layer, int average, const uint8_t *in, uint8_t *out,
                                int32_t *scores) {
    const offramp_window_layer local = *layer, *const l = &local; /* bytes written may alias anything but this */
    for (int p = 0; p < l->out_h * l->out_w; p++) {
        const int y0 = p / l->out_w * l->stride_h - l->pad_top, x0 = p % l->out_w * l->stride_w - l->pad_left;
        const int y1 = y0 + l->k_h, x1 = x0 + l->k_w;
        const int padded = y0 < 0 || x0 < 0 || y1 > l->in_h || x1 > l->in_w;
        for (int c = 0; c < l->channels; c++) {
            const int at = p * l->channels + c;
            int32_t sum = 0, best = padded ? 0 : INT32_MIN;
            for (int y = y0 < 0 ? 0 : y0; y < (y1 > l->in_h ? l->in_h : y1); y++) {
                for (int x = x0 < 0 ? 0 : x0; x < (x1 > l->in_w ? l->in_w : x1); x++) {
                    const int32_t v = offramp_value(in[(y * l->in_w + x) * l->channels + c], l->in_signed);
                    sum += v;
                    best = v > best ? v : best;
                }
            }
            if (average)
                offramp_store(&l->scale, 0, 1, &sum, out ? out + at : NULL, scores ? scores + at : NULL);
            else out[at] = (uint8_t)best;
        }
    }
}

OFFRAMP_KERNEL void offramp_add(const offramp_add_layer *layer, const uint8_t *a, const uint8_t *b, uint8_t *out,
                               int32_t *scores) {
    const offramp_add_layer local = *layer, *const l = &local; /* bytes written may alias anything but this */
    for (uint32_t i = 0; i < l->size; i++) {
        const int64_t product = (int64_t)offramp_value(a[i], l->a_signed) * l->a_multiplier +
                                (int64_t)offramp_value(b[i], l->b_signed) * l->b_multiplier;
        const int32_t value = offramp_round(product, l->shift, l->low, l->high);
        if (scores) scores[i] = value;
        else out[i] = (uint8_t)value;
    }
}

#ifdef OFFRAMP_OPTIONS
#pragma GCC pop_options
#endif

#endif
