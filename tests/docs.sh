#!/usr/bin/env bash
# The API reference: doxygen makes it from the header and finds nothing to complain of; every function is in it. A
# header with something missing would be noticed.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v doxygen >/dev/null; then
    echo "SKIP docs skipped: no doxygen here"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "docs: $*" >&2; exit 1; }

tools/docs.sh "$work/docs"
while read -r symbol; do
    grep -q "<name>$symbol</name>" "$work"/docs/xml/*.xml || fail "$symbol is not in the reference"
done <tests/c/symbols.txt

# Undocumented members, and references that lead nowhere, are errors.
mkdir -p "$work/tree/include" "$work/tree/docs" "$work/tree/tools"
cp docs/* "$work/tree/docs/"
cp tools/docs.sh "$work/tree/tools/"
cp Cargo.toml "$work/tree/"
for change in '/^typedef struct flashmla_plan_t {/a\    int32_t undocumented;' 's|@file|@file\n * @see @ref nowhere|'; do
    sed "$change" include/flashmla.h >"$work/tree/include/flashmla.h"
    cmp -s include/flashmla.h "$work/tree/include/flashmla.h" && fail "nothing was changed by $change"
    if "$work/tree/tools/docs.sh" "$work/broken" >"$work/log" 2>&1; then fail "doxygen does not mind $change"; fi
done
echo "docs: ok"
