#!/bin/sh
# In the first machine, once: PostgreSQL's data on the volume, open to the network's replicas.
# usage: primary.sh             the replicas' password on standard input
set -e
read -r password
# The machine counts as running from its first process on; systemd begins then.
until systemctl is-system-running --wait 2>/dev/null | grep -Eq 'running|degraded'; do sleep 1; done
systemctl stop postgresql
chown postgres:postgres /var/lib/postgresql
rm -rf /etc/postgresql/15/main /var/lib/postgresql/15
pg_createcluster 15 main --start-conf auto >/dev/null
pg_conftool 15 main set listen_addresses '*'
pg_conftool 15 main set wal_keep_size 256MB
echo "host replication replica samenet scram-sha-256" >>/etc/postgresql/15/main/pg_hba.conf
echo "host all all samenet scram-sha-256" >>/etc/postgresql/15/main/pg_hba.conf
systemctl start postgresql@15-main
cd /
printf "create role replica login replication password '%s';\n" "$password" | runuser -u postgres -- psql -qX
