#!/bin/bash
# Second moments with GNU parallel: on this machine, or on several that share a folder.
#
#   MODEL=./llama-2-7b LAYERS=4,5,6,7,8 CORPUS=./wikipedia TOKENS=1000000 SHARDS=8 OUT=./shards docs/cluster/gnu-parallel.sh
#   ... docs/cluster/gnu-parallel.sh --sshlogin node1,node2 --wd .     # arguments go to parallel
#
# Started again after an interruption, it goes on: finished shards are left as they are.
set -euo pipefail

: "${MODEL:?}" "${LAYERS:?}" "${CORPUS:?}" "${TOKENS:?}" "${SHARDS:?}" "${OUT:?}"

mkdir -p "$OUT"
# The processes on a machine share its cores.
JOBS="${JOBS:-2}"
THREADS=$((($(nproc) + JOBS - 1) / JOBS))
parallel --jobs "$JOBS" --retries 3 --halt soon,fail=1 --quote "$@" \
    env RAYON_NUM_THREADS="$THREADS" \
    easyedit stats --model "$MODEL" --layers "$LAYERS" --corpus "$CORPUS" --tokens "$TOKENS" \
    --shard "{}/$SHARDS" --out "$OUT/shard-{}.sums" \
    < <(seq "$SHARDS")
easyedit stats merge "$OUT"/shard-*.sums
