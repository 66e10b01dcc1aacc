/*
 * blixard-agent: the agent inside a Linux machine.
 *
 * As PID 1 it is the machine's init (in an initrd, as /init).  Otherwise it is a daemon, begun by
 * the init of a distribution: it finds its port by itself and needs no settings.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/version.h"

#include "guest/agent/private.h"

static const char usage[] =
    "usage: blixard-agent [--port DEVICE | --port-name NAME] [--listen SOCKET] [--no-vsock]\n"
    "\n"
    "Serves the host of this virtual machine: programs, files, disks, network, shutdown.\n"
    "As PID 1 it is the machine's init instead, and reads blixard.* from the kernel's command "
    "line.\n"
    "\n"
    "  --port-name NAME  the virtio-serial port's name (default: " AGENT_PORT ")\n"
    "  --port DEVICE     a device in its place\n"
    "  --listen SOCKET   a unix socket beside it\n"
    "  --no-vsock        do not listen on vsock\n"
    "  --version         say which version this is\n";

/* The server is begun again when it falls: it is the machine's only door. */
static int keep_serving(const struct serve_options *options)
{
    enum { PAUSE_US = 200000 };
    for (;;) {
        int status = 0;
        pid_t pid = serve_begin(options);
        if (pid < 0 || waitpid(pid, &status, 0) < 0) {
            return EXIT_FAILURE;
        }
        if (WIFEXITED(status)) {
            return WEXITSTATUS(status); /* it could not begin */
        }
        say("the server died of signal %d: begun again", WTERMSIG(status));
        usleep(PAUSE_US);
    }
}

int main(int argc, char **argv)
{
    struct serve_options options = {.port_name = AGENT_PORT, .has_vsock = true};
    bool once = false;
    shared_make();
    if (getpid() == 1) {
        return init_main(argv);
    }
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--version") == 0) {
            printf("blixard-agent %s\n", blixard_version);
            return EXIT_SUCCESS;
        }
        if (strcmp(argv[i], "--no-vsock") == 0) {
            options.has_vsock = false;
        } else if (strcmp(argv[i], "--once") == 0) {
            once = true;
        } else if (strcmp(argv[i], "--port") == 0 && has_value) {
            options.port = argv[++i];
            options.port_name = NULL;
        } else if (strcmp(argv[i], "--port-name") == 0 && has_value) {
            options.port_name = argv[++i];
        } else if (strcmp(argv[i], "--listen") == 0 && has_value) {
            options.listen = argv[++i];
        } else {
            bool is_asked = strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
            fputs(usage, is_asked ? stdout : stderr);
            return is_asked ? EXIT_SUCCESS : 64;
        }
    }
    return once ? serve(&options) : keep_serving(&options);
}
