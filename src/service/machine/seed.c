/*
 * The seed of a machine: a small read-only disk named "cidata", from which cloud-init learns who
 * the machine is (its data source NoCloud): meta-data, user-data, network-config, and as
 * vendor-data a script that starts the agent which lies there, too.
 *
 * User-data may hold passwords: it is in FOLDER/user-data and on this disk, both readable by the
 * daemon and the machine's VMM alone, and nowhere in the state.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/image/iso.h"

#include "service/machine/parts.h"

enum { FILE_MODE = 0644, PROGRAM_MODE = 0755 };

/* A boot hook runs at each boot and early, and stands beside whatever the user-data says.  /run may
 * forbid programs. */
static const char start_agent[] =
    "#cloud-boothook\n"
    "#!/bin/sh\n"
    "# Starts the agent of the node that runs this machine.\n"
    "[ -e /dev/virtio-ports/blixard.agent ] || modprobe -q virtio_console\n"
    "place=/run/blixard-seed\n"
    "mkdir -p \"$place\"\n"
    "mount -o ro LABEL=cidata \"$place\" || mount -o ro LABEL=CIDATA \"$place\" || exit 0\n"
    "install -D -m 0755 \"$place/blixard-agent\" /usr/local/sbin/blixard-agent\n"
    "umount \"$place\"\n"
    "if command -v systemd-run >/dev/null 2>&1; then\n"
    "    systemctl is-active --quiet blixard-agent ||\n"
    "        systemd-run --quiet --no-block --unit=blixard-agent -p Restart=always "
    "-p DefaultDependencies=no /usr/local/sbin/blixard-agent\n"
    "else\n"
    "    setsid /usr/local/sbin/blixard-agent </dev/null >/dev/null 2>&1 &\n"
    "fi\n"
    "exit 0\n";

bool seed_is_wanted(const json_t *config)
{
    return settings_text(config, "disk")[0] != '\0' ||
        settings_text(config, "user_data_digest")[0] != '\0';
}

/* JSON is YAML. */
static char *write_meta_data(const struct machine *machine, const json_t *config)
{
    JSON_OWNED json_t *meta = json_pack("{s:s, s:s}", "instance-id", machine->id, "local-hostname",
                                        settings_text(config, "hostname"));
    json_t *keys = json_object_get(config, "ssh_keys");
    if (json_array_size(keys) > 0) {
        json_object_set(meta, "public-keys", keys);
    }
    return json_dumps(meta, JSON_INDENT(2));
}

/* The network of user mode has DHCP. */
static char *write_network(const struct machine *machine)
{
    char mac[18];
    settings_mac(machine->id, mac);
    JSON_OWNED json_t *network = json_pack("{s:i, s:{s:{s:{s:s}, s:b}}}", "version", 2, "ethernets",
                                           "nic0", "match", "macaddress", mac, "dhcp4", 1);
    return json_dumps(network, JSON_INDENT(2));
}

int seed_write(const struct machine *machine, const json_t *config, struct error *err)
{
    BUFFER_OWNED struct buffer agent = {0};
    BUFFER_OWNED struct buffer user = {0};
    BUFFER_OWNED struct buffer iso = {0};
    MEMORY_OWNED char *meta = write_meta_data(machine, config);
    MEMORY_OWNED char *network = write_network(machine);
    MEMORY_OWNED char *path = memory_format("%s/" SEED_FILE, machine->folder);
    int r = disk_read_agent(machine->service, &agent, err);
    if (r < 0) {
        return r;
    }
    buffer_append_string(&user, "#cloud-config\n{}\n");
    const struct iso_file files[] = {
        {"meta-data", meta, strlen(meta), FILE_MODE},
        {"user-data", user.data, user.used, FILE_MODE},
        {"vendor-data", start_agent, sizeof(start_agent) - 1, FILE_MODE},
        {"network-config", network, strlen(network), FILE_MODE},
        {"blixard-agent", agent.data, agent.used, PROGRAM_MODE},
    };
    r = iso_write("cidata", files, sizeof(files) / sizeof(files[0]), &iso, err);
    r = r < 0 ? r : file_write(path, iso.data, iso.used, 0600, err);
    return r < 0 ? r : disk_give(machine, path, err);
}
