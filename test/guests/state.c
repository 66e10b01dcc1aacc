/*
 * Remembers all it can, and says what it remembers: a counter in a global, marks in static, stack,
 * heap and grown memory, random bytes.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int global = 7;
static uint8_t field[300000];
static int was_constructed;

__attribute__((constructor)) static void construct(void)
{
    was_constructed++;
}

int main(void)
{
    unsigned marks = 0;
    for (size_t i = 0; i < sizeof(field); i++) {
        marks += field[i] != 0;
    }
    memset(field, 0xa5, sizeof(field));

    size_t pages = __builtin_wasm_memory_grow(0, 40);
    uint8_t *grown = (uint8_t *)(pages * 65536);
    unsigned grown_marks = 0;
    for (size_t i = 0; i < 40 * 65536; i += 64) {
        grown_marks += grown[i] != 0;
        grown[i] = 0xa5;
    }
    uint8_t random[8];
    arc4random_buf(random, sizeof(random));
    printf("global %d marks %u grown %u pages %zu constructed %d\n", global, marks, grown_marks,
           pages, was_constructed);
    for (size_t i = 0; i < sizeof(random); i++) {
        fprintf(stderr, "%02x", random[i]);
    }
    global += 1;
    return 0;
}
