#!/bin/sh
# What is to be known of the engine `cuda` on this machine's GPU, in less than ten minutes: see gpu.py.
#
#     sh benchmarks/gpu.sh --out DIR      on a GPU
#     sh benchmarks/gpu.sh --dry-run      tiny sizes on the CPU, to see that it runs: its numbers mean nothing
#
# PYTHON=/path/to/python chooses the interpreter; the project's own by default.
folder=$(dirname "$0")
exec "${PYTHON:-$folder/../.venv/bin/python}" "$folder/gpu.py" "$@"
