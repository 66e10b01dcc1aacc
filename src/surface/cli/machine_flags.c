/* Long lists of flags, of machines and their images: see verbs.c. */
#include "surface/cli/private.h"

/* Where a machine may be: of `vm create` and `vm set`. */
#define RULES(end)                                                                                \
    {"constraint", 0, "RULE", NULL,                                                               \
     "What its node must be: zone=a, label.disk=ssd, attr.cpus>=8, distinct_hosts; may be given " \
     "several times" end},                                                                        \
        {"affinity", 0, "WEIGHT RULE", NULL,                                                      \
         "What its node had better be, -100 to 100: '50 label.disk=ssd'; may be given several "   \
         "times" end},                                                                            \
        {"spread", 0, "[WEIGHT] ATTRIBUTE [VALUE=PERCENT ...]", NULL,                             \
         "Over what its set is spread: zone, rack, 'zone a=60 b=40'; may be given several "       \
         "times" end},                                                                            \
        {"placement-group", 0, "GROUP", NULL, "The placement group that it is in" end},           \
        {"toleration", 0, "KEY[=VALUE][:EFFECT]", NULL,                                           \
         "A taint of nodes that it bears; may be given several times" end},                       \
        {"node-pool", 0, "POOL", NULL, "The pool of nodes that it is placed in" end},             \
        {"reservation", 0, "NAME", NULL,                                                          \
         "The reservation whose room it takes (see placement reserve)" end},                      \
        {"priority", 0, "0..100", NULL,                                                           \
         "Who waits for room gets it in this order, the highest first."},                         \
    {                                                                                             \
        "dedicated-cpus", 0, "yes|no", "yes no",                                                  \
            "Its CPUs are whole ones of its node, on which no other machine runs."                \
    }

const struct flag vm_create_flags[] = {
    {"image", 'i', "IMAGE", NULL, "The image it starts from."},
    {"runner", 0, "PATH", NULL,
     "Instead of an image: a microvm.nix runner on its node, as /nix/store/..-microvm-qemu-web."},
    {"flake", 'f', "REFERENCE#NAME", NULL,
     "Build the runner here of a NixOS configuration with microvm.nix, as .#web."},
    {"copy-to", 0, "STORE", NULL,
     "Copy what was built to this Nix store first: http://NODE:7430, ssh://root@NODE."},
    {"cpus", 'c', "COUNT", NULL, "Virtual CPUs (default 1)."},
    {"memory", 'm', "SIZE", NULL, "Memory (default 256MiB; with a runner 512MiB)."},
    {"huge-pages", 0, "SIZE", "2MiB 1GiB",
     "Its memory is of huge pages of this size, which its node has set aside."},
    {"disk", 'd', "SIZE", NULL, "What it may write over its image (default 8GiB)."},
    {"publish", 'p', "[ADDRESS:]HOST:GUEST[/udp]", NULL,
     "A port of the node that leads into it; may be given several times."},
    {"volume", 'v', "NAME[:PATH][:ro]", NULL,
     "A volume that it gets, and where that is mounted; may be given several times."},
    {"network", 'n', "NETWORK[,address=A][,mac=M][,group=G]", NULL,
     "A network that it is in, perhaps at a given address and in security groups; may be "
     "given several times (default: a user-mode network of its own)."},
    {"strategy", 's', "STRATEGY", "Always RerunOnFailure Once Manual Halted",
     "When it is started again (default RerunOnFailure)."},
    {"hostname", 0, "NAME", NULL, "Its host name (default: its name)."},
    {"entrypoint", 0, "WORD", NULL,
     "The program instead of the image's; its arguments by giving it again, or as COMMAND."},
    {"env", 'e', "NAME=VALUE", NULL, "A variable of that program; may be given several times."},
    {"device", 0, "WHAT[=COUNT]", NULL,
     "Devices of its node that it has whole: a class (gpu, nic, nvme, accelerator, usb:serial), "
     "VENDOR:DEVICE, usb:VENDOR:PRODUCT or an address; may be given several times."},
    {"share", 0, "FOLDER:PATH[:ro]", NULL,
     "A folder of the node in the machine, where the node allows it."},
    {"cpu-limit", 0, "PERCENT", NULL,
     "What it may use at most, in percent of one CPU: 150 is one and a half."},
    {"disk-iops", 0, "COUNT", NULL, "Reads and writes per second of its disk at most."},
    {"disk-bandwidth", 0, "SIZE/s", NULL,
     "Bytes per second that it reads and writes there at most, as in 20MiB/s."},
    {"disk-read-iops", 0, "COUNT", NULL, "Reads per second at most, instead of --disk-iops."},
    {"disk-write-iops", 0, "COUNT", NULL, "Writes per second at most."},
    {"disk-read-bandwidth", 0, "SIZE/s", NULL,
     "Bytes per second that it reads at most, instead of --disk-bandwidth."},
    {"disk-write-bandwidth", 0, "SIZE/s", NULL, "Bytes per second that it writes at most."},
    {"health", 0, "CHECK", NULL,
     "http://:PORT/PATH, tcp://:PORT, exec:COMMAND or agent: checked from inside."},
    {"health-interval", 0, "DURATION", NULL, "How often (default 30s)."},
    {"health-timeout", 0, "DURATION", NULL, "How long a check may take (default 5s)."},
    {"health-retries", 0, "COUNT", NULL,
     "So many bad ones in a row make it unhealthy (default 3)."},
    {"health-start-period", 0, "DURATION", NULL,
     "So long after its start they do not count (default 60s)."},
    {"health-action", 0, "ACTION", "restart none",
     "What is done when it is unhealthy (default restart)."},
    {"eviction-strategy", 0, "STRATEGY", "migrate restart none",
     "When its node is drained: it moves while it runs where it can (default), is stopped for it, "
     "or stays."},
    {"node-loss", 0, "WHAT", "wait restart-fresh",
     "When its node is lost: it waits for it, which has its disk (default), or starts elsewhere "
     "from its image with an empty disk: what it wrote is lost."},
    {"rebalance", 0, "WHETHER", "allow never", "Whether rebalancing moves it (default allow)."},
    {"after", 0, "NAME", NULL,
     "It starts when that machine runs and is healthy; may be given several times."},
    {"boot-timeout", 0, "DURATION", NULL,
     "When it is started anew if its agent has not spoken (default 180s)."},
    {"driver", 0, "DRIVER", "qemu cloud-hypervisor firecracker runner",
     "What runs it (default: the first that can)."},
    {"cmdline", 0, "WORDS", NULL, "More words for its kernel."},
    {"machine", 0, "TYPE", "microvm q35", "A microVM, or a PC (default: what the image needs)."},
    {"firmware", 0, "FIRMWARE", "bios uefi",
     "What the image's disk is booted by (default: as the image says)."},
    {"ssh-key", 0, "KEY", NULL,
     "A public key that may log in, or a file with one; may be given several times."},
    {"user-data", 0, "FILE", NULL, "What cloud-init in the machine is given."},
    {"node", 0, "NODE", NULL, "Where it is to run (default: a node that suits)."},
    RULES("."),
    {"count", 0, "COUNT", NULL, "So many: NAME-1, NAME-2, ..."},
    {"all-or-nothing", 0, NULL, NULL, "With --count: none is made unless all find room."},
    {"no-pending", 0, NULL, NULL, "One that fits nowhere now is refused, instead of waiting."},
    {"pending", 0, NULL, NULL, "It waits even for a driver that no node has."},
    {"no-wait", 0, NULL, NULL, "Print the operation's id instead of waiting for its end."},
    {NULL, 0, NULL, NULL, NULL},
};

