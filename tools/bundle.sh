#!/usr/bin/env bash
# Makes target/bundle: all that a machine with a GPU, and without a toolchain, needs to run the GPU tests,
# the benchmark and the examples. `./run` in it says how.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
bundle=$target/bundle
rm -rf "$bundle"
mkdir -p "$bundle"/{lib,include,bin,golden,cases}

cargo build --release --example bench --example replay
cp "$target"/release/examples/{bench,replay} "$bundle/bin/"
# Cargo says in JSON where it put the test program.
tests=$(cargo test --release --test gpu --no-run --message-format=json |
    sed -n 's/.*"name":"gpu".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
cp "$tests" "$bundle/bin/gpu_tests"
tools/examples.sh build "$bundle/bin" >/dev/null
for program in "$bundle"/bin/{05_go_server,host_cost_go,go_tests}; do
    [ ! -e "$program" ] || strip "$program"
done
cp "$target/release/libflashmla.so" "$bundle/lib/libflashmla.so.0"
ln -s libflashmla.so.0 "$bundle/lib/libflashmla.so"
strip "$bundle"/bin/{bench,replay,gpu_tests} "$bundle/lib/libflashmla.so.0"
cp include/flashmla.h "$bundle/include/"
cp tests/golden/*.safetensors "$bundle/golden/"
cp tests/cases/*.jsonl "$bundle/cases/"
install -m 755 tools/bundle_run.sh "$bundle/run"

size=$(du -sm "$bundle" | cut -f1)
echo "$bundle: $size MB"
if [ "$size" -gt 48 ]; then
    echo "error: more than 48 MB" >&2
    exit 1
fi
