/* Devices of nodes, as the engine is told of them. */
#include <string.h>

#include "engine/device/device.h"

#include "service/placement/parts.h"

#include "test/lib/test.h"

static const char two_gpus[] =
    "[{\"address\": \"0000:01:00.0\", \"class\": \"gpu\", \"model\": \"10de:2204\", \"problem\": "
    "\"\"}, {\"address\": \"0000:02:00.0\", \"class\": \"network\", \"model\": \"8086:154c\", "
    "\"problem\": \"driver iavf has it, not vfio-pci\"}, {\"address\": \"0000:03:00.0\", "
    "\"class\": "
    "\"gpu\", \"model\": \"10de:2204\", \"problem\": \"\"}, {\"address\": \"0000:04:00.0\", "
    "\"class\": "
    "\"gpu\", \"model\": \"1002:73bf\", \"problem\": \"\"}]";

static const char one_nic[] =
    "[{\"address\": \"0000:01:00.0\", \"class\": \"network\", \"model\": \"8086:154c\", "
    "\"problem\": \"\"}]";

/* One port is the beginning of another one's name. */
static const char two_ports[] =
    "[{\"address\": \"usb:1-2\", \"class\": \"usb:serial\", \"model\": \"usb:0403:6001\", "
    "\"problem\": \"\"}, {\"address\": \"usb:1-2.1\", \"class\": \"usb:serial\", \"model\": "
    "\"usb:0403:6001\", \"problem\": \"\"}]";

static size_t take(struct placement_service *service, const char *node, const char *text,
                   struct placement_device *kinds)
{
    JSON_OWNED json_t *list = NULL;
    struct error err = {0};
    EXPECT(json_read(text, strlen(text), &list, &err) == 0);
    size_t count = devices_take(service, node, list, kinds);
    for (size_t i = 0; i < count; i++) { /* lent from the list */
        kinds[i].class_name = NULL;
        kinds[i].model = NULL;
    }
    return count;
}

static void done(struct placement_service *service)
{
    free(map_get(&service->devices, "one"));
    free(map_get(&service->devices, "two"));
    map_done(&service->devices);
}

/*
 * Goal: what a node has given away is counted by class and model, and what a machine has there is
 * found by its address, whatever else it names; a node whose devices have changed has all machines
 * counted anew.
 * Method: three graphics cards of two models, and a network card that its host has.
 */
TEST(placement_devices, are_counted_by_model_and_found_by_address)
{
    struct placement_service service = {0};
    struct placement_device kinds[PLACEMENT_DEVICE_KINDS_MAX] = {0};
    struct placement_grant_device devices[DEVICE_LIST_MAX];
    struct placement_grant grant = {0};
    EXPECT(take(&service, "one", two_gpus, kinds) == 2);
    EXPECT(kinds[0].count == 2 && kinds[1].count == 1);
    EXPECT(!service.is_all_stale);
    devices_grant(&service, "one", "0000:03:00.0,0000:04:00.0,0000:09:00.0", devices, &grant);
    EXPECT(grant.device_count == 2);
    EXPECT(devices[0].kind == 0 && devices[0].index == 1);
    EXPECT(devices[1].kind == 1 && devices[1].index == 0);
    devices_grant(&service, "one", "", devices, &grant);
    EXPECT(grant.device_count == 0);
    devices_grant(&service, "elsewhere", "0000:03:00.0", devices, &grant);
    EXPECT(grant.device_count == 0);
    memset(kinds, 0, sizeof(kinds));
    EXPECT(take(&service, "one", two_gpus, kinds) == 2);
    EXPECT(!service.is_all_stale);
    memset(kinds, 0, sizeof(kinds));
    EXPECT(take(&service, "one", one_nic, kinds) == 1);
    EXPECT(service.is_all_stale);
    done(&service);
}

/*
 * Goal: a device is found by its whole address.
 * Method: a machine has one of two, whose addresses begin alike, among others.
 */
TEST(placement_devices, an_address_is_the_whole_of_it)
{
    static const char *const has[] = {"usb:1-2.1", "usb:1-2", "usb:1-22,usb:1-2.1",
                                      "usb:1-2.1,usb:1-2"};
    static const size_t counts[] = {1, 1, 1, 2};
    struct placement_service service = {0};
    struct placement_device kinds[PLACEMENT_DEVICE_KINDS_MAX] = {0};
    struct placement_grant_device devices[DEVICE_LIST_MAX];
    struct placement_grant grant = {0};
    EXPECT(take(&service, "one", two_ports, kinds) == 1);
    EXPECT(kinds[0].count == 2);
    for (size_t i = 0; i < sizeof(has) / sizeof(has[0]); i++) {
        devices_grant(&service, "one", has[i], devices, &grant);
        EXPECT(grant.device_count == counts[i]);
        EXPECT(i == 3 || devices[0].index == (i == 1 ? 0 : 1));
    }
    done(&service);
}

/*
 * Goal: a class is asked for as it is; of a model the engine is told the class that it has; what
 * nobody has is asked for under its own name, which no node has.
 * Method: two nodes, and an ask of each kind.
 */
TEST(placement_devices, a_model_is_asked_for_in_its_class)
{
    struct placement_service service = {0};
    struct placement_device kinds[PLACEMENT_DEVICE_KINDS_MAX] = {0};
    struct asked *asked = NEW(struct asked);
    JSON_OWNED json_t *config =
        json_pack("{s:[s, s, s]}", "devices", "gpu=2", "8086:154c", "1234:5678");
    const struct asked_of of = {.project = "p", .name = "m", .config = config};
    take(&service, "one", two_gpus, kinds);
    memset(kinds, 0, sizeof(kinds));
    take(&service, "two", one_nic, kinds);
    devices_ask(asked, &service, &of, NULL);
    const struct placement_demand *demand = &asked->request.demand;
    EXPECT(demand->device_count == 3);
    EXPECT_STRING(demand->devices[0].class_name, "gpu");
    EXPECT_STRING(demand->devices[0].models, "");
    EXPECT(demand->devices[0].count == 2);
    EXPECT_STRING(demand->devices[1].class_name, "network");
    EXPECT_STRING(demand->devices[1].models, "8086:154c");
    EXPECT_STRING(demand->devices[2].class_name, "1234:5678");
    free(asked);
    done(&service);
}
