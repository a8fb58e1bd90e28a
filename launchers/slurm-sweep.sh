#!/usr/bin/env bash
# A sweep over all GPUs of four nodes: a Ray cluster inside a Slurm job.
# Submit with: sbatch launchers/slurm-sweep.sh main --on xnli-mbert --protocol confirm
#SBATCH --job-name=mbkd-sweep
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=48:00:00
#SBATCH --requeue
#SBATCH --output=mbkd-sweep-%j.log
#SBATCH --open-mode=append
# --requeue: after a preemption, the job starts again and runs what is left.
set -euo pipefail

RUNS=${RUNS:-$PWD/runs}   # a folder shared by all nodes
PORT=${PORT:-6379}
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ADDRESS=$(srun --nodes=1 --ntasks=1 --nodelist="$HEAD" hostname --ip-address | cut -d ' ' -f 1)

# One Ray node per machine. The Ray nodes end with the job.
srun --nodes=1 --ntasks=1 --nodelist="$HEAD" \
    ray start --head --node-ip-address="$ADDRESS" --port="$PORT" --include-dashboard=false --block &
sleep 20
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$HEAD" \
        ray start --address="$ADDRESS:$PORT" --block &
    sleep 20
fi

srun --overlap --nodes=1 --ntasks=1 --nodelist="$HEAD" \
    python -m tuning.sweep "$@" --runs "$RUNS" --address "$ADDRESS:$PORT"
