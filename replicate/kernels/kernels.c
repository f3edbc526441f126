/* Convolutions and batch norm of residual networks on a CPU, for float32 images in channels-last memory.

   3x3 convolutions of stride 1 by the minimal algorithm F(2x2, 3x3) of Winograd (Lavin and Gray 2016, Sec. 4.1): a tile of
   2x2 outputs takes 16 products of a pair of channels instead of 36. Gradients by its adjoint. Batch norm, ReLU and residual sums
   ride along where an image is in the cache anyway, so that what lies between two convolutions is never written.

   Every sum over images is made in a fixed number of CHUNKS, joined in their order: results do not depend on the number of
   threads. Arrays are [images, height, width, channels]; channels are multiples of 16. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

/* May alias floats and lie anywhere, as tensors do. */
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
/* max(0, v), and NaN where v is: a network that has diverged must not look sound. */
#define POSITIVE(v) WHERE(~((v) < 0.0f), v)
#define WHERE(condition, v) ((vec)((mask)(v) & (condition)))
#define INLINE static inline __attribute__((always_inline))

enum {
    POINTS = 16,       /* of a transformed tile of 4x4 */
    CHUNKS = 16,       /* parts of a sum over images, at most */
    PANEL = 2 * LANES, /* channels of an output that one pass over the input's channels makes */
    FEW = 64 * 64,     /* pairs of channels: with so many, and with more than MANY, a block of tiles is larger, */
    MANY = 128 * 128,  /* since its weights outweigh its images */
};

/* What becomes of a convolution's outputs: they are written and summed, added to what is there, or, as gradients of max(0, .),
   become those of its argument, are written and summed. Python knows the last two by their numbers. */
enum { WRITTEN, ADDED, GATED };

typedef struct {
    long images, height, width, from, to; /* channels of input and output */
} Shape;

INLINE long least(long a, long b) { return a < b ? a : b; }

/* Tiles side by side: their transforms stay in a near cache, and weights are read once for all of them. */
INLINE long block_of(const Shape *s) { return s->from * s->to < FEW ? 16 : s->from * s->to <= MANY ? 32 : 64; }

/* Parts of a sum over images: each has transformed weights of its own. */
INLINE int chunks_of(const Shape *s) { return s->from * s->to < FEW ? CHUNKS : s->from * s->to <= MANY ? 8 : 4; }

/* Memory or the end of the process, which its parent takes for what it is. */
static float *room(size_t floats) {
    void *memory = NULL;
    return posix_memalign(&memory, 64, (floats ? floats : 1) * sizeof(float)) ? abort(), NULL : memory;
}

static double *zeros(size_t doubles) {
    double *memory = calloc(doubles, sizeof(double));
    return memory == NULL ? abort(), NULL : memory;
}

/* --- tiles ---------------------------------------------------------------------------------------------------------- */

/* One image with a border of zeros, as many rows and columns as its tiles reach. */
typedef struct {
    long rows, columns; /* of tiles */
    long stride;        /* floats of a padded row */
    long floats;        /* of a padded image */
} Padded;

INLINE Padded padded(const Shape *s, long channels) {
    Padded p = {s->height / 2, s->width / 2, 0, 0};
    p.stride = (2 * p.columns + 2) * channels;
    p.floats = (2 * p.rows + 2) * p.stride;
    return p;
}

/* Of each tile of some images: where its 4x4 pixels begin in padded images, and its 2x2 ones in the others, in pixels. */
static void places(const Shape *s, const Padded *p, long tiles, long *corner, long *inside) {
    for (long t = 0; t < tiles; t++) {
        long per = p->rows * p->columns, image = t / per, top = 2 * (t % per / p->columns), left = 2 * (t % p->columns);
        corner[t] = (image * (2 * p->rows + 2) + top) * (2 * p->columns + 2) + left;
        inside[t] = (image * s->height + top) * s->width + left;
    }
}

