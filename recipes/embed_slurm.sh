#!/bin/bash
# Embed an atlas with many jobs that share the work out:  sbatch recipes/embed_slurm.sh
# Each job of the array is a worker; they may start and end at any time, and be put back into the
# queue. Needs cellscribe in the environment that sbatch is called from, and a file system that all
# nodes share (or SOURCES and OUT in a bucket). Written after Slurm's manual and not yet run on a
# cluster; a test runs two of its tasks at once as plain processes on one folder.
#SBATCH --job-name=embed-atlas
#SBATCH --array=0-63
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
set -euo pipefail

sources=${SOURCES:-atlas/}
out=${OUT:-vectors}
model=${MODEL:-mini} # the bundled model, or a model's folder

# The status of a worker is 1 where sources failed: they are listed, and another run tries them.
exec cellscribe embed "$sources" -o "$out" --model "$model"
