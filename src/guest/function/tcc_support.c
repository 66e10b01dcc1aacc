/*
 * What tcc leaves to a library: bit counting, conversions, and the math functions that gcc has
 * built in. Exactness matters: wasm defines every result.
 */
#include <stdint.h>

#define FUNCTION(name)                 \
    double name(double x);             \
    double name(double x)              \
    {                                  \
        return __builtin_##name(x);    \
    }                                  \
    float name##f(float x);            \
    float name##f(float x)             \
    {                                  \
        return __builtin_##name##f(x); \
    }

/* SSE4.1 rounds in one instruction; without -msse4.1 these would call themselves. */
FUNCTION(floor)
FUNCTION(ceil)
FUNCTION(trunc)
FUNCTION(nearbyint)
FUNCTION(sqrt)
FUNCTION(fabs)

double copysign(double a, double b);
double copysign(double a, double b)
{
    return __builtin_copysign(a, b);
}

float copysignf(float a, float b);
float copysignf(float a, float b)
{
    return __builtin_copysignf(a, b);
}

/* tcc calls these by the names of the builtins themselves. */
int count_leading_32(unsigned x) __asm__("__builtin_clz");
int count_leading_32(unsigned x)
{
    return __builtin_clz(x);
}

int count_leading_64(unsigned long x) __asm__("__builtin_clzll");
int count_leading_64(unsigned long x)
{
    return __builtin_clzll(x);
}

int count_trailing_32(unsigned x) __asm__("__builtin_ctz");
int count_trailing_32(unsigned x)
{
    return __builtin_ctz(x);
}

int count_trailing_64(unsigned long x) __asm__("__builtin_ctzll");
int count_trailing_64(unsigned long x)
{
    return __builtin_ctzll(x);
}

int count_ones_32(unsigned x) __asm__("__builtin_popcount");
int count_ones_32(unsigned x)
{
    x -= x >> 1 & 0x55555555;
    x = (x & 0x33333333) + (x >> 2 & 0x33333333);
    return (int)((((x + (x >> 4)) & 0x0f0f0f0f) * 0x01010101) >> 24);
}

int count_ones_64(unsigned long x) __asm__("__builtin_popcountll");
int count_ones_64(unsigned long x)
{
    return count_ones_32((unsigned)x) + count_ones_32((unsigned)(x >> 32));
}

double __floatundidf(unsigned long x);
double __floatundidf(unsigned long x)
{
    if ((long)x >= 0) {
        return (double)(long)x;
    }
    return (double)(long)(x >> 1 | (x & 1)) * 2.0; /* the lost bit keeps the rounding right */
}

float __floatundisf(unsigned long x);
float __floatundisf(unsigned long x)
{
    if ((long)x >= 0) {
        return (float)(long)x;
    }
    return (float)(long)(x >> 1 | (x & 1)) * 2.0f;
}

unsigned long __fixunsdfdi(double x);
unsigned long __fixunsdfdi(double x)
{
    if (x < 9223372036854775808.0) {
        return (unsigned long)(long)x;
    }
    return (unsigned long)(long)(x - 9223372036854775808.0) ^ 1ul << 63;
}

unsigned long __fixunssfdi(float x);
unsigned long __fixunssfdi(float x)
{
    return __fixunsdfdi(x);
}