/* B^T d B of the 4x4 pixels at d, for all channels; point q of the result at to + q * step. */
INLINE void transform_input(const float *d, long stride, long channels, float *to, long step) {
    for (long c = 0; c < channels; c += LANES) {
        vec t[4][4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            vec d0 = LOAD(d + j * channels + c), d1 = LOAD(d + stride + j * channels + c);
            vec d2 = LOAD(d + 2 * stride + j * channels + c), d3 = LOAD(d + 3 * stride + j * channels + c);
            t[0][j] = d0 - d2, t[1][j] = d1 + d2, t[2][j] = d2 - d1, t[3][j] = d1 - d3;
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            float *o = to + 4 * i * step + c;
            STORE(o, t[i][0] - t[i][2]);
            STORE(o + step, t[i][1] + t[i][2]);
            STORE(o + 2 * step, t[i][2] - t[i][1]);
            STORE(o + 3 * step, t[i][1] - t[i][3]);
        }
    }
}

/* A e A^T of the 2x2 output gradients at e: the adjoint of the output's transform. */
INLINE void transform_gradient(const float *e, long stride, long channels, float *to, long step) {
    for (long c = 0; c < channels; c += LANES) {
        vec e00 = LOAD(e + c), e01 = LOAD(e + channels + c), e10 = LOAD(e + stride + c), e11 = LOAD(e + stride + channels + c);
        vec t[4][2] = {{e00, e01}, {e00 + e10, e01 + e11}, {e00 - e10, e01 - e11}, {-e10, -e11}};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            float *o = to + 4 * i * step + c;
            STORE(o, t[i][0]);
            STORE(o + step, t[i][0] + t[i][1]);
            STORE(o + 2 * step, t[i][0] - t[i][1]);
            STORE(o + 3 * step, -t[i][1]);
        }
    }
}

/* A^T m A of the 16 points at m, one vector of channels: 2x2 outputs. */
INLINE void transform_output(const float *m, long step, vec out[4]) {
    vec t[2][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        vec m0 = LOAD(m + j * step), m1 = LOAD(m + (4 + j) * step), m2 = LOAD(m + (8 + j) * step), m3 = LOAD(m + (12 + j) * step);
        t[0][j] = m0 + m1 + m2, t[1][j] = m1 - m2 - m3;
    }
    out[0] = t[0][0] + t[0][1] + t[0][2], out[1] = t[0][1] - t[0][2] - t[0][3];
    out[2] = t[1][0] + t[1][1] + t[1][2], out[3] = t[1][1] - t[1][2] - t[1][3];
}

/* --- products ------------------------------------------------------------------------------------------------------- */

/* m[t][0 .. width * LANES) = sum over c of v[t][c] * u[c][..] for `rows` tiles. */
#define PRODUCT(NAME, ROWS, WIDTH)                                                                                      \
    INLINE void NAME(const float *v, long from, const float *u, float *m, long to) {                                    \
        vec sum[ROWS][WIDTH];                                                                                           \
        memset(sum, 0, sizeof sum);                                                                                     \
        for (long c = 0; c < from; c++) {                                                                               \
            vec w[WIDTH];                                                                                               \
            _Pragma("GCC unroll 4") for (int j = 0; j < WIDTH; j++) w[j] = LOAD(u + (c * WIDTH + j) * LANES);           \
            _Pragma("GCC unroll 16") for (int t = 0; t < ROWS; t++)                                                     \
                _Pragma("GCC unroll 4") for (int j = 0; j < WIDTH; j++) sum[t][j] += v[t * from + c] * w[j];            \
        }                                                                                                               \
        _Pragma("GCC unroll 16") for (int t = 0; t < ROWS; t++)                                                         \
            _Pragma("GCC unroll 4") for (int j = 0; j < WIDTH; j++) STORE(m + t * to + j * LANES, sum[t][j]);           \
    }
/* add[c][0 .. width * LANES) += sum over t of v[t][c] * e[t][..] for ROWS channels c. */
#define OUTER(NAME, ROWS, WIDTH)                                                                                        \
    INLINE void NAME(const float *v, long from, const float *e, long to, long tiles, float *add) {                      \
        vec sum[ROWS][WIDTH];                                                                                           \
        memset(sum, 0, sizeof sum);                                                                                     \
        for (long t = 0; t < tiles; t++) {                                                                              \
            vec w[WIDTH];                                                                                               \
            _Pragma("GCC unroll 4") for (int j = 0; j < WIDTH; j++) w[j] = LOAD(e + t * to + j * LANES);                \
            _Pragma("GCC unroll 16") for (int c = 0; c < ROWS; c++)                                                     \
                _Pragma("GCC unroll 4") for (int j = 0; j < WIDTH; j++) sum[c][j] += v[t * from + c] * w[j];            \
        }                                                                                                               \
        _Pragma("GCC unroll 16") for (int c = 0; c < ROWS; c++)                                                         \
            _Pragma("GCC unroll 4") for (int j = 0; j < WIDTH; j++) {                                                   \
            float *o = add + c * to + j * LANES;                                                                        \
            STORE(o, LOAD(o) + sum[c][j]);                                                                              \
        }                                                                                                               \
    }

