/* Inside engine/hypervisor: the texts in a runner's share/microvm, for the fuzzer, too. */
#ifndef ENGINE_HYPERVISOR_RUNNER_H
#define ENGINE_HYPERVISOR_RUNNER_H

#include <stdbool.h>
#include <stddef.h>

struct error;
struct hypervisor_runner;

/* tap-interfaces: names, between spaces or newlines.  INVALID, UNSUPPORTED (too many). */
int runner_parse_taps(const char *text, size_t length, struct hypervisor_runner *runner,
                      struct error *err);

/* macvtap-interfaces: "NAME MAC LINK MODE", one in a line.  INVALID, UNSUPPORTED (too many). */
int runner_parse_macvtaps(const char *text, size_t length, struct hypervisor_runner *runner,
                          struct error *err);

/* pci-devices: addresses, "0000:01:00.0", between spaces or newlines.  INVALID, UNSUPPORTED. */
int runner_parse_devices(const char *text, size_t length, struct hypervisor_runner *runner,
                         struct error *err);

/* tap-flags: words; "multi_queue" is one of them.  Others, which a newer one may have, are not
 * ours to know. */
bool runner_has_queues(const char *text, size_t length);

/* vsock-cid: a number, or nothing.  INVALID. */
int runner_parse_cid(const char *text, size_t length, struct hypervisor_runner *runner,
                     struct error *err);

/* A text of one line, perhaps with its newline, of printable letters; `what` names it.  INVALID. */
int runner_parse_line(const char *text, size_t length, const char *what, char *ret_line,
                      size_t size, struct error *err);

#endif
