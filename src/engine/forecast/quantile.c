/* P-square: a quantile without its observations.  See forecast.h for the paper. */
#include <string.h>

#include "engine/forecast/parts.h"

static void begin(struct p2 *p2, double quantile, double value)
{
    size_t at = (size_t)p2->count;
    while (at > 0 && p2->height[at - 1] > value) {
        p2->height[at] = p2->height[at - 1];
        at--;
    }
    p2->height[at] = value;
    p2->count++;
    for (size_t i = 0; i < 5; i++) {
        p2->position[i] = (double)i + 1;
    }
    p2->wanted[0] = 1;
    p2->wanted[1] = 1 + 2 * quantile;
    p2->wanted[2] = 1 + 4 * quantile;
    p2->wanted[3] = 3 + 2 * quantile;
    p2->wanted[4] = 5;
}

static double parabolic(const struct p2 *p2, size_t i, double by)
{
    const double *n = p2->position;
    const double *q = p2->height;
    return q[i] +
        by / (n[i + 1] - n[i - 1]) *
        ((n[i] - n[i - 1] + by) * (q[i + 1] - q[i]) / (n[i + 1] - n[i]) +
         (n[i + 1] - n[i] - by) * (q[i] - q[i - 1]) / (n[i] - n[i - 1]));
}

static void move(struct p2 *p2, size_t i)
{
    double off = p2->wanted[i] - p2->position[i];
    bool up = off >= 1 && p2->position[i + 1] - p2->position[i] > 1;
    bool down = off <= -1 && p2->position[i - 1] - p2->position[i] < -1;
    if (!up && !down) {
        return;
    }
    double by = up ? 1 : -1;
    size_t beside = up ? i + 1 : i - 1;
    double height = parabolic(p2, i, by);
    if (height <= p2->height[i - 1] || height >= p2->height[i + 1]) {
        height = p2->height[i] +
            by * (p2->height[beside] - p2->height[i]) / (p2->position[beside] - p2->position[i]);
    }
    p2->height[i] = height;
    p2->position[i] += by;
}

void p2_add(struct p2 *p2, double quantile, double value)
{
    if (p2->count < 5) {
        begin(p2, quantile, value);
        return;
    }
    const double increments[5] = {0, quantile / 2, quantile, (1 + quantile) / 2, 1};
    size_t cell = 0;
    if (value < p2->height[0]) {
        p2->height[0] = value;
    } else if (value >= p2->height[4]) {
        p2->height[4] = value > p2->height[4] ? value : p2->height[4];
        cell = 3;
    } else {
        while (value >= p2->height[cell + 1]) {
            cell++;
        }
    }
    for (size_t i = cell + 1; i < 5; i++) {
        p2->position[i]++;
    }
    for (size_t i = 0; i < 5; i++) {
        p2->wanted[i] += increments[i];
    }
    for (size_t i = 1; i < 4; i++) {
        move(p2, i);
    }
    p2->count++;
}

double p2_value(const struct p2 *p2)
{
    if (p2->count == 0) {
        return 0;
    }
    return p2->count < 5 ? p2->height[p2->count - 1] : p2->height[2];
}
