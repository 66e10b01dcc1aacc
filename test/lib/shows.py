"""A function that answers with its environment; ?head=life, cookie or cors adds fields to its answer; ?drains: it reads the body first.
X-Says: A: b|C: d adds these fields."""
import subprocess

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
extern char **environ;
int main(void)
{
    const char *query = getenv("QUERY_STRING");
    if (query != NULL && strcmp(query, "drains") == 0) {
        while (getchar() != EOF) {
        }
    }
    const char *head = query != NULL ? strstr(query, "head=") : NULL;
    printf("Content-Type: text/plain\r\n");
    if (head != NULL && strncmp(head + 5, "life", 4) == 0) {
        printf("Cache-Control: max-age=60\r\nETag: \"one\"\r\nVary: X-Kind\r\n");
    }
    if (head != NULL && strncmp(head + 5, "cookie", 6) == 0) {
        printf("Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n");
    }
    if (head != NULL && strncmp(head + 5, "cors", 4) == 0) {
        printf("Access-Control-Allow-Origin: *\r\n");
    }
    for (const char *says = getenv("HTTP_X_SAYS"); says != NULL && *says != '\0'; says++) {
        putchar(*says == '|' ? '\n' : *says);
        if (says[1] == '\0') {
            putchar('\n');
        }
    }
    printf("\r\n");
    for (char **at = environ; *at != NULL; at++) {
        puts(*at);
    }
    return 0;
}
"""


def compile_guest(folder):
    source, wasm = folder / "shows.c", folder / "shows.wasm"
    source.write_text(SOURCE)
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", wasm, source], check=True)
    return wasm
