/*
 * Compute kernels, the same source compiled natively and to wasm: each prints
 *
 *     NAME CHECKSUM NANOSECONDS
 *
 * Every kernel works on data it makes itself, returns a checksum (so that nothing is optimised away
 * and builds can be compared), and takes a few tens of milliseconds.
 */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint32_t seed = 12345;

static uint32_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed;
}

/* ---- Calls through pointers ---- */

static uint32_t add(uint32_t a, uint32_t b)
{
    return a + b;
}

static uint32_t mix(uint32_t a, uint32_t b)
{
    return (a ^ b) * 2654435761u;
}

static uint32_t rotate(uint32_t a, uint32_t b)
{
    return a << (b & 31) | a >> (-b & 31);
}

static uint64_t run_icall(void)
{
    uint32_t (*volatile table[3])(uint32_t, uint32_t) = {add, mix, rotate};
    uint32_t value = 1;
    for (uint32_t i = 0; i < 6000000; i++) {
        value = table[i % 3](value, i);
    }
    return value;
}

/* ---- Matrix product ---- */

enum { MATRIX = 160 };

static uint64_t run_matmul(void)
{
    static double a[MATRIX][MATRIX], b[MATRIX][MATRIX], c[MATRIX][MATRIX];
    for (int i = 0; i < MATRIX; i++) {
        for (int j = 0; j < MATRIX; j++) {
            a[i][j] = i + j % 7;
            b[i][j] = i % 5 - j;
        }
    }
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < MATRIX; i++) {
            for (int j = 0; j < MATRIX; j++) {
                double sum = 0;
                for (int k = 0; k < MATRIX; k++) {
                    sum += a[i][k] * b[k][j];
                }
                c[i][j] = sum + round;
            }
        }
    }
    double total = 0;
    for (int i = 0; i < MATRIX; i++) {
        total += c[i][(i * 7) % MATRIX];
    }
    return (uint64_t)(int64_t)total;
}

/* ---- SHA-256 (FIPS 180-4) ---- */

static uint32_t sha_constants[64];

static void make_sha_constants(void)
{
    /* Fractional parts of the cube roots of the first 64 primes. */
    int n = 0;
    for (int candidate = 2; n < 64; candidate++) {
        int is_prime = 1;
        for (int i = 2; i * i <= candidate; i++) {
            is_prime &= candidate % i != 0;
        }
        if (is_prime) {
            double root = cbrt(candidate);
            sha_constants[n++] = (uint32_t)((root - floor(root)) * 4294967296.0);
        }
    }
}