#if LANES == 16
#define TALL 16
#define WIDE_ROWS 8
#else
#define TALL 8
#define WIDE_ROWS 4
#endif
PRODUCT(product_narrow, TALL, 1)
PRODUCT(product_wide, WIDE_ROWS, 2)
OUTER(outer_narrow, TALL, 1)
OUTER(outer_wide, WIDE_ROWS, 2)

/* Of all points of a block: m[q][t][k] = sum over c of v[q][t][c] * u[q][panel][c][..]. */
static void products(const float *v, const float *u, float *m, long from, long to, long block) {
    for (int q = 0; q < POINTS; q++) {
        const float *a = v + q * block * from, *w = u + q * from * to;
        float *o = m + q * block * to;
        if (to % PANEL)
            for (long k = 0; k < to; k += LANES)
                for (int t = 0; t < block; t += TALL)
                    product_narrow(a + t * from, from, w + k * from, o + t * to + k, to);
        else
            for (long k = 0; k < to; k += PANEL)
                for (int t = 0; t < block; t += WIDE_ROWS)
                    product_wide(a + t * from, from, w + k * from, o + t * to + k, to);
    }
}

/* du[q][c][k] += sum over t of v[q][t][c] * e[q][t][k]. */
static void outers(const float *v, const float *e, float *du, long from, long to, long block, long tiles) {
    for (int q = 0; q < POINTS; q++) {
        const float *a = v + q * block * from, *b = e + q * block * to;
        float *o = du + q * from * to;
        if (to % PANEL)
            for (long k = 0; k < to; k += LANES)
                for (long c = 0; c < from; c += TALL) outer_narrow(a + c, from, b + k, to, tiles, o + c * to + k);
        else
            for (long k = 0; k < to; k += PANEL)
                for (long c = 0; c < from; c += WIDE_ROWS) outer_wide(a + c, from, b + k, to, tiles, o + c * to + k);
    }
}

/* --- weights -------------------------------------------------------------------------------------------------------- */

/* G g G^T of the 3x3 weights g, `step` apart. */
INLINE void transform_kernel(const float *g, long step, float u[POINTS]) {
    float t[4][3];
    for (int j = 0; j < 3; j++) {
        float g0 = g[j * step], g1 = g[(3 + j) * step], g2 = g[(6 + j) * step];
        t[0][j] = g0, t[3][j] = g2;
        t[1][j] = 0.5f * (g0 + g1 + g2), t[2][j] = 0.5f * (g0 - g1 + g2);
    }
    for (int i = 0; i < 4; i++) {
        u[4 * i] = t[i][0], u[4 * i + 3] = t[i][2];
        u[4 * i + 1] = 0.5f * (t[i][0] + t[i][1] + t[i][2]), u[4 * i + 2] = 0.5f * (t[i][0] - t[i][1] + t[i][2]);
    }
}

INLINE long panel(long to) { return to % PANEL ? LANES : PANEL; }

/* Of weights [to, 3, 3, from] the transformed ones for the convolution and, unless NULL, for its input gradient. */
void transform_weights(const float *weight, long from, long to, float *ahead, float *back) {
    const long width = panel(to), back_width = panel(from), size = from * to;
#pragma omp parallel for schedule(static)
    for (long first = 0; first < to; first += width)
        for (long c = 0; c < from; c++)
            for (long k = first; k < first + width; k++) {
                const float *w = weight + k * 9 * from + c;
                float u[POINTS], *o = ahead + first * from + c * width + k - first;
                transform_kernel(w, from, u);
                for (int q = 0; q < POINTS; q++) o[q * size] = u[q];
            }
    if (back == NULL) return;
#pragma omp parallel for schedule(static)
    for (long k = 0; k < to; k++)
        for (long c = 0; c < from; c++) {
            const float *w = weight + k * 9 * from + c;
            float u[POINTS], *o = back + (c / back_width * to + k) * back_width + c % back_width;
            transform_kernel(w + 8 * from, -from, u); /* turned by half a turn */
            for (int q = 0; q < POINTS; q++) o[q * size] = u[q];
        }
}

