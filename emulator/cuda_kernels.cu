/* Kernels for a GPU: tiles of T, packed inputs and finished fields of the exact product; the camera and its readout.
 *
 * The bodies are plain C, so that one source serves two compilers: NVRTC, through CuPy, for the GPU, and cc, in the
 * tests, for the host, where `set_block` and a call run one block and EACH_THREAD is a loop over its threads. A kernel
 * is a sequence of such loops with barriers between them, and shares nothing between blocks but what it adds atomically.
 *
 * Compiled with CUDA 12.0 or newer, for compute capability 6.1 (dp4a) and up. int has 32 bits, long long 64.
 */

#ifdef __CUDACC__
#define KERNEL(name) extern "C" __global__ void name
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__
#define EACH_THREAD(t) for (unsigned t = threadIdx.x, t##_once = 1; t##_once; t##_once = 0)
#define BARRIER() __syncthreads()
#define ADD_ATOMICALLY(to, value) atomicAdd(to, value)
#define bits_of(value) __float_as_uint(value)
#define float_of(bits) __uint_as_float(bits)
#else
#include <math.h>
#include <string.h>
typedef struct { unsigned x, y, z, w; } uint4;
static struct { unsigned x, y; } blockIdx, blockDim, gridDim;

void set_block(unsigned x, unsigned y, unsigned blocks_x, unsigned blocks_y, unsigned threads)
{
    blockIdx.x = x;
    blockIdx.y = y;
    gridDim.x = blocks_x;
    gridDim.y = blocks_y;
    blockDim.x = threads;
    blockDim.y = 1;
}
#define KERNEL(name) void name
#define DEVICE static inline
#define SHARED static
#define EACH_THREAD(t) for (unsigned t = 0; t < blockDim.x; ++t)
#define BARRIER() ((void)0)
#define ADD_ATOMICALLY(to, value) (*(to) += (value))

