#!/bin/bash
# Second moments as a Slurm job array: one task a shard.
#
#   export MODEL=./llama-2-7b LAYERS=4,5,6,7,8 CORPUS=./wikipedia TOKENS=1000000 OUT=./shards
#   job=$(sbatch --parsable --array=1-8 docs/cluster/slurm-array.sh)
#   sbatch --dependency="afterok:$job" --wrap 'easyedit stats merge "$OUT"/shard-*.sums'
#
# A task that is preempted or runs out of time is requeued and goes on at its last checkpoint.
#SBATCH --job-name=easyedit-stats
#SBATCH --cpus-per-task=8
#SBATCH --mem=48G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

: "${MODEL:?}" "${LAYERS:?}" "${CORPUS:?}" "${TOKENS:?}" "${OUT:?}"
: "${SLURM_ARRAY_TASK_ID:?submit with --array=1-N}" "${SLURM_ARRAY_TASK_COUNT:?}"

mkdir -p "$OUT"
export RAYON_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
easyedit stats --model "$MODEL" --layers "$LAYERS" --corpus "$CORPUS" --tokens "$TOKENS" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --out "$OUT/shard-$SLURM_ARRAY_TASK_ID.sums"
