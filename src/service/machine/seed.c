/*
 * The seed of a machine: a small read-only disk named "cidata", from which cloud-init learns who
 * the machine is (its data source NoCloud): meta-data, user-data, network-config, and as
 * vendor-data a script that starts the agent which lies there, too.
 *
 * User-data may hold passwords: it is in FOLDER/user-data and on this disk, both readable by the
 * daemon and the machine's VMM alone, and nowhere in the state.
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/iso.h"

#include "service/machine/content.h"
#include "service/machine/parts.h"

enum {
    FILE_MODE = 0644,
    PROGRAM_MODE = 0755,
    USER_DATA_MAX = 64 << 10,
    KEYS_MAX = 32,
    KEY_BYTES_MAX = 8192,
};

/* A boot hook runs at each boot and early, and stands beside whatever the user-data says.  /run may
 * forbid programs. */
static const char start_agent[] =
    "#cloud-boothook\n"
    "#!/bin/sh\n"
    "# Starts the agent of the node that runs this machine, unless it began the machine.\n"
    "[ -d /run/blixard ] && exit 0\n"
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

/* ---- Settings ---- */

/* A line of authorized_keys, as sshd(8) has it, without options. */
static bool is_key(const char *key)
{
    static const char *const kinds[] = {"ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"};
    bool is_known = false;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        is_known = is_known || text_starts_with(key, kinds[i]);
    }
    return is_known && strlen(key) <= KEY_BYTES_MAX && text_is_printable(key) &&
        strchr(key, ' ') != NULL;
}

static int check_keys(const json_t *keys, struct error *err)
{
    size_t index = 0;
    json_t *value = NULL;
    if (json_array_size(keys) > KEYS_MAX) {
        return error_set(err, ERROR_INVALID, "ssh_keys: at most %d", KEYS_MAX);
    }
    json_array_foreach(keys, index, value)
    {
        const char *key = json_string_value(value);
        if (key == NULL || !is_key(key)) {
            return error_set(err, ERROR_INVALID,
                             "ssh_keys: \"%.40s\" is no public key as `ssh-keygen` writes it "
                             "(ssh-ed25519 AAAA... NAME)",
                             key != NULL ? key : "");
        }
    }
    return 0;
}

void seed_wipe(char **user_data)
{
    if (*user_data != NULL) {
        explicit_bzero(*user_data, strlen(*user_data));
        free(*user_data);
        *user_data = NULL;
    }
}

int seed_take_settings(json_t *config, char **ret_user_data, struct error *err)
{
    char digest[HASH_TEXT_SIZE];
    const char *user = json_text(config, "user_data");
    size_t length = strlen(user);
    *ret_user_data = NULL;
    if (length > USER_DATA_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "user_data has more than %d KiB",
                         USER_DATA_MAX >> 10);
    }
    if (length > 0 && !text_starts_with(user, "#") && !text_starts_with(user, "Content-Type:") &&
        !text_starts_with(user, "MIME-Version:")) {
        return error_set(err, ERROR_INVALID,
                         "user_data begins with #cloud-config, #!, #include or as a MIME message: "
                         "cloud-init takes nothing else");
    }
    if (length > 0) {
        hash_bytes(user, length, digest);
        *ret_user_data = memory_copy_string(user);
        json_object_set_new(config, "user_data_digest", json_string(digest));
        json_object_set_new(config, "user_data_bytes", json_integer((json_int_t)length));
    }
    json_object_del(config, "user_data");
    int r = check_keys(json_object_get(config, "ssh_keys"), err);
    if (r < 0) {
        seed_wipe(ret_user_data);
    }
    return r;
}

int seed_keep(const struct machine_service *service, const char *id, const char *user_data,
              struct error *err)
{
    MEMORY_OWNED char *folder = memory_format("%s/new/%s", service->folder, id);
    MEMORY_OWNED char *path = memory_format("%s/" CONTENT_USER, folder);
    int r = file_make_folder(folder, 0711, err);
    return r < 0 ? r : file_write(path, user_data, strlen(user_data), 0600, err);
}

void seed_sweep(struct machine_service *service)
{
    MEMORY_OWNED char *above = memory_format("%s/new", service->folder);
    DIR *folder = opendir(above);
    const struct dirent *entry = NULL;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        MEMORY_OWNED char *place = memory_format("%s/%s", above, entry->d_name);
        MEMORY_OWNED char *path = memory_format("%s/" CONTENT_USER, place);
        MEMORY_OWNED char *laid_out = memory_format("%s/" CONTENT_MANIFEST, place);
        if (entry->d_name[0] != '.' && state_find_id(service, entry->d_name) == NULL &&
            !file_exists(laid_out)) { /* else a clone's: its rows may be on their way */
            unlink(path);
            rmdir(place);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

/* ---- The disk ---- */

bool seed_is_wanted(const json_t *config)
{
    return json_text(config, "disk")[0] != '\0' || json_text(config, "user_data_digest")[0] != '\0';
}

/* JSON is YAML. */
static char *write_meta_data(const struct machine *machine, const json_t *config)
{
    JSON_OWNED json_t *meta = json_pack("{s:s, s:s}", "instance-id", machine->id, "local-hostname",
                                        json_text(config, "hostname"));
    json_t *keys = json_object_get(config, "ssh_keys");
    if (json_array_size(keys) > 0) {
        json_object_set(meta, "public-keys", keys);
    }
    return json_dumps(meta, JSON_INDENT(2));
}

/* Every network of ours has DHCP.  Where the machine's own agent sets the network, cloud-init
 * leaves it alone. */
static const char *network_of(const json_t *config)
{
    return json_text(config, "disk")[0] == '\0'
        ? "{\"config\": \"disabled\"}\n"
        : "{\"version\": 2, \"ethernets\": {\"all\": {\"match\": {\"name\": \"e*\"}, "
          "\"dhcp4\": true}}}\n";
}

int seed_write(const struct machine *machine, const json_t *config, struct error *err)
{
    BUFFER_OWNED struct buffer agent = {0};
    BUFFER_WIPED struct buffer user = {0};
    BUFFER_WIPED struct buffer iso = {0};
    MEMORY_OWNED char *meta = write_meta_data(machine, config);
    const char *network = network_of(config);
    MEMORY_OWNED char *path = memory_format("%s/" SEED_FILE, machine->folder);
    MEMORY_OWNED char *given = memory_format("%s/" CONTENT_USER, machine->folder);
    int r = disk_read_agent(machine->service, &agent, err);
    if (r < 0) {
        return r;
    }
    if (file_exists(given)) {
        r = file_read(given, USER_DATA_MAX, &user, err);
    } else if (json_text(config, "user_data_digest")[0] == '\0' ||
               json_text(config, "origin")[0] != '\0') {
        buffer_append_string(&user, "#cloud-config\n{}\n");
    } else {
        r = error_set(err, ERROR_CORRUPT,
                      "its user-data is lost (the node ended as it was made): delete the machine "
                      "and create it again");
    }
    if (r < 0) {
        return r;
    }
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
