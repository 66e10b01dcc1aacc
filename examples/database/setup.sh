#!/bin/sh
# Puts PostgreSQL's data on the volume, once; in the machine.
set -e
systemctl is-system-running --wait >/dev/null || true
systemctl stop postgresql
chown postgres:postgres /var/lib/postgresql
rm -rf /etc/postgresql/15/main /var/lib/postgresql/15
pg_createcluster 15 main --start-conf auto >/dev/null
systemctl start postgresql@15-main
