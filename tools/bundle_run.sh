#!/usr/bin/env bash
# Runs what `make bundle` packed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export FLASHMLA_GOLDEN_DIR=$here/golden FLASHMLA_REQUIRE_GPU=1

case ${1:-} in
test)
    shift
    # One test at a time: several measure the device as a whole.
    exec "$here/bin/gpu_tests" --test-threads=1 "$@"
    ;;
sanitize)
    status=0
    for tool in memcheck racecheck initcheck synccheck; do
        echo "== compute-sanitizer --tool $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$here/bin/gpu_tests" --test-threads=1 sanitize_ || status=1
    done
    exit $status
    ;;
examples)
    status=0
    for program in "$here"/bin/0*; do
        "$program"
        code=$?
        echo "$(basename "$program"): exit $code"
        [ $code -eq 0 ] || [ $code -eq 77 ] || status=1
    done
    exit $status
    ;;
bench)
    shift
    exec "$here/bin/bench" "$@"
    ;;
host_cost)
    # By turns, several times: the figures of one process depend on where its memory came to lie.
    for _ in 1 2 3 4 5; do
        "$here/bin/host_cost" && "$here/bin/host_cost_go" || exit 1
    done
    ;;
go)
    shift
    # From here: what compares the package with the source tree skips.
    cd "$here" && exec "$here/bin/go_tests" -test.v "$@"
    ;;
replay)
    shift
    exec "$here/bin/replay" "$@"
    ;;
*)
    echo "usage: $0 test [FILTER] | sanitize | examples | bench OPTIONS | host_cost | go OPTIONS | replay OPTIONS" >&2
    exit 2
    ;;
esac
