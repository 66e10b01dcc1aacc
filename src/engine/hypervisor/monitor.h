/*
 * The monitor: a small process beside each machine's VMM, which outlives the daemon.
 *
 * It confines and starts the VMM, keeps its console, and writes down how it ended; what conmon and
 * containerd-shim are to containers.  It reads FOLDER/launch.json (launch.c), goes into the
 * background once the VMM was executed, and ends when the VMM has:
 *
 *   FOLDER/lock          held as long as it lives; its content is "MONITOR-PID VMM-PID\n"
 *   FOLDER/SOCKET        each of `sockets`: listening, given to the VMM as fds 3, 4, ...; its taps
 * as 7, 8, ... FOLDER/console.sock  see console.h FOLDER/console.log   the newest output, with
 * console.log.1 at most CONSOLE_LOG_BYTES each FOLDER/exit.json     {"code": N, "signal": N,
 * "at_ms": N, "text": "last words on stderr"}
 *
 * The folder belongs to the monitor's user: the VMM, which a guest may have taken over, cannot
 * write in it.  SIGTERM kills the VMM; so does the death of the monitor, however it came.
 */
#ifndef ENGINE_HYPERVISOR_MONITOR_H
#define ENGINE_HYPERVISOR_MONITOR_H

/* argv: the folder.  Returns when the VMM runs (0) or could not be started (1, with the reason on
 * standard error); the child that it leaves behind never returns. */
int monitor_main(int argc, char **argv);

#endif
