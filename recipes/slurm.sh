#!/bin/bash
# Pre-train on several nodes, over as many jobs as it takes:  sbatch recipes/slurm.sh
# Needs cellscribe in the environment that sbatch is called from, and a file system that all nodes
# share. Written after the manuals of Slurm and torchrun; not yet run on a cluster.
#SBATCH --job-name=geneformer-10m
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# To the tasks and not to this shell (no B:). A TERM sent to srun itself would kill them unsaved.
#SBATCH --signal=TERM@120
set -euo pipefail

corpus=${CORPUS:-corpus}
run=${RUN:-runs/geneformer-10m}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
mkdir -p "$(dirname "$run")"
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / SLURM_GPUS_ON_NODE))
# How long torchrun lets ranks save before it kills them, where this torch has it.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100

newest() { find "$run/checkpoints" -mindepth 1 -maxdepth 1 -name '[0-9]*' 2>/dev/null | sort | tail -n 1; }
before=$(newest || true)

# Ranks must divide --lanes: 64 here. With 16 nodes of 8, begin with --lanes 128.
srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
  --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  -m cellscribe train --preset geneformer-10m --corpus "$corpus" -o "$run" --resume \
  || echo "torchrun ended with status $?"

if [ -e "$run/model/config.json" ]; then
  echo "finished: $run/model"
elif [ "$(newest || true)" != "$before" ]; then
  scontrol requeue "$SLURM_JOB_ID"
else
  echo "this job got no further than the one before: not queued again" >&2
  exit 1
fi