/* G^T du G, summed over chunks of du [chunk][q][from][to], as [to, 3, 3, from]. */
static void finish_weights(float *du, long chunks, long from, long to, float *weight) {
#pragma omp parallel for schedule(static)
    for (long c = 0; c < from; c++) {
        for (long chunk = 1; chunk < chunks; chunk++)
            for (int q = 0; q < POINTS; q++)
                for (long k = 0; k < to; k++) du[(q * from + c) * to + k] += du[((chunk * POINTS + q) * from + c) * to + k];
        for (long k = 0; k < to; k++) {
            float u[4][4], t[3][4];
            for (int q = 0; q < POINTS; q++) u[q / 4][q % 4] = du[(q * from + c) * to + k];
            for (int j = 0; j < 4; j++) {
                t[0][j] = u[0][j] + 0.5f * (u[1][j] + u[2][j]), t[1][j] = 0.5f * (u[1][j] - u[2][j]);
                t[2][j] = u[3][j] + 0.5f * (u[1][j] + u[2][j]);
            }
            for (int i = 0; i < 3; i++) {
                float *o = weight + (k * 3 + i) * 3 * from + c;
                o[0] = t[i][0] + 0.5f * (t[i][1] + t[i][2]), o[from] = 0.5f * (t[i][1] - t[i][2]);
                o[2 * from] = t[i][3] + 0.5f * (t[i][1] + t[i][2]);
            }
        }
    }
}

/* --- pixels --------------------------------------------------------------------------------------------------------- */

/* max(0, scale * z + shift), or with `added` unless NULL within. */
INLINE void affine(long pixels, long channels, const float *z, const float *scale, const float *shift, const float *added,
                   float *out) {
    for (long i = 0; i < pixels * channels; i += channels)
        for (long k = 0; k < channels; k += LANES) {
            vec v = LOAD(z + i + k) * LOAD(scale + k) + LOAD(shift + k);
            if (added != NULL) v += LOAD(added + i + k);
            STORE(out + i + k, POSITIVE(v));
        }
}

/* of_flow * g + of_z * z + constant, where g, also written to `gates` unless NULL, is `flow` where `shown` is positive (NULL:
   everywhere). */
INLINE void norm_gradient(long pixels, long channels, const float *flow, const float *shown, const float *z, const float *of_flow,
                          const float *of_z, const float *constant, float *gates, float *out) {
    for (long i = 0; i < pixels * channels; i += channels)
        for (long k = 0; k < channels; k += LANES) {
            vec g = LOAD(flow + i + k);
            if (shown != NULL) g = WHERE(LOAD(shown + i + k) > 0.0f, g);
            if (gates != NULL) STORE(gates + i + k, g);
            STORE(out + i + k, g * LOAD(of_flow + k) + LOAD(z + i + k) * LOAD(of_z + k) + LOAD(constant + k));
        }
}

/* --- images --------------------------------------------------------------------------------------------------------- */

/* The inside of a padded image: x, or max(0, scale * x + shift). */
INLINE void fill(const Shape *s, long channels, const Padded *p, const float *x, const float *scale, const float *shift,
                 float *to) {
    for (long i = 0; i < s->height; i++) {
        const float *row = x + i * s->width * channels;
        float *o = to + (i + 1) * p->stride + channels;
        if (scale == NULL)
            memcpy(o, row, s->width * channels * sizeof(float));
        else
            affine(s->width, channels, row, scale, shift, NULL, o);
    }
}

/* What is done with the outputs of a block. */
typedef struct {
    float *out;         /* [images, height, width, channels] */
    const float *under; /* of GATED ones: the gate is max(0, scale * under + shift) */
    const float *scale, *shift;
    const float *pivot; /* near the mean of what is summed, which would cancel otherwise */
    float *sums;        /* [2][channels] of this block: of outputs less pivot and of its squares; or of GATED outputs and of their
                           products with `under` less pivot */
} Finish;

