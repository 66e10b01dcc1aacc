/* Markdown to HTML.  See markdown.c. */
#ifndef MARKDOWN_H
#define MARKDOWN_H

#include <stddef.h>

struct html {
    char *data;
    size_t used;
    size_t size;
};

/* Append the HTML of `text` to *html (start with a zeroed one; data is from malloc). */
void markdown_render(const char *text, size_t length, struct html *html);

#endif