static uint32_t right(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void sha_block(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++) {
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
            (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = right(w[i - 15], 7) ^ right(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = right(w[i - 2], 17) ^ right(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t v[8];
    memcpy(v, state, sizeof(v));
    for (int i = 0; i < 64; i++) {
        uint32_t s1 = right(v[4], 6) ^ right(v[4], 11) ^ right(v[4], 25);
        uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + sha_constants[i] + w[i];
        uint32_t s0 = right(v[0], 2) ^ right(v[0], 13) ^ right(v[0], 22);
        uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof(v[0]));
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) {
        state[i] += v[i];
    }
}

static uint64_t run_sha256(void)
{
    static uint8_t data[1 << 16];
    make_sha_constants();
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)next_random();
    }
    uint32_t state[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (int round = 0; round < 60; round++) {
        for (size_t at = 0; at < sizeof(data); at += 64) {
            sha_block(state, data + at);
        }
    }
    return (uint64_t)state[0] << 32 | state[7];
}

/* ---- Bodies under gravity ---- */

struct body {
    double x[3];
    double v[3];
    double mass;
};

static uint64_t run_nbody(void)
{
    struct body bodies[5];
    for (int i = 0; i < 5; i++) {
        for (int k = 0; k < 3; k++) {
            bodies[i].x[k] = (i * 3 + k) * 1.7 - 5;
            bodies[i].v[k] = (k - i) * 0.1;
        }
        bodies[i].mass = 1 + i;
    }
    uint64_t early = 0;
    for (int step = 0; step < 250000; step++) {
        if (step == 100) {
            /* Coarsely and early: compilers may differ in the last bit, and paths then part. */
            early = (uint64_t)(int64_t)(bodies[0].x[0] * 1000);
        }
        for (int i = 0; i < 5; i++) {
            for (int j = i + 1; j < 5; j++) {
                double d[3], square = 0.01;
                for (int k = 0; k < 3; k++) {
                    d[k] = bodies[i].x[k] - bodies[j].x[k];
                    square += d[k] * d[k];
                }
                double pull = 0.001 / (square * sqrt(square));
                for (int k = 0; k < 3; k++) {
                    bodies[i].v[k] -= d[k] * bodies[j].mass * pull;
                    bodies[j].v[k] += d[k] * bodies[i].mass * pull;
                }
            }
        }
        for (int i = 0; i < 5; i++) {
            for (int k = 0; k < 3; k++) {
                bodies[i].x[k] += 0.001 * bodies[i].v[k];
            }
        }
    }
    return early + (isfinite(bodies[0].x[0]) ? 0 : 1);
}

/* ---- Mandelbrot set ---- */

static uint64_t run_mandel(void)
{
    uint64_t total = 0;
    for (int y = 0; y < 220; y++) {
        for (int x = 0; x < 220; x++) {
            double cr = x / 110.0 - 1.5, ci = y / 110.0 - 1.0, zr = 0, zi = 0;
            int n = 0;
            while (n < 300 && zr * zr + zi * zi < 4) {
                double t = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = t;
                n++;
            }
            total = total * 31 + (uint64_t)n;
        }
    }
    return total;
}

/* ---- Sieve ---- */

static uint64_t run_sieve(void)
{
    enum { MOST = 2000000 };
    static uint8_t composite[MOST];
    uint64_t count = 0;
    for (int round = 0; round < 2; round++) {
        memset(composite, 0, sizeof(composite));
        for (int i = 2; i < MOST; i++) {
            if (!composite[i]) {
                count++;
                for (int k = 2 * i; k < MOST; k += i) {
                    composite[k] = 1;
                }
            }
        }
    }
    return count;
}

/* ---- Sorting ---- */

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void sort(uint32_t *items, int count)
{
    while (count > 12) {
        uint32_t pivot = items[count / 2];
        int i = 0, j = count - 1;
        while (i <= j) {
            while (compare(&items[i], &pivot) < 0) {
                i++;
            }
            while (compare(&items[j], &pivot) > 0) {
                j--;
            }
            if (i <= j) {
                uint32_t t = items[i];
                items[i++] = items[j];
                items[j--] = t;
            }
        }
        sort(items, j + 1);
        items += i;
        count -= i;
    }
    for (int i = 1; i < count; i++) {
        uint32_t item = items[i];
        int k = i;
        for (; k > 0 && compare(&items[k - 1], &item) > 0; k--) {
            items[k] = items[k - 1];
        }
        items[k] = item;
    }
}

static uint64_t run_sort(void)
{
    enum { COUNT = 400000 };
    static uint32_t items[COUNT];
    for (int i = 0; i < COUNT; i++) {
        items[i] = next_random();
    }
    sort(items, COUNT);
    uint64_t total = 0;
    for (int i = 0; i < COUNT; i += 1000) {
        total = total * 131 + items[i];
    }
    return total;
}

/* ---- Pointer chase ---- */

static uint64_t run_chase(void)
{
    enum { NODES = 1 << 17 };
    static uint32_t next[NODES];
    for (uint32_t i = 0; i < NODES; i++) {
        next[i] = i;
    }
    for (uint32_t i = NODES - 1; i > 0; i--) { /* Sattolo: one cycle */
        uint32_t j = next_random() % i, t = next[i];
        next[i] = next[j];
        next[j] = t;
    }
    uint32_t at = 0;
    for (int i = 0; i < 8000000; i++) {
        at = next[at];
    }
    return at;
}

/* ---- Text: numbers formatted and parsed by the C library ---- */

static uint64_t run_text(void)
{
    uint64_t total = 0;
    char line[96];
    for (int i = 0; i < 60000; i++) {
        int length =
            snprintf(line, sizeof(line), "%d:%08x:%s:%.3f", i, next_random(), "name", i / 7.0);
        total = total * 33 + (uint64_t)length + (uint64_t)strtol(line, NULL, 10);
    }
    return total;
}

static const struct {
    const char *name;
    uint64_t (*run)(void);
} kernels[] = {
    {"icall", run_icall}, {"matmul", run_matmul}, {"sha256", run_sha256},
    {"nbody", run_nbody}, {"mandel", run_mandel}, {"sieve", run_sieve},
    {"sort", run_sort},   {"chase", run_chase},   {"text", run_text},
};

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

int main(void)
{
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
        seed = 12345;
        uint64_t begin = now_ns();
        uint64_t checksum = kernels[i].run();
        uint64_t took = now_ns() - begin;
        printf("%s %016" PRIx64 " %" PRIu64 "\n", kernels[i].name, checksum, took);
    }
    return 0;
}
