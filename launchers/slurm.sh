#!/usr/bin/env bash
# One MultiKD + MBLM run on two nodes of eight GPUs. Submit with: sbatch launchers/slurm.sh xnli-xlmr-mblm [key=value ...]
#SBATCH --job-name=mbkd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=mbkd-%j.log
#SBATCH --open-mode=append
# --signal: two minutes before the time limit, every rank writes a checkpoint and exits. DeepSpeed's launcher also gets
# the signal and kills ranks after 30 s. The run then resumes from the previous checkpoint, at most 10 minutes older.
# --requeue: after a preemption, the same job starts again and resumes from the checkpoint.
set -euo pipefail

RUNS=${RUNS:-$PWD/runs}   # a folder shared by all nodes
GPUS=${SLURM_GPUS_ON_NODE:-8}
HOSTS=$(mktemp "$PWD/hostfile.XXXXXX")
trap 'rm -f "$HOSTS"' EXIT
scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/ slots=$GPUS/" > "$HOSTS"
MASTER=$(head -n 1 "$HOSTS" | cut -d ' ' -f 1)
export HOSTS MASTER RUNS

# One task per node starts the ranks of the node without ssh. The inner shell expands the variables on its node.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
    exec deepspeed --hostfile "$HOSTS" --no_ssh --node_rank "$SLURM_NODEID" \
        --master_addr "$MASTER" --master_port $((20000 + SLURM_JOB_ID % 10000)) \
        launchers/distill.py "$@" --runs "$RUNS"
' mbkd "$@"
