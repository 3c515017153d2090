#!/usr/bin/env bash
# Runs every test that this machine can run and ends with the counts. Tests that need a GPU report
# themselves with a line `SKIP name`, and count as skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
logs=$target/tests
mkdir -p "$logs"
passed=0 failed=0 skipped=0

# Adds up the closing lines of libtest ("test result: ok. 3 passed; 0 failed; 1 ignored; ...").
count_cargo() {
    local p f s i
    p=$(sed -n 's/^test result:.* \([0-9]*\) passed;.*/\1/p' "$1" | awk "{n += \$1} END {print n + 0}")
    f=$(sed -n 's/^test result:.* \([0-9]*\) failed;.*/\1/p' "$1" | awk "{n += \$1} END {print n + 0}")
    i=$(sed -n 's/^test result:.* \([0-9]*\) ignored;.*/\1/p' "$1" | awk "{n += \$1} END {print n + 0}")
    s=$(grep -c '^SKIP ' "$1")
    passed=$((passed + ${p:-0} - s)) failed=$((failed + ${f:-0})) skipped=$((skipped + s + ${i:-0}))
}

run() {
    local name=$1 log=$logs/$1.log
    shift
    echo "== $name"
    "$@" 2>&1 | tee "$log"
    return "${PIPESTATUS[0]}"
}

status=0
if ! run cargo cargo test --release --no-fail-fast; then
    status=1
fi
count_cargo "$logs/cargo.log"
# A test program that did not build or that crashed closes with no line.
if [ $status -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi

# The GPU suite's cases on the CPU backend: the same shapes, edges and references. What only a device has skips.
if run cpu_backend env FLASHMLA_TEST_BACKEND=cpu cargo test --release --test gpu -- --test-threads=1; then :; else status=1; fi
count_cargo "$logs/cpu_backend.log"

if run examples tools/examples.sh test; then :; else status=1; fi
counts=$(sed -n 's/.*% tests passed, \([0-9]*\) tests failed out of \([0-9]*\).*/\1 \2/p' "$logs/examples.log")
if [ -n "$counts" ]; then
    read -r f n <<<"$counts"
    s=$(grep -c '\*\*\*Skipped' "$logs/examples.log")
    passed=$((passed + n - f - s)) failed=$((failed + f)) skipped=$((skipped + s))
else
    failed=$((failed + 1))
fi

# Ends with counts of its own.
if run go tests/go.sh; then :; else status=1; fi
counts=$(sed -n 's/^go: \([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$logs/go.log")
read -r p f s <<<"${counts:-0 1 0}"
passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))

if run docs tests/docs.sh; then
    if grep -q '^SKIP ' "$logs/docs.log"; then skipped=$((skipped + 1)); else passed=$((passed + 1)); fi
else
    failed=$((failed + 1)) status=1
fi

if run install tests/install.sh; then passed=$((passed + 1)); else failed=$((failed + 1)) status=1; fi
skipped=$((skipped + $(grep -c '^SKIP ' "$logs/install.log")))

echo
echo "$passed passed, $failed failed, $skipped skipped"
[ $status -eq 0 ] && [ "$failed" -eq 0 ]
