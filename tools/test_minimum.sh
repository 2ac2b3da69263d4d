#!/bin/sh
# Runs the tests in .venv-minimum, an environment with the lowest versions that pyproject.toml allows, direct and
# indirect, and compares the weights that it trains with those of .venv, the environment with the newest versions.
#   tools/test_minimum.sh [PYTEST-ARGS]
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."
newest=.venv/bin
minimum=.venv-minimum/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Tools of the tests, as old as they can be, because newer ones need newer packages beside them.
cat >"$work/tools.in" <<'END'
duckdb>=1.0
hatchling>=1.27
jsonschema>=4.20
pip>=22.3
pytest>=8.2
pytest-timeout>=2.3
END
# Wheels only: the sources of old releases may not compile. Packages that declare no usable floor have theirs in a file.
version=$($newest/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$newest/uv pip compile -q --resolution lowest --only-binary :all: --no-header --no-annotate --python-version "$version" \
    --extra all --constraints tools/minimum-constraints.txt --output-file "$work/minimum.txt" \
    pyproject.toml "$work/tools.in" >/dev/null
[ -x $minimum/python ] || $newest/uv venv -q --python $newest/python .venv-minimum
$newest/uv pip sync -q --python $minimum/python "$work/minimum.txt"
$newest/uv pip install -q --python $minimum/python --no-deps -e .

for engine in native torch; do
    for bin in $newest $minimum; do
        $bin/modelzoo-generate fashion-mnist-5k-cnn-s/hyp --models 1-4 --epochs 2 --engine $engine --threads 1 \
            --quiet --out "$work/zoo"
        (cd "$work/zoo" && find . -name '*.safetensors' | sort | xargs sha256sum) >"$work/${bin%/bin}-$engine"
        rm -rf "$work/zoo"
    done
    cmp "$work/.venv-$engine" "$work/.venv-minimum-$engine"
    echo "test_minimum: $(wc -l <"$work/.venv-$engine") files of weights of the $engine engine equal the newest versions'"
done
# Old packages use what newer ones of their dependencies, or Python, have deprecated.
exec $minimum/python -m pytest -W ignore::DeprecationWarning -W ignore::FutureWarning "$@"
