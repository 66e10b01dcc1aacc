#!/bin/sh
# Puts PostgreSQL's data on the volume, once; in the machine.
set -e
# The machine counts as running from its first process on; systemd begins then.
until systemctl is-system-running --wait 2>/dev/null | grep -Eq 'running|degraded'; do sleep 1; done
systemctl stop postgresql
chown postgres:postgres /var/lib/postgresql
rm -rf /etc/postgresql/15/main /var/lib/postgresql/15
pg_createcluster 15 main --start-conf auto >/dev/null
systemctl start postgresql@15-main
