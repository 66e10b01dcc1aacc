/*
 * Random bytes without leaving the guest: ChaCha20 (RFC 8439, 2.3) keyed by the seed the host gives
 * each call, so that two instances of one snapshot never draw the same.
 */
#include <string.h>

#include "guest.h"

static uint32_t state[16];
static uint8_t block[64];
static uint32_t block_used;

void random_begin(void)
{
    state[0] = 0x61707865;
    state[1] = 0x3320646e;
    state[2] = 0x79622d32;
    state[3] = 0x6b206574;
    memcpy(&state[4], (const uint8_t *)BLOCK->random_seed, 32);
    state[12] = state[13] = state[14] = state[15] = 0;
    block_used = sizeof(block);
}

static uint32_t rotate(uint32_t x, int n)
{
    return x << n | x >> (32 - n);
}

static void quarter(uint32_t *x, int a, int b, int c, int d)
{
    x[a] += x[b];
    x[d] = rotate(x[d] ^ x[a], 16);
    x[c] += x[d];
    x[b] = rotate(x[b] ^ x[c], 12);
    x[a] += x[b];
    x[d] = rotate(x[d] ^ x[a], 8);
    x[c] += x[d];
    x[b] = rotate(x[b] ^ x[c], 7);
}

static void next_block(void)
{
    uint32_t x[16];
    memcpy(x, state, sizeof(x));
    for (int i = 0; i < 10; i++) {
        quarter(x, 0, 4, 8, 12);
        quarter(x, 1, 5, 9, 13);
        quarter(x, 2, 6, 10, 14);
        quarter(x, 3, 7, 11, 15);
        quarter(x, 0, 5, 10, 15);
        quarter(x, 1, 6, 11, 12);
        quarter(x, 2, 7, 8, 13);
        quarter(x, 3, 4, 9, 14);
    }
    for (int i = 0; i < 16; i++) {
        x[i] += state[i];
    }
    memcpy(block, x, sizeof(block));
    block_used = 0;
    if (++state[12] == 0) {
        state[13]++;
    }
}

void random_fill(uint8_t *bytes, size_t length)
{
    while (length > 0) {
        if (block_used == sizeof(block)) {
            next_block();
        }
        size_t count = sizeof(block) - block_used;
        count = count < length ? count : length;
        memcpy(bytes, block + block_used, count);
        memset(block + block_used, 0, count);
        block_used += (uint32_t)count;
        bytes += count;
        length -= count;
    }
}
