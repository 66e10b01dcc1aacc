/* The CLI and the daemon in one program. */
#include <stdio.h>

int main(void)
{
    puts("blixard " BLIXARD_VERSION);
    return 0;
}
