#!/bin/sh
# Resolves this package with all of its extras but cuda beside the packages of other people's stacks, by uv, and writes
# the solutions, or the reason why there is none, to DIR: one file per package and version of Python.
#   tools/resolve_beside.sh DIR [PYPROJECT]
set -eu
out=$1
pyproject=${2:-pyproject.toml}
beside=$(mktemp)
trap 'rm -f "$beside"' EXIT
mkdir -p "$out"
while read -r python requirement; do
    name=$out/$(printf '%s' "$requirement" | tr -s '<>=' '-')-python-$python.txt
    echo "$requirement" >"$beside"
    {
        echo "# modelzoo-datasets[all] beside $requirement, Python $python on Linux"
        uv pip compile --quiet --no-header --no-annotate --color never --python-version "$python" \
            --python-platform x86_64-manylinux_2_28 --extra all "$pyproject" "$beside" 2>&1 || true
    } | sed "s|$beside|requirements.txt|g; s| *$||" >"$name"
    echo "$name"
done <<END
3.12 lerobot==0.6.1
3.11 vllm>=0.10
3.12 vllm>=0.10
3.12 vllm==0.10.0
3.11 mlflow>=3
3.12 mlflow>=3
3.12 mlflow==3.0.0
3.11 autogluon.tabular>=1.4
3.12 autogluon.tabular>=1.4
3.12 autogluon.tabular==1.4.0
END
