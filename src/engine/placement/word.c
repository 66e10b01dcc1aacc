/* Words: every text of attributes exists once, so that comparing is comparing addresses. */
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

struct word *word_get(struct placement_cluster *cluster, const char *text)
{
    struct word *word = map_get(&cluster->words, text);
    if (word == NULL) {
        size_t length = strlen(text);
        word = memory_new(1, sizeof(*word) + length + 1);
        memcpy(word->text, text, length + 1);
        map_set(&cluster->words, text, word);
    }
    word->refs++;
    return word;
}

struct word *word_find(const struct placement_cluster *cluster, const char *text, size_t length)
{
    return map_get_text(&cluster->words, text, length);
}

struct word *word_ref(struct word *word)
{
    if (word != NULL) {
        CHECK(word->refs > 0);
        word->refs++;
    }
    return word;
}

void word_unref(struct placement_cluster *cluster, struct word *word)
{
    if (word != NULL && --word->refs == 0) {
        map_remove(&cluster->words, word->text);
        free(word);
    }
}
