/* The body in capitals: the smallest function that does something, for measuring what surrounds it.
 */
#include <unistd.h>

__attribute__((export_name("handle"))) void handle(void)
{
    char text[4096];
    ssize_t length = read(STDIN_FILENO, text, sizeof(text));
    for (ssize_t i = 0; i < length; i++) {
        if (text[i] >= 'a' && text[i] <= 'z') {
            text[i] = (char)(text[i] - 'a' + 'A');
        }
    }
    if (length < 0 || write(STDOUT_FILENO, text, (size_t)length) != length) {
        __builtin_trap();
    }
}
