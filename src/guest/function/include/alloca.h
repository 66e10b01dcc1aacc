/* For the C that wasm2c writes: nothing but the compiler. */
#pragma once
#define alloca __builtin_alloca
