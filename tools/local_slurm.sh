#!/usr/bin/env bash
# A small Slurm on this machine, to try and test what runs on a cluster: one controller, and two nodes
# (slurmd -N) on the loopback interface, each with the cores that it is told.
#
#   apt-get install slurmctld slurmd slurm-client munge
#   tools/local_slurm.sh start /tmp/slurm      # as root; then: export SLURM_CONF=/tmp/slurm/slurm.conf
#   tools/local_slurm.sh stop /tmp/slurm
#
# Nothing outside of the folder is written. CPUS=2 gives each node two cores, however many there are.
# SRUN_FOLDER names the folder of srun if it is not on the PATH.
set -euo pipefail

command="${1:?start or stop}"
folder="$(mkdir -p "${2:?a folder}" && cd "$2" && pwd)"
cpus="${CPUS:-1}"
host="$(hostname -s)"

stop() {
    for pid in "$folder"/*.pid; do
        [ -e "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
        rm -f "$pid"
    done
}

if [ "$command" = stop ]; then
    stop
    exit
fi
[ "$command" = start ] || { echo "start or stop, not $command" >&2; exit 2; }

for program in munged slurmctld slurmd; do
    command -v "$program" >/dev/null || { echo "$program: not installed" >&2; exit 1; }
done

mkdir -p "$folder"/{state,spool-1,spool-2}
chmod 755 "$folder"
if [ ! -e "$folder/munge.key" ]; then
    head -c 1024 /dev/urandom >"$folder/munge.key"
    chmod 400 "$folder/munge.key"
fi
cat >"$folder/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdLogFile=$folder/slurmd-%n.log
SlurmdSpoolDir=$folder/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=$cpus RealMemory=1000
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=$cpus RealMemory=1000
PartitionName=short Nodes=node1,node2 Default=YES MaxTime=60 State=UP
CONF

stop
export SLURM_CONF="$folder/slurm.conf"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
slurmctld -c
PATH="${SRUN_FOLDER:+$SRUN_FOLDER:}$PATH" slurmd -N node1
PATH="${SRUN_FOLDER:+$SRUN_FOLDER:}$PATH" slurmd -N node2

for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%T 2>/dev/null | sort -u)" = idle ]; then
        sinfo
        exit
    fi
    sleep 0.5
done
echo "the nodes are not idle after 30 s; $folder/*.log may say why" >&2
exit 1
