#!/usr/bin/env bash
# Makes the API reference in a folder (target/docs); a warning of doxygen is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
FLASHMLA_DOCS=${1:-${CARGO_TARGET_DIR:-target}/docs}
FLASHMLA_VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
export FLASHMLA_DOCS FLASHMLA_VERSION
command -v doxygen >/dev/null || { echo "error: no doxygen here" >&2; exit 1; }
mkdir -p "$FLASHMLA_DOCS"
doxygen docs/Doxyfile
echo "$FLASHMLA_DOCS/html/index.html"