INLINE void finish(const Shape *s, const long *inside, long block, long tiles, const float *m, long channels, const Finish *f,
                   const int kind) {
    const long right = channels, below = s->width * channels;
    for (long k = 0; k < channels; k += LANES) {
        vec sum = {0}, other = {0}, scale = {0}, shift = {0}, pivot = {0};
        if (kind != ADDED) pivot = LOAD(f->pivot + k);
        if (kind == GATED) scale = LOAD(f->scale + k), shift = LOAD(f->shift + k);
        for (long t = 0; t < tiles; t++) {
            vec made[4];
            transform_output(m + t * channels + k, block * channels, made);
            const long at = inside[t] * channels + k, to[4] = {at, at + right, at + below, at + below + right};
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                vec v = made[i];
                if (kind == GATED) {
                    vec z = LOAD(f->under + to[i]);
                    v = WHERE(z * scale + shift > 0.0f, v);
                    sum += v, other += v * (z - pivot);
                } else if (kind == ADDED)
                    v += LOAD(f->out + to[i]);
                else
                    sum += v - pivot, other += (v - pivot) * (v - pivot);
                STORE(f->out + to[i], v);
            }
        }
        if (kind != ADDED) STORE(f->sums + k, sum), STORE(f->sums + channels + k, other);
    }
}

/* Ask for the part of `floats` at p that comes after `done` of `all` blocks: memory is read while blocks are computed. */
INLINE void ask_ahead(const float *p, long floats, long done, long block, long all, const int writes) {
    for (long i = floats * done / all; i < floats * (done + block) / all; i += 16) {
        if (writes) __builtin_prefetch(p + i, 1, 2);
        else __builtin_prefetch(p + i, 0, 2);
    }
}

/* Images that are worked on together: as many as fill a block. */
INLINE long together(const Shape *s, const Padded *p) {
    long per = p->rows * p->columns;
    return per >= block_of(s) ? 1 : block_of(s) / per;
}

INLINE void add_sums(double *sums, const float *partial, long channels) {
    for (long k = 0; k < 2 * channels; k++) sums[k] += partial[k];
}

static void join_sums(const double *parts, long channels, double *sums) {
    for (long k = 0; k < 2 * channels; k++) {
        sums[k] = 0;
        for (int chunk = 0; chunk < CHUNKS; chunk++) sums[k] += parts[chunk * 2 * channels + k];
    }
}

/* Convolution of x, or of max(0, scale * x + shift), with transformed weights; sums [2][to] of its outputs less pivot and of the
   squares of that. */
void convolve(const Shape *s, const float *x, const float *scale, const float *shift, const float *ahead, const float *pivot,
              float *out, double *sums) {
    const Padded p = padded(s, s->from);
    const long block = block_of(s), group = together(s, &p), items = (s->images + group - 1) / group;
    const long pixels = s->height * s->width, per = p.rows * p.columns;
    double *parts = zeros(CHUNKS * 2 * s->to);
#pragma omp parallel
    {
        float *image = room(group * p.floats), *v = room(POINTS * block * s->from), *m = room(POINTS * block * s->to);
        float *partial = room(2 * s->to);
        long *corner = (long *)zeros(2 * group * per), *inside = corner + group * per;
        places(s, &p, group * per, corner, inside);
        memset(image, 0, group * p.floats * sizeof(float));
        memset(v, 0, POINTS * block * s->from * sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int chunk = 0; chunk < CHUNKS; chunk++)
            for (long item = items * chunk / CHUNKS; item < items * (chunk + 1) / CHUNKS; item++) {
                long first = item * group, many = least(group, s->images - first), tiles = many * per;
                for (long n = 0; n < many; n++)
                    fill(s, s->from, &p, x + (first + n) * pixels * s->from, scale, shift, image + n * p.floats);
                Finish f = {out + first * pixels * s->to, NULL, NULL, NULL, pivot, partial};
                long next = (item + 1 < items ? first + group : first) * pixels;
                for (long t0 = 0; t0 < tiles; t0 += block) {
                    long count = least(block, tiles - t0);
                    ask_ahead(x + next * s->from, group * pixels * s->from, t0, block, group * per, 0);
                    ask_ahead(out + next * s->to, group * pixels * s->to, t0, block, group * per, 1);
                    for (long t = 0; t < count; t++)
                        transform_input(image + corner[t0 + t] * s->from, p.stride, s->from, v + t * s->from, block * s->from);
                    products(v, ahead, m, s->from, s->to, block);
                    finish(s, inside + t0, block, count, m, s->to, &f, WRITTEN);
                    add_sums(parts + chunk * 2 * s->to, partial, s->to);
                }
            }
        free(image), free(v), free(m), free(partial), free(corner);
    }
    join_sums(parts, s->to, sums);
    free(parts);
}

