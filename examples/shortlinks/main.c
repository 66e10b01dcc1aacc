/*
 * Short links: POST an address, get a name for it; GET the name, be led there.
 *
 *     link/NAME              the address
 *     made/CLIENT/MINUTE     how many links a client made in a minute; gone after two
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "blixard.h"

enum { ADDRESS_MAX = 2048, NAME_LENGTH = 7, KEY_MAX = 256, TRIES = 5 };

static void answer(int status, const char *text)
{
    blixard_response_status(status);
    blixard_response_header("Content-Type", "text/plain; charset=utf-8");
    blixard_response_text(text);
    blixard_response_text("\n");
}

static void fail(const char *what)
{
    blixard_log_with(BLIXARD_ERROR, what, "why", blixard_error(), NULL);
    answer(500, "something failed here; try again");
}

/* ---- How many a client may make ---- */

static int allowed_per_minute(void)
{
    char text[16] = "";
    blixard_request_get("LINKS_PER_MINUTE", text, sizeof(text));
    return text[0] != '\0' ? atoi(text) : 10;
}

/* Count one more for the client: its number in this minute, or negative. */
static int32_t count_one(void)
{
    char client[128] = "";
    char key[KEY_MAX];
    char count[16];
    uint64_t revision = 0;
    blixard_request_get("REMOTE_ADDR", client, sizeof(client));
    snprintf(key, sizeof(key), "made/%s/%lld", client, (long long)time(NULL) / 60);
    for (;;) {
        int32_t length = blixard_kv_get(key, count, sizeof(count) - 1, &revision);
        if (length < 0 && length != -ENOENT) {
            return length;
        }
        count[length > 0 ? length : 0] = '\0';
        int32_t next = atoi(count) + 1;
        snprintf(count, sizeof(count), "%d", (int)next);
        int32_t r =
            blixard_kv_cas(key, count, strlen(count), 120000, length < 0 ? 0 : revision, NULL);
        if (r != -EBUSY) {
            return r < 0 ? r : next;
        }
    }
}

/* ---- Links ---- */

/* No letters that look alike: a name may be read out. */
static bool make_name(char name[NAME_LENGTH + 1])
{
    static const char letters[] = "23456789abcdefghjkmnpqrstuvwxyz";
    unsigned char bytes[NAME_LENGTH];
    if (getentropy(bytes, sizeof(bytes)) < 0) {
        return false;
    }
    for (int i = 0; i < NAME_LENGTH; i++) {
        name[i] = letters[bytes[i] % (sizeof(letters) - 1)];
    }
    name[NAME_LENGTH] = '\0';
    return true;
}

/* Under a name that nobody has: 0, or negative. */
static int32_t keep(const char *address, char name[NAME_LENGTH + 1])
{
    int32_t r = -EIO;
    for (int i = 0; i < TRIES && make_name(name); i++) {
        char key[KEY_MAX];
        snprintf(key, sizeof(key), "link/%s", name);
        r = blixard_kv_cas(key, address, strlen(address), 0, 0, NULL);
        if (r != -EBUSY) {
            break;
        }
    }
    return r;
}

/* An address is one line of printable ASCII, which may go into a header field. */
static bool is_address(const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        if (*at <= ' ' || *at > '~') {
            return false;
        }
    }
    return strncmp(text, "https://", 8) == 0 || strncmp(text, "http://", 7) == 0;
}

static size_t read_address(char address[ADDRESS_MAX + 1])
{
    size_t used = 0;
    int32_t got = 1;
    while (got > 0 && used < ADDRESS_MAX) {
        got = blixard_request_read(address + used, ADDRESS_MAX - used);
        used += got > 0 ? (size_t)got : 0;
    }
    while (used > 0 && (address[used - 1] == '\n' || address[used - 1] == '\r')) {
        used--;
    }
    address[used] = '\0';
    return used;
}

static void make_link(void)
{
    char address[ADDRESS_MAX + 1];
    char name[NAME_LENGTH + 1];
    char place[512] = "";
    if (read_address(address) == ADDRESS_MAX || !is_address(address)) {
        answer(400, "the body is to be an address: http://... or https://...");
        return;
    }
    int32_t made = count_one();
    if (made > allowed_per_minute()) {
        blixard_response_header("Retry-After", "60");
        answer(429, "too many new links; try again in a minute");
        return;
    }
    if (made < 0 || keep(address, name) < 0) {
        fail("a link was not made");
        return;
    }
    blixard_log_with(BLIXARD_INFO, "made", "name", name, "address", address, NULL);
    blixard_request_get("SCRIPT_NAME", place, sizeof(place) - sizeof(name) - 1);
    strcat(place, "/");
    strcat(place, name);
    blixard_response_header("Location", place);
    answer(201, name);
}

static void lead(const char *name)
{
    char key[KEY_MAX];
    char address[ADDRESS_MAX + 1];
    snprintf(key, sizeof(key), "link/%s", name);
    int32_t length = blixard_kv_get(key, address, ADDRESS_MAX, NULL);
    if (length == -ENOENT || length == -EINVAL) {
        answer(404, "there is no such link");
        return;
    }
    if (length < 0 || length > ADDRESS_MAX) {
        fail("a link was not read");
        return;
    }
    address[length] = '\0';
    blixard_response_status(302);
    blixard_response_header("Location", address);
}

BLIXARD_HANDLER
{
    char method[16] = "";
    char path[KEY_MAX] = "";
    blixard_request_get("REQUEST_METHOD", method, sizeof(method));
    int32_t path_length = blixard_request_get("PATH_INFO", path, sizeof(path) - 8);
    bool has_name = path_length > 1 && path_length < KEY_MAX - 8;
    if (strcmp(method, "POST") == 0 && path_length <= 1) {
        make_link();
    } else if (strcmp(method, "GET") == 0 && has_name) {
        lead(path + 1);
    } else {
        answer(404, "POST an address to make a link");
    }
}
