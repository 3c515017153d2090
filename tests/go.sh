#!/usr/bin/env bash
# Tests of bindings/go: gofmt, go vet, go test with the race detector and without, on the CPU backend and with the
# fake driver; and the example's server under the race detector. Ends with the counts.
set -uo pipefail
cd "$(dirname "$0")/.."
if ! go=$(tools/find_go.sh 2>&1); then
    echo "SKIP go skipped: $go"
    echo "go: 0 passed, 0 failed, 1 skipped"
    exit 0
fi
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

# No other Go, no modules from elsewhere, no variables of a user's own.
export GOTOOLCHAIN=local GOPROXY=off GOWORK=off GOFLAGS=-buildvcs=false
unset CGO_CFLAGS CGO_LDFLAGS LD_LIBRARY_PATH

# Go's build cache takes no notice of what pkg-config says, nor of headers: always the same folder, and a macro that
# changes with the header.
stage=$root/target/tests/go_stage
rm -rf "$stage"
make --no-print-directory install DESTDIR="$stage" PREFIX=/flashmla >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
lib=$stage/flashmla/lib
CGO_CFLAGS="-O2 -g -DHEADER_$(cksum <include/flashmla.h | tr ' ' _)"
export CGO_CFLAGS
if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$lib/pkgconfig
else
    export GOFLAGS="$GOFLAGS -tags=flashmla_by_hand" CGO_CFLAGS="$CGO_CFLAGS -I$stage/flashmla/include" CGO_LDFLAGS="-L$lib"
fi

# count NAME COMMAND...: a test that passes if the command does.
count() {
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        echo "ok $name"
        passed=$((passed + 1))
    else
        cat "$work/log"
        echo "FAILED $name"
        failed=$((failed + 1))
    fi
}
# tests NAME COMMAND...: counts the tests that a `go test -v` or a test program reports.
tests() {
    local name=$1 code p f s
    shift
    "$@" >"$work/log" 2>&1
    code=$?
    p=$(grep -c '^ *--- PASS' "$work/log") f=$(grep -c '^ *--- FAIL' "$work/log") s=$(grep -c '^ *--- SKIP' "$work/log")
    # One that did not build, crashed, or tested nothing has no such line.
    if [ $code -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    if [ $((p + f + s)) -eq 0 ]; then f=1; fi
    if [ "$f" -ne 0 ]; then cat "$work/log"; fi
    echo "$name: $p passed, $f failed, $s skipped"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

formatted() {
    local files
    files=$("$("$go" env GOROOT)/bin/gofmt" -l "$root"/{bindings,examples,tests,tools}) && echo "$files" && [ -z "$files" ]
}
count gofmt formatted

cd bindings/go || exit 1
export LD_LIBRARY_PATH=$lib
count vet "$go" vet ./...
for program in examples tools/host_cost_go; do
    count "vet $program" "$go" -C "$root/$program" vet ./...
done
count doc "$go" doc -all .
tests "go test" "$go" test -count=1 -v -skip '^TestFake' ./...
# The detector is not there for every platform, and may be missing from a distribution's Go.
if "$go" test -race -run '^$' ./... >"$work/log" 2>&1; then
    tests "go test -race" "$go" test -race -count=1 -v -skip '^TestFake' ./...
    count "example 05 -race" "$go" -C "$root/examples" run -race ./05_go_server
else
    tail -n 3 "$work/log"
    echo "go test -race skipped: this Go comes without the race detector"
    skipped=$((skipped + 1))
fi

# What a GPU would answer, by a driver that launches nothing. (A library without kernels skips.)
mkdir "$work/fake"
count "fake driver" ${CC:-cc} -std=c11 -shared -fPIC -pthread -o "$work/fake/libcuda.so.1" "$root/tests/fake_driver/libcuda_fake.c"
count "test program" "$go" test -c -o "$work/go_tests" .
export LD_LIBRARY_PATH=$lib:$work/fake
tests "fake driver: GPU and launches" env FLASHMLA_FAKE_DRIVER=1 "$work/go_tests" -test.v -test.run 'TestGPU|TestFakeLaunches'
tests "fake driver: a failure" env FLASHMLA_FAKE_DRIVER=1 FAKE_CUDA_FAIL=cuLaunchKernelEx:1:700 \
    "$work/go_tests" -test.v -test.run TestFakeFailure

echo "go: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
