/* The types that wasm-rt.h names.  Exceptions are refused before anything is compiled. */
#pragma once
typedef long jmp_buf[8];
typedef long sigjmp_buf[8];
int setjmp(jmp_buf buffer);
#define sigsetjmp(buffer, mask) setjmp(buffer)
