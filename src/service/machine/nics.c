/* Interfaces of a machine: as its VMM has them, and as its guest is told to set them up. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"

#include "service/machine/parts.h"

/* ---- For the VMM ---- */

static void add_user_nic(const struct machine *machine, struct nics *nics)
{
    const json_t *published = json_object_get(machine->config, "publish");
    struct error ignored = {0};
    struct hypervisor_nic *nic = &nics->list[0];
    settings_mac(machine->id, nics->mac);
    nics->count = 1;
    *nic = (struct hypervisor_nic){.mac = nics->mac, .forwards = nics->forwards};
    for (size_t i = 0; i < json_array_size(published) && i < MACHINE_PUBLISHED_MAX; i++) {
        if (settings_parse_publish(json_string_value(json_array_get(published, i)),
                                   &nics->forwards[i], nics->addresses[i], &ignored) == 0) {
            nic->forward_count++;
        }
    }
}

/* In a network it is the packet filter that publishes ports. */
int nics_describe(const struct machine *machine, struct nics *ret_nics, struct error *err)
{
    int r = network_nics(machine->service->options.networks, machine->id, ret_nics->taps,
                         &ret_nics->count, err);
    for (size_t i = 0; i < ret_nics->count; i++) {
        ret_nics->list[i] = (struct hypervisor_nic){.mac = ret_nics->taps[i].mac_text,
                                                    .tap = ret_nics->taps[i].tap};
    }
    if (r == 0 && ret_nics->count == 0) {
        add_user_nic(machine, ret_nics);
    }
    return r;
}

/* ---- For the guest ---- */

/* The user-mode network of QEMU is always the same: 10.0.2.15, by way of 10.0.2.2. */
static void describe_user_network(const struct machine *machine, struct nics_guest *guest)
{
    struct network_nic *nic = &guest->nics[0];
    settings_mac(machine->id, nic->mac_text);
    settings_mac_bytes(machine->id, nic->mac);
    snprintf(nic->address, sizeof(nic->address), "10.0.2.15/24");
    snprintf(nic->gateway, sizeof(nic->gateway), "10.0.2.2");
    snprintf(nic->server, sizeof(nic->server), "10.0.2.3");
}

int nics_describe_guest(const struct machine *machine, struct nics_guest *ret_guest,
                        struct error *err)
{
    static const char *const names[NETWORK_NICS_MAX] = {"eth0", "eth1", "eth2", "eth3"};
    static const char *const none[] = {NULL};
    struct nics_guest *guest = ret_guest;
    size_t count = 0;
    *guest = (struct nics_guest){0};
    int r = network_nics(machine->service->options.networks, machine->id, guest->nics, &count, err);
    if (r < 0) {
        return r;
    }
    bool is_user = count == 0;
    if (is_user) {
        describe_user_network(machine, guest);
        count = 1;
    }
    snprintf(guest->route, sizeof(guest->route), "default via %s", guest->nics[0].gateway);
    guest->routes[0] = guest->nics[0].gateway[0] != '\0' ? guest->route : NULL;
    guest->servers[0] = guest->nics[0].server;
    snprintf(guest->search, sizeof(guest->search), "%.63s.vm.internal", machine->project);
    guest->searches[0] = guest->search;
    for (size_t i = 0; i < count; i++) {
        guest->addresses[i][0] = guest->nics[i].address;
        guest->interfaces[i] = (struct agent_interface){.name = names[i],
                                                        .mtu = guest->nics[i].mtu,
                                                        .addresses = guest->addresses[i],
                                                        .routes = i == 0 ? guest->routes : none};
        memcpy(guest->interfaces[i].mac, guest->nics[i].mac, sizeof(guest->nics[i].mac));
    }
    guest->network = (struct agent_network){
        .hostname = json_text(machine->config, "hostname"),
        .nameservers = guest->servers,
        .searches = is_user ? NULL : guest->searches,
        .interfaces = guest->interfaces,
        .interface_count = count,
    };
    return 0;
}
