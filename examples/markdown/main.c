/*
 * A function that renders Markdown: POST a document, get a page.
 *
 * A command: the request's body is standard input, the answer standard output, with CGI header
 * lines before it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "markdown.h"

static const char head[] = "Content-Type: text/html; charset=utf-8\n\n";

static char *read_all(size_t *ret_length)
{
    size_t size = 65536;
    size_t used = 0;
    char *data = malloc(size);
    for (;;) {
        ssize_t got = data != NULL ? read(STDIN_FILENO, data + used, size - used) : -1;
        if (got < 0) {
            fputs("<3>reading the document failed\n", stderr);
            exit(EXIT_FAILURE);
        }
        if (got == 0) {
            *ret_length = used;
            return data;
        }
        used += (size_t)got;
        if (used == size) {
            size *= 2;
            data = realloc(data, size);
        }
    }
}

int main(void)
{
    size_t length = 0;
    char *text = read_all(&length);
    struct html html = {0};
    markdown_render(text, length, &html);

    fprintf(stderr, "rendered %zu bytes of Markdown to %zu bytes of HTML\n", length, html.used);
    fwrite(head, 1, sizeof(head) - 1, stdout);
    fwrite(html.data, 1, html.used, stdout);
    free(html.data);
    free(text);
    return EXIT_SUCCESS;
}
