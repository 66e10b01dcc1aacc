/* The functions that wasm instructions become: one instruction each with SSE4.1. */
#pragma once
#define NAN        __builtin_nanf("")
#define INFINITY   __builtin_inff()
#define signbit(x) __builtin_signbit(x)
#define isnan(x)   __builtin_isnan(x)
#define floor      __builtin_floor
#define floorf     __builtin_floorf
#define ceil       __builtin_ceil
#define ceilf      __builtin_ceilf
#define trunc      __builtin_trunc
#define truncf     __builtin_truncf
#define nearbyint  __builtin_nearbyint
#define nearbyintf __builtin_nearbyintf
#define sqrt       __builtin_sqrt
#define sqrtf      __builtin_sqrtf
#define fabs       __builtin_fabs
#define fabsf      __builtin_fabsf
#define copysign   __builtin_copysign
#define copysignf  __builtin_copysignf
