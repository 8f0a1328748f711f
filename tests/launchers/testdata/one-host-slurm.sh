#!/usr/bin/env bash
# Start a Slurm of this host alone, with two nodes that are both this one, run a command in it, and
# stop it. Nothing is left and nothing of the system's is touched: munge, slurmctld and slurmd have
# their own keys, sockets, ports and folders. Needs root, and Debian's slurm-wlm and munge.
#
# usage: one-host-slurm.sh COMMAND...
set -euo pipefail

# In a process namespace of its own: whatever was started ends with this script.
if [[ $$ != 1 ]]; then
	exec unshare --pid --fork --kill-child --mount-proc "$0" "$@"
fi
folder=$(mktemp -d)
trap 'kill -KILL -1; rm -rf "$folder"' EXIT

# port prints a free one.
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

# serve COMMAND... starts a daemon, in the foreground mode.
serve() { "$@" >>"$folder/$1.out" 2>&1 & }

dd if=/dev/urandom of="$folder/munge.key" bs=64 count=1 status=none
chmod 400 "$folder/munge.key"
serve munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
	--pid-file="$folder/munge.pid" --log-file="$folder/munge.log" --seed-file="$folder/munge.seed"

host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf
cat >"$SLURM_CONF" <<CONF
ClusterName=one-host
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(port)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
NodeName=127.0.0.1 NodeHostname=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=100 Port=$(port)
NodeName=127.0.0.2 NodeHostname=$host NodeAddr=127.0.0.2 CPUs=2 RealMemory=100 Port=$(port)
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
mkdir "$folder/state"
serve slurmctld -D
serve slurmd -D -N 127.0.0.1
serve slurmd -D -N 127.0.0.2

for ((i = 0; i < 300; i++)); do
	if [[ $(sinfo -h -o '%t %D' 2>/dev/null) == "idle 2" ]]; then
		"$@"
		exit
	fi
	sleep 0.1
done
echo "Slurm did not start" >&2
tail -n 20 "$folder"/*.out >&2
exit 1