/* Gradients of a convolution, of its input x (or max(0, scale * x + shift)) and of its weights, from gradients of the batch norm
   behind it: those of the convolution's outputs z are of_flow * g + of_z * z + constant, channel by channel, where g is `flow`
   where `shown` is positive (NULL: everywhere). `gates`: NULL, or g is written there.
   The input's gradient is ADDED to `out`, or, GATED by max(0, scale * x + shift), written there with `sums` [2][from] of it and
   of its products with x less pivot. */
void convolve_back(const Shape *s, const float *flow, const float *shown, const float *z, const float *of_flow, const float *of_z,
                   const float *constant, float *gates, const float *x, const float *scale, const float *shift, const float *back,
                   const float *pivot, float *out, int kind, double *sums, float *weight) {
    const Padded p = padded(s, s->from), e = padded(s, s->to);
    const long block = block_of(s), group = together(s, &p), items = (s->images + group - 1) / group;
    const long pixels = s->height * s->width, per = p.rows * p.columns;
    const long size = POINTS * s->from * s->to;
    double *parts = zeros(CHUNKS * 2 * s->from);
    const int chunks = chunks_of(s);
    float *du = room(chunks * size);
#pragma omp parallel
    {
        float *image = room(group * p.floats), *error = room(group * e.floats);
        float *v = room(POINTS * block * s->from), *d = room(POINTS * block * s->to), *m = room(POINTS * block * s->from);
        float *partial = room(2 * s->from);
        long *corner = (long *)zeros(2 * group * per), *inside = corner + group * per;
        places(s, &p, group * per, corner, inside);
        memset(image, 0, group * p.floats * sizeof(float));
        memset(error, 0, group * e.floats * sizeof(float));
        memset(d, 0, POINTS * block * s->to * sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int chunk = 0; chunk < chunks; chunk++) {
            float *mine = du + chunk * size;
            memset(mine, 0, size * sizeof(float));
            for (long item = items * chunk / chunks; item < items * (chunk + 1) / chunks; item++) {
                long first = item * group, many = least(group, s->images - first), tiles = many * per;
                for (long n = 0; n < many; n++) {
                    fill(s, s->from, &p, x + (first + n) * pixels * s->from, scale, shift, image + n * p.floats);
                    for (long i = 0; i < s->height; i++) {
                        long at = ((first + n) * pixels + i * s->width) * s->to;
                        norm_gradient(s->width, s->to, flow + at, shown == NULL ? NULL : shown + at, z + at, of_flow, of_z, constant,
                                      gates == NULL ? NULL : gates + at, error + n * e.floats + (i + 1) * e.stride + s->to);
                    }
                }
                long next = (item + 1 < items ? first + group : first) * pixels;
                Finish f = {out + first * pixels * s->from, x + first * pixels * s->from, scale, shift, pivot, partial};
                for (long t0 = 0; t0 < tiles; t0 += block) {
                    long count = least(block, tiles - t0);
                    ask_ahead(x + next * s->from, group * pixels * s->from, t0, block, group * per, 0);
                    ask_ahead(out + next * s->from, group * pixels * s->from, t0, block, group * per, 1);
                    ask_ahead(flow + next * s->to, group * pixels * s->to, t0, block, group * per, 0);
                    ask_ahead(z + next * s->to, group * pixels * s->to, t0, block, group * per, 0);
                    if (shown != NULL) ask_ahead(shown + next * s->to, group * pixels * s->to, t0, block, group * per, 0);
                    for (long t = 0; t < count; t++) {
                        transform_input(image + corner[t0 + t] * s->from, p.stride, s->from, v + t * s->from, block * s->from);
                        transform_gradient(error + corner[t0 + t] * s->to + e.stride + s->to, e.stride, s->to, d + t * s->to,
                                           block * s->to);
                    }
                    outers(v, d, mine, s->from, s->to, block, count);
                    for (long t = 0; t < count; t++)
                        transform_input(error + corner[t0 + t] * s->to, e.stride, s->to, d + t * s->to, block * s->to);
                    products(d, back, m, s->to, s->from, block);
                    if (kind == GATED) {
                        finish(s, inside + t0, block, count, m, s->from, &f, GATED);
                        add_sums(parts + chunk * 2 * s->from, partial, s->from);
                    } else
                        finish(s, inside + t0, block, count, m, s->from, &f, ADDED);
                }
            }
        }
        free(image), free(error), free(v), free(d), free(m), free(partial), free(corner);
    }
    finish_weights(du, chunks, s->from, s->to, weight);
    if (kind == GATED) join_sums(parts, s->from, sums);
    free(parts), free(du);
}

