#!/usr/bin/env bash
# Builds the examples against the library in target/release and runs them: `demo` the main one, `test`
# all of them under ctest, `build FOLDER` none, into FOLDER, for machines with nothing but a C library.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
tools=$PWD/target/toolchain/tools
export PATH="$PATH:$tools/bin" PYTHONPATH="$tools${PYTHONPATH:+:$PYTHONPATH}"
build=$target/examples

generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
portable=OFF
[ "${1:-}" != build ] || portable=ON
cmake -S examples -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DFLASHMLA_PORTABLE=$portable \
    -DTENSORRT_ROOT="${TENSORRT_ROOT:-}" -DFLASHMLA_ROOT="$PWD" -DFLASHMLA_LIB_DIR="$(realpath "$target/release")" >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
cmake --build "$build" >>"$build.log" 2>&1 || { cat "$build.log"; exit 1; }

case ${1:-} in
demo) exec "$build/01_dense_decode" ;;
test) ctest --test-dir "$build" --output-on-failure ;;
build)
    mkdir -p "$2" && cp "$build"/0* "$build"/host_cost* "$2"/
    # Where there is Go.
    [ ! -e "$build/go_tests" ] || cp "$build/go_tests" "$2"/
    ;;
*) echo "usage: $0 demo | test | build FOLDER" >&2; exit 2 ;;
esac