const struct flag image_pull_flags[] = {
    {"name", 'n', "NAME", NULL, "What it is called here (default: the last of its names)."},
    {"username", 'u', "USER", NULL, "Who asks for it."},
    {"password-stdin", 0, NULL, NULL, "The password comes by standard input."},
    {"auth-file", 0, "FILE", NULL,
     "Logins, as docker login, podman login and skopeo login write them."},
    {"credentials", 0, "SECRET", NULL,
     "The node asks, with the logins that this secret has; nobody else sees them."},
    {"mirror", 0, "HOST[:PORT]", NULL, "A registry that is asked first."},
    {"ca", 0, "FILE", NULL, "Certificates to trust instead of the system's (PEM)."},
    {"insecure", 0, NULL, NULL, "Plain HTTP, with a registry on this machine."},
    {"kernel", 'k', "FILE", NULL, "The kernel it gets."},
    {"modules", 0, "FOLDER", NULL, "That kernel's lib/modules/VERSION."},
    {"kernel-image", 0, "IMAGE", NULL,
     "An image whose kernel it gets (default linux, made when it is missing)."},
    {"cmdline", 0, "WORDS", NULL, "Words for the kernel."},
    {NULL, 0, NULL, NULL, NULL},
};

const struct flag vm_set_flags[] = {
    {"strategy", 's', "STRATEGY", "Always RerunOnFailure Once Manual Halted",
     "When it is started again; at once."},
    {"publish", 'p', "[ADDRESS:]HOST:GUEST[/udp]", NULL,
     "A port of the node that leads into it, instead of those it has; may be given several times; "
     "none: no port."},
    {"huge-pages", 0, "SIZE", "2MiB 1GiB none",
     "Its memory is of huge pages of this size, from its next start on; none: of small ones."},
    {"cpu-limit", 0, "PERCENT", NULL,
     "What it may use at most, in percent of one CPU, from its next start on."},
    {"disk-iops", 0, "COUNT", NULL,
     "Reads and writes per second of its disk at most, from its next start on; 0: no limit."},
    {"disk-bandwidth", 0, "SIZE/s", NULL,
     "Bytes per second that it reads and writes there at most, from its next start on."},
    {"disk-read-iops", 0, "COUNT", NULL, "Reads per second at most, instead of --disk-iops."},
    {"disk-write-iops", 0, "COUNT", NULL, "Writes per second at most."},
    {"disk-read-bandwidth", 0, "SIZE/s", NULL,
     "Bytes per second that it reads at most, instead of --disk-bandwidth."},
    {"disk-write-bandwidth", 0, "SIZE/s", NULL, "Bytes per second that it writes at most."},
    {"boot-timeout", 0, "DURATION", NULL, "When it is started anew if its agent has not spoken."},
    {"health", 0, "CHECK", NULL,
     "http://:PORT/PATH, tcp://:PORT, exec:COMMAND or agent: checked from inside; none: nothing."},
    {"health-interval", 0, "DURATION", NULL, "How often."},
    {"health-timeout", 0, "DURATION", NULL, "How long a check may take."},
    {"health-retries", 0, "COUNT", NULL, "So many bad ones in a row make it unhealthy."},
    {"health-start-period", 0, "DURATION", NULL, "So long after its start they do not count."},
    {"health-action", 0, "ACTION", "restart none", "What is done when it is unhealthy."},
    RULES("; none: no such rule."),
    {"eviction-strategy", 0, "STRATEGY", "migrate restart none", "When its node is drained."},
    {"node-loss", 0, "WHAT", "wait restart-fresh", "When its node is lost."},
    {"rebalance", 0, "WHETHER", "allow never", "Whether rebalancing moves it."},
    {"restart", 0, NULL, NULL, "Start it again, if something takes effect only then."},
    {NULL, 0, NULL, NULL, NULL},
};
