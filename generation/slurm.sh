#!/bin/sh
# Train a zoo with Slurm: an array of jobs trains its models in parts, then one job makes the zoo folder of them.
#
#   sh generation/slurm.sh RECIPE/CONFIG OUT [options of modelzoo-generate]
#   PARTS=40 CPUS=8 SBATCH_TIMELIMIT=4:00:00 sh generation/slurm.sh mnist-cnn-s/seed /shared/zoos/mnist-cnn-s/seed
#
# PARTS     jobs of the array, 10 if not set; so many that each takes minutes to hours
# CPUS      cores of each job, 4 if not set
# GENERATE  the command on the nodes, modelzoo-generate if not set
#
# What sbatch itself reads from the environment holds for all jobs: SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_TIMELIMIT.
# All nodes must see OUT and OUT.cohorts beside it, where results wait (or another place: --results), the images
# (--images-root; have them there before, where nodes are without a network) and the same installation.
#
# After a failure, a time limit or scancel: run the same line again. What was trained is neither lost nor repeated.
set -eu

usage() {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
    exit 2
}

case ${1-} in
cohort | collect) # within a job: sbatch runs a copy of this script
    step=$1 recipe=$2 out=$3
    shift 3
    set -- "$recipe" --out "$out" --threads "$SLURM_CPUS_PER_TASK" "$@"
    [ "$step" = collect ] || set -- "$@" --cohort "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
    exec "${GENERATE:-modelzoo-generate}" "$@"
    ;;
-* | '') usage >&2 ;;
esac
[ $# -ge 2 ] || usage >&2

cpus=${CPUS:-4}
array=$(sbatch --parsable --job-name=modelzoo --array="1-${PARTS:-10}" --cpus-per-task="$cpus" "$0" cohort "$@")
array=${array%%;*} # without the name of the cluster
last=$(sbatch --parsable --job-name=modelzoo-collect --dependency="afterok:$array" --kill-on-invalid-dep=yes \
    --cpus-per-task="$cpus" "$0" collect "$@")
echo "array $array trains $1 in ${PARTS:-10} parts, then job ${last%%;*} writes $2"
