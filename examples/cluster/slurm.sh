#!/bin/bash
# A study on Slurm: a Ray cluster over the job's nodes, with hpt on the first.  sbatch slurm.sh
# Wanted: a Python environment and this folder on a file system that all nodes see, and a PostgreSQL database.
#SBATCH --job-name=hpt
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the end hpt is told to stop, so that the next job goes on.
#SBATCH --signal=B:TERM@120

set -euo pipefail
umask 077

STUDY=digits-on-ray
HERE=${HPT_FOLDER:-$SLURM_SUBMIT_DIR} # study.yaml and train.py
export AGENTIC_HPT_HOME=${AGENTIC_HPT_HOME:-$HERE/hpt-home} # seen by all nodes, at this path
: "${AGENTIC_HPT_LEDGER:?set it to postgresql://user:password@host/database}"

# Whoever reaches the ports of a Ray runs code as you: only those who have the token are let in.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HERE/.ray-token-$SLURM_JOB_ID
python -c "import secrets; print(secrets.token_hex(32), end='')" > "$RAY_AUTH_TOKEN_PATH"
export RAY_USAGE_STATS_ENABLED=0

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${NODES[0]} # the batch script's own node
IP=$(hostname --ip-address | awk '{print $1}')
PORT=$((20000 + SLURM_JOB_ID % 10000)) # another job may have a head on this node, too
export RAY_ADDRESS=$IP:$PORT
CPUS=$SLURM_CPUS_PER_TASK
GPUS=${SLURM_GPUS_ON_NODE:-0}

on() { # NODE COMMAND...: run a command on a node, beside what else runs there
    local node=$1
    shift
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" "$@"
}

clean_up() {
    jobs -p | xargs --no-run-if-empty kill 2> /dev/null || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap clean_up EXIT

# The folder is short, since the paths of sockets in it can't be long.
on "$HEAD" env -u RAY_ADDRESS ray start --head --block --node-ip-address="$IP" --port="$PORT" \
    --include-dashboard=false --num-cpus="$CPUS" --num-gpus="$GPUS" --temp-dir="/tmp/ray-$SLURM_JOB_ID" &
up() { ray status > /dev/null 2>&1; }
for _ in $(seq 60); do
    if up; then break; fi
    sleep 2
done
up || { echo "Ray's head did not come up" >&2; exit 1; }
for node in "${NODES[@]:1}"; do
    on "$node" ray start --block --address="$RAY_ADDRESS" --num-cpus="$CPUS" --num-gpus="$GPUS" &
done

cd "$HERE"
if hpt status "$STUDY" > /dev/null 2>&1; then # a job that was requeued goes on
    hpt resume "$STUDY" &
else
    # Said here, since nodes may still be on their way.
    hpt run study.yaml --parallel $((CPUS * SLURM_JOB_NUM_NODES)) &
fi
HPT=$!
trap 'kill -TERM $HPT' TERM
STATUS=0
wait $HPT || STATUS=$?
while kill -0 $HPT 2> /dev/null; do # a wait ends with the signal, but hpt ends its trials first
    wait $HPT && STATUS=0 || STATUS=$?
done
if [ "$STATUS" -eq 3 ]; then # stopped with work left
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$STATUS"