static inline unsigned bits_of(float value)
{
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(unsigned bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
#endif

/* The definition of T: emulator/matrix.py and emulator/hashing.py. */
#define TILE_ROWS 256
#define TILE_COLUMNS 1024
#define TILE_WORDS 256u

#define BLOCK_ROWS 128 /* rows of T made by one block; two blocks to a tile, so that a slab has enough of them */
#define GROUP 16       /* columns made by one thread at a time: one store of 16 bytes */
#define LANES 32

DEVICE unsigned long long splitmix64(unsigned long long z)
{
    z += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* hashing.derive_key(seed, row_block, column_block) */
DEVICE unsigned long long tile_key(unsigned long long seed, unsigned row_block, unsigned column_block)
{
    unsigned long long key = splitmix64(3 ^ seed);
    key = splitmix64(key ^ row_block);
    return splitmix64(key ^ column_block);
}

/* hashing.hash_words */
DEVICE unsigned hash_word(unsigned counter, unsigned low, unsigned high)
{
    unsigned x = counter ^ low;
    x ^= x >> 17;
    x *= 0xED5AD4BBu;
    x += high;
    x ^= x >> 11;
    x *= 0xAC4C1B51u;
    x ^= x >> 15;
    x *= 0x31848BABu;
    return x ^ (x >> 14);
}

DEVICE unsigned table_word(const unsigned *lookup, unsigned lane, unsigned word)
{
    return lookup[(word & 255) * LANES + lane] | lookup[(word >> 8 & 255) * LANES + lane] << 8 |
           lookup[(word >> 16 & 255) * LANES + lane] << 16 | lookup[(word >> 24) * LANES + lane] << 24;
}

/* A slab of T, row-major: row r is row first_row + r of T, columns first_column … first_column + n_columns - 1.
 *
 * n_columns is a multiple of 16, hence so is every row's address, as cuBLAS wants. Columns beyond the inputs are made
 * like the others, and may be anything: the packed inputs are zero there. first_row is a multiple of BLOCK_ROWS,
 * first_column of TILE_COLUMNS: a block then lies in one tile and has one key.
 *
 * The table is in shared memory, once for each lane: entry b of lane l is word 32·b + l, in bank l, so the 32 look-ups
 * of a warp never collide. One table for the warp would make them queue, some three deep on average, for 256 bytes
 * spread at random over 32 banks; constant memory serves one address of a warp at a time, so up to 32 deep. The price
 * is 32 KB, filled once for the 128 x 1024 entries of a block.
 *
 * Grid: (ceil(n_rows / 128), ceil(n_columns / 1024)); rows on x, whose limit is 2^31. Threads: a multiple of 64.
 */
KERNEL(generate)(signed char *slab, const signed char *table, unsigned long long seed, unsigned first_row,
                 unsigned n_rows, unsigned first_column, unsigned n_columns)
{
    SHARED unsigned lookup[256 * LANES];
    unsigned top = blockIdx.x * BLOCK_ROWS;
    unsigned bottom = n_rows - top < BLOCK_ROWS ? n_rows : top + BLOCK_ROWS;
    unsigned long long key =
        tile_key(seed, (first_row + top) / TILE_ROWS, first_column / TILE_COLUMNS + blockIdx.y);
    unsigned low = (unsigned)key, high = (unsigned)(key >> 32);

    EACH_THREAD(t) {
        for (unsigned i = t; i < 256 * LANES; i += blockDim.x)
            lookup[i] = (unsigned char)table[i / LANES];
    }
    BARRIER();
    EACH_THREAD(t) {
        unsigned group = t % (TILE_COLUMNS / GROUP), lane = t % LANES;
        unsigned column = blockIdx.y * TILE_COLUMNS + group * GROUP;
        if (column < n_columns) {
            unsigned step = blockDim.x / (TILE_COLUMNS / GROUP);
            for (unsigned row = top + t / (TILE_COLUMNS / GROUP); row < bottom; row += step) {
                unsigned counter = TILE_WORDS * ((first_row + row) % TILE_ROWS) + group * (GROUP / 4);
                uint4 entries;
                entries.x = table_word(lookup, lane, hash_word(counter, low, high));
                entries.y = table_word(lookup, lane, hash_word(counter + 1, low, high));
                entries.z = table_word(lookup, lane, hash_word(counter + 2, low, high));
                entries.w = table_word(lookup, lane, hash_word(counter + 3, low, high));
                *(uint4 *)(slab + (unsigned long long)row * n_columns + column) = entries;
            }
        }
    }
}

/* Four neighbouring inputs, zeros beyond the last. */
DEVICE unsigned input_word(const signed char *vector, unsigned first, unsigned n_inputs)
{
    unsigned word = 0;
    for (unsigned i = 0; i < 4; ++i)
        if (first + i < n_inputs)
            word |= (unsigned)(unsigned char)vector[first + i] << 8 * i;
    return word;
}

/* Vectors (n_vectors, n_inputs) into (n_rows, width), filled up with zeros; width is a multiple of 16. */
KERNEL(pack)(signed char *packed, const signed char *vectors, unsigned n_vectors, unsigned n_inputs, unsigned n_rows,
             unsigned width)
{
    unsigned long long n_groups = (unsigned long long)n_rows * (width / GROUP);
    EACH_THREAD(t) {
        for (unsigned long long g = (unsigned long long)blockIdx.x * blockDim.x + t; g < n_groups;
             g += (unsigned long long)gridDim.x * blockDim.x) {
            unsigned vector = (unsigned)(g / (width / GROUP)), first = (unsigned)(g % (width / GROUP)) * GROUP;
            const signed char *inputs = vectors + (unsigned long long)vector * n_inputs;
            uint4 group = {0, 0, 0, 0};
            if (vector < n_vectors) {
                group.x = input_word(inputs, first, n_inputs);
                group.y = input_word(inputs, first + 4, n_inputs);
                group.z = input_word(inputs, first + 8, n_inputs);
                group.w = input_word(inputs, first + 12, n_inputs);
            }
            ((uint4 *)packed)[g] = group;
        }
    }
}

/* Adds the number of entries outside {-1, 0, 1} to *count. */
KERNEL(count_foreign)(unsigned long long *count, const signed char *vectors, unsigned long long n)
{
    EACH_THREAD(t) {
        unsigned long long found = 0;
        for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + t; i < n;
             i += (unsigned long long)gridDim.x * blockDim.x)
            found += vectors[i] < -1 || vectors[i] > 1;
        if (found)
            ADD_ATOMICALLY(count, found);
    }
}

/* Sums of a row slab, (vectors, n_sums), into columns of the result, whose rows are n_outputs apart. Only the first
 * n_columns are outputs. Grid: (ceil(n_columns / threads), vectors). */
KERNEL(finish_integers)(int *integers, const int *sums, unsigned n_columns, unsigned n_sums,
                        unsigned long long n_outputs)
{
    EACH_THREAD(t) {
        unsigned column = blockIdx.x * blockDim.x + t;
        if (column < n_columns)
            integers[blockIdx.y * n_outputs + column] = sums[(unsigned long long)blockIdx.y * n_sums + column];
    }
}

/* The same as float32 fields: a conversion and a multiplication, each correctly rounded, as on every backend. */
KERNEL(finish_fields)(float *fields, const int *sums, unsigned n_columns, unsigned n_sums,
                      unsigned long long n_outputs, float unit)
{
    EACH_THREAD(t) {
        unsigned column = blockIdx.x * blockDim.x + t;
        if (column < n_columns)
            fields[blockIdx.y * n_outputs + column] =
                (float)sums[(unsigned long long)blockIdx.y * n_sums + column] * unit;
    }
}

/* ---- The camera: what `numba_camera.expose` does, operation by operation, each rounded once. Compiled without
 * contraction (--fmad=false, -ffp-contract=off): only what is written fmaf is fused, so that the host's images and the
 * GPU's are those of Numba to the bit, provided sqrtf is correctly rounded, NVRTC's default. */

/* Natural logarithm, 0 < v <= 1: v = 2^e (1 + f) with 2/3 <= 1 + f < 4/3. */
DEVICE float log_of(float v)
{
    unsigned bits = bits_of(v);
    int exponent = (int)(bits - 0x3F2AAAABu) >> 23;
    float f = float_of(bits - ((unsigned)exponent << 23)) - 1.0f;
    float p = -0.156310335f;
    p = fmaf(p, f, 0.171279222f);
    p = fmaf(p, f, -0.163826376f);
    p = fmaf(p, f, 0.197960183f);
    p = fmaf(p, f, -0.250080258f);
    p = fmaf(p, f, 0.333375514f);
    return fmaf((float)exponent, 0.693147182f, fmaf(f * f, fmaf(f, p, -0.5f), f));
}

/* normals.standard_normals */
DEVICE float standard_normal(unsigned word)
{
    float x = fmaf((float)((int)word >> 8), 1.1920929e-07f, 5.96046448e-08f);
    float w = -log_of(fmaf(-x, x, 1.0f));
    if (w < 5.0f) {
        float c = w - 2.5f;
        float z = 4.46373519e-07f;
        z = fmaf(z, c, -4.50551943e-06f);
        z = fmaf(z, c, -5.79007838e-06f);
        z = fmaf(z, c, 0.000307359558f);
        z = fmaf(z, c, -0.00177431689f);
        z = fmaf(z, c, -0.00590612181f);
        z = fmaf(z, c, 0.348803639f);
        z = fmaf(z, c, 2.12331319f);
        return x * z;
    } else {
        float t = w - 8.0f;
        float z = 7.87202303e-10f;
        z = fmaf(z, t, -2.22151595e-08f);
        z = fmaf(z, t, 2.39811982e-07f);
        z = fmaf(z, t, -8.52546066e-07f);
        z = fmaf(z, t, -1.24573207e-05f);
        z = fmaf(z, t, 0.000348221627f);
        z = fmaf(z, t, -0.00715032918f);
        z = fmaf(z, t, 0.249405354f);
        z = fmaf(z, t, 3.76384306f);
        return x * z;
    }
}

/* What a frame is: five words of `frames`. */
#define FRAME_WORDS 5

/* Digital number of one pixel in one frame. */
DEVICE float digital_number(const int *quadratures, const unsigned *frame, unsigned pixel, float amplitude, float shot,
                            float read_variance, float full_well, float gain, float top)
{
    float re = fmaf((float)quadratures[0], amplitude, float_of(frame[3]));
    float im = fmaf((float)quadratures[1], amplitude, float_of(frame[4]));
    float mean_e = fmaf(re, re, im * im);
    float z = standard_normal(hash_word(pixel, frame[1], frame[2]));
    float electrons = fmaf(z, sqrtf(fmaf(mean_e, shot, read_variance)), mean_e);
    float level = (electrons < full_well ? electrons : full_well) * gain;
    level = level > 0.0f ? level : 0.0f;
    return rintf(level < top ? level : top);
}

/* One image of each frame, for n_pixels neighbouring pixels from first_pixel on.
 *
 * field: (patterns, 2 * n_pixels), rows field_stride apart. frames: for each its row of `field`, the low and high half of
 * its noise key, and the bits of the quadratures of the reference arm. images: rows image_stride apart, beginning at the
 * first pixel of the image. Grid: (ceil(n_pixels / threads), at most n_frames). */
#define EXPOSE(name, pixel_type)                                                                                        \
    KERNEL(name)(pixel_type *images, const int *field, const unsigned *frames, unsigned n_frames, unsigned n_pixels,   \
                 unsigned first_pixel, unsigned long long field_stride, unsigned long long image_stride,               \
                 float amplitude, float shot, float read_variance, float full_well, float gain, float top)             \
    {                                                                                                                  \
        EACH_THREAD(t) {                                                                                               \
            unsigned pixel = blockIdx.x * blockDim.x + t;                                                              \
            if (pixel < n_pixels)                                                                                      \
                for (unsigned f = blockIdx.y; f < n_frames; f += gridDim.y) {                                          \
                    const unsigned *frame = frames + (unsigned long long)f * FRAME_WORDS;                              \
                    const int *quadratures = field + frame[0] * field_stride + 2ull * pixel;                           \
                    images[f * image_stride + first_pixel + pixel] =                                                   \
                        (pixel_type)(int)digital_number(quadratures, frame, first_pixel + pixel, amplitude, shot,      \
                                                        read_variance, full_well, gain, top);                          \
                }                                                                                                      \
        }                                                                                                              \
    }
EXPOSE(expose_8, unsigned char)
EXPOSE(expose_16, unsigned short)

/* Four-step phase stepping: (patterns, 2 * n_pixels) amplitudes of (4 * patterns, n_pixels) images, and how many
 * readings are `limit` or more. Grid: (ceil(n_pixels / threads), at most n_patterns). */
#define DEMODULATE(name, pixel_type)                                                                                    \
    KERNEL(name)(float *amplitude, unsigned long long *saturated, const pixel_type *images, unsigned n_patterns,       \
                 unsigned n_pixels, unsigned limit, float scale)                                                       \
    {                                                                                                                  \
        EACH_THREAD(t) {                                                                                               \
            unsigned pixel = blockIdx.x * blockDim.x + t;                                                              \
            unsigned long long found = 0;                                                                              \
            if (pixel < n_pixels)                                                                                      \
                for (unsigned pattern = blockIdx.y; pattern < n_patterns; pattern += gridDim.y) {                      \
                    const pixel_type *image = images + 4ull * pattern * n_pixels + pixel;                              \
                    unsigned a = image[0], b = image[n_pixels], c = image[2ull * n_pixels], d = image[3ull * n_pixels]; \
                    float *fields = amplitude + 2ull * pattern * n_pixels + 2ull * pixel;                              \
                    fields[0] = (float)((int)a - (int)c) * scale;                                                      \
                    fields[1] = (float)((int)b - (int)d) * scale;                                                      \
                    found += (a >= limit) + (b >= limit) + (c >= limit) + (d >= limit);                                \
                }                                                                                                      \
            if (found)                                                                                                 \
                ADD_ATOMICALLY(saturated, found);                                                                      \
        }                                                                                                              \
    }
DEMODULATE(demodulate_8, unsigned char)
DEMODULATE(demodulate_16, unsigned short)

/* fields = unit * (plus - minus), (n_vectors, n_outputs). rows: of each vector the rows of its + and its - pattern in
 * `amplitude`, or -1 for a pattern that was dark. Grid: (ceil(n_outputs / threads), at most n_vectors). */
KERNEL(combine)(float *fields, const float *amplitude, const int *rows, unsigned n_vectors, unsigned n_outputs,
                unsigned long long amplitude_stride, float unit)
{
    EACH_THREAD(t) {
        unsigned output = blockIdx.x * blockDim.x + t;
        if (output < n_outputs)
            for (unsigned vector = blockIdx.y; vector < n_vectors; vector += gridDim.y) {
                int plus = rows[2ull * vector], minus = rows[2ull * vector + 1];
                float difference = plus < 0 ? 0.0f : amplitude[plus * amplitude_stride + output];
                difference -= minus < 0 ? 0.0f : amplitude[minus * amplitude_stride + output];
                fields[(unsigned long long)vector * n_outputs + output] = difference * unit;
            }
    }
}
