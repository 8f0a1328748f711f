#!/bin/sh
# Open MPI on the hosts of a file ("node1 slots=2", one a line), one rank a slot.
#
#   deploy/mpi/train.sh hosts --hook powersgd --epochs 20
#
# mpirun does not say where rank 0 runs: it is the first host of the file.
# PYHOOK is the command, on a path that all hosts see.
set -eu
hosts=$1
shift
MASTER_ADDR=$(awk '!/^#/ && NF { print $1; exit }' "$hosts")
MASTER_PORT=${MASTER_PORT:-29500}
export MASTER_ADDR MASTER_PORT
exec mpirun --hostfile "$hosts" --bind-to none -x MASTER_ADDR -x MASTER_PORT -x OMP_NUM_THREADS=1 \
	"${PYHOOK:-pyhook}" train "$@"