/* --- weight gradients of other 3x3 convolutions --------------------------------------------------------------------- */

/* add[c][0 .. LANES) += sum over the pixels of an image of x[.][c] * e[.][..] for ROWS channels c, where x moves `right` from a
   pixel to the next and `down` from a row to the next. */
#define PIXELS(NAME, ROWS)                                                                                              \
    INLINE void NAME(const float *x, long right, long down, const float *e, long to, long height, long width, float *add) { \
        vec sum[ROWS];                                                                                                  \
        memset(sum, 0, sizeof sum);                                                                                     \
        for (long i = 0; i < height; i++)                                                                               \
            for (long j = 0; j < width; j++) {                                                                          \
                vec w = LOAD(e + (i * width + j) * to);                                                                 \
                _Pragma("GCC unroll 16") for (int c = 0; c < ROWS; c++) sum[c] += x[i * down + j * right + c] * w;      \
            }                                                                                                           \
        _Pragma("GCC unroll 16") for (int c = 0; c < ROWS; c++) STORE(add + c * to, LOAD(add + c * to) + sum[c]);       \
    }
PIXELS(pixels_of_colours, 3)
PIXELS(pixels_of_many, TALL)

/* Of a convolution with `stride` of images x [images, height, width, from], where from is 3 or a multiple of 16, from gradients
   `flow` [images, height / stride, width / stride, to] of its outputs. */
void weight_gradient(const Shape *s, long stride, const float *x, const float *flow, float *weight) {
    const long from = s->from, to = s->to, row = (s->width + 2) * from, floats = (s->height + 2) * row;
    const long height = s->height / stride, width = s->width / stride, size = 9 * from * to;
    float *parts = room(CHUNKS * size);
#pragma omp parallel
    {
        float *image = room(floats);
        memset(image, 0, floats * sizeof(float));
#pragma omp for schedule(dynamic, 1)
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            float *mine = parts + chunk * size;
            memset(mine, 0, size * sizeof(float));
            for (long n = s->images * chunk / CHUNKS; n < s->images * (chunk + 1) / CHUNKS; n++) {
                for (long i = 0; i < s->height; i++)
                    memcpy(image + (i + 1) * row + from, x + (n * s->height + i) * s->width * from, s->width * from * sizeof(float));
                for (int tap = 0; tap < 9; tap++)
                    for (long k = 0; k < to; k += LANES) {
                        const float *d = image + tap / 3 * row + tap % 3 * from, *e = flow + n * height * width * to + k;
                        float *o = mine + tap * from * to + k;
                        if (from == 3)
                            pixels_of_colours(d, stride * from, stride * row, e, to, height, width, o);
                        else
                            for (long c = 0; c < from; c += TALL)
                                pixels_of_many(d + c, stride * from, stride * row, e, to, height, width, o + c * to);
                    }
            }
        }
        free(image);
    }
    for (long tap = 0; tap < 9; tap++)
        for (long c = 0; c < from; c++)
            for (long k = 0; k < to; k++) {
                float sum = 0;
                for (int chunk = 0; chunk < CHUNKS; chunk++) sum += parts[chunk * size + (tap * from + c) * to + k];
                weight[(k * 9 + tap) * from + c] = sum;
            }
    free(parts);
}

/* --- batch norm ----------------------------------------------------------------------------------------------------- */

enum { RUN = 64 }; /* pixels whose sum is made in 32 bits */

/* Sums [2][channels] over pixels of z less pivot and of its squares; or, with `flow`, of g, which is it where `shown` is positive,
   and of its products with z less pivot. */
