/* Random bytes from the kernel (getrandom(2)); fit for keys and ids. */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

void random_bytes(void *ret_bytes, size_t length);
uint64_t random_u64(void);

/* `length` random lower-case hex digits and a NUL; ret_text holds length + 1 bytes. */
void random_hex(char *ret_text, size_t length);

#endif