void channel_sums(long pixels, long channels, const float *z, const float *flow, const float *shown, const float *pivot,
                  double *sums) {
    double *parts = zeros(CHUNKS * 2 * channels);
    const long runs = (pixels + RUN - 1) / RUN;
#pragma omp parallel
    {
        float *partial = room(2 * channels);
#pragma omp for schedule(dynamic, 1)
        for (int chunk = 0; chunk < CHUNKS; chunk++)
            for (long run = runs * chunk / CHUNKS; run < runs * (chunk + 1) / CHUNKS; run++) {
                for (long k = 0; k < channels; k += LANES) {
                    vec sum = {0}, other = {0};
                    for (long i = run * RUN; i < least(pixels, (run + 1) * RUN); i++) {
                        vec v = LOAD(z + i * channels + k) - LOAD(pivot + k), g = v;
                        if (flow != NULL)
                            g = WHERE(LOAD(shown + i * channels + k) > 0.0f, LOAD(flow + i * channels + k));
                        sum += g, other += g * v;
                    }
                    STORE(partial + k, sum);
                    STORE(partial + channels + k, other);
                }
                add_sums(parts + chunk * 2 * channels, partial, channels);
            }
        free(partial);
    }
    join_sums(parts, channels, sums);
    free(parts);
}

/* As affine(). */
void normalise(long pixels, long channels, const float *z, const float *scale, const float *shift, const float *added, float *out) {
#pragma omp parallel for schedule(static)
    for (long run = 0; run < (pixels + RUN - 1) / RUN; run++) {
        long o = run * RUN * channels;
        affine(least(RUN, pixels - run * RUN), channels, z + o, scale, shift, added == NULL ? NULL : added + o, out + o);
    }
}

/* As norm_gradient(). */
void normalise_back(long pixels, long channels, const float *flow, const float *shown, const float *z, const float *of_flow,
                    const float *of_z, const float *constant, float *out) {
#pragma omp parallel for schedule(static)
    for (long run = 0; run < (pixels + RUN - 1) / RUN; run++) {
        long o = run * RUN * channels;
        norm_gradient(least(RUN, pixels - run * RUN), channels, flow + o, shown == NULL ? NULL : shown + o, z + o, of_flow, of_z,
                      constant, NULL, out + o);
    }
}

/* From sums [2][channels] over `count` pixels of z less the running mean and of its squares: the batch's mean (in 32 bits too, as
   the next `pivot`) and 1 / standard deviation, and the affine function scale * z + shift that batch norm is. Then moves the running
   mean and unbiased variance. */
void norm_of_batch(long count, long channels, const double *sums, const float *weight, const float *bias, double eps, double momentum,
                   float *running_mean, float *running_variance, double *mean, double *inverse, float *pivot, float *scale, float *shift) {
    for (long k = 0; k < channels; k++) {
        double beside = sums[k] / count, variance = sums[channels + k] / count - beside * beside;
        if (variance < 0) variance = 0;
        mean[k] = running_mean[k] + beside;
        pivot[k] = mean[k];
        inverse[k] = 1 / sqrt(variance + eps);
        scale[k] = weight[k] * inverse[k];
        shift[k] = bias[k] - mean[k] * weight[k] * inverse[k];
        running_mean[k] = (1 - momentum) * running_mean[k] + momentum * mean[k];
        running_variance[k] = (1 - momentum) * running_variance[k] + momentum * variance * count / (count - 1.0);
    }
}

/* The affine function that batch norm with running statistics is. */
void norm_of_running(long channels, const float *weight, const float *bias, double eps, const float *mean, const float *variance,
                     float *scale, float *shift) {
    for (long k = 0; k < channels; k++) {
        double factor = weight[k] / sqrt(variance[k] + eps);
        scale[k] = factor;
        shift[k] = bias[k] - mean[k] * factor;
    }
}

/* From sums [2][channels] of g and of g * (z - pivot), pivot being the mean in 32 bits: gradients of batch norm's weight and bias,
   and the factors of the input's gradient of_flow * g + of_z * z + constant. */
void norm_back(long count, long channels, const double *sums, const float *weight, const double *mean, const double *inverse,
               float *by_weight, float *by_bias, float *of_flow, float *of_z, float *constant) {
    for (long k = 0; k < channels; k++) {
        double of_bias = sums[k], beside = mean[k] - (float)mean[k];
        double of_weight = (sums[channels + k] - beside * sums[k]) * inverse[k];
        double factor = weight[k] * inverse[k], of_input = -factor * inverse[k] * of_weight / count;
        by_weight[k] = of_weight, by_bias[k] = of_bias;
        of_flow[k] = factor, of_z[k] = of_input;
        constant[k] = -factor * of_bias / count - of_input * mean[k];
    }
}
