#!/usr/bin/env bash
# Prints the path of a Go that is new enough for bindings/go; says why not, and fails, where there is none.
here=$(cd "$(dirname "$0")/.." && pwd)
reason="no go here"
for go in "$(command -v go || true)" /usr/local/go/bin/go "$here/target/toolchain/go/go/bin/go"; do
    [ -x "$go" ] || continue
    # Not another one, which it would download.
    version=$(GOTOOLCHAIN=local "$go" env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    if [ "${version:-0}" -lt 24 ]; then
        reason="$go is older than Go 1.24"
    elif [ "$(GOTOOLCHAIN=local "$go" env CGO_ENABLED)" != 1 ]; then
        reason="$go builds without cgo: it finds no C compiler, or CGO_ENABLED=0 is set"
    else
        echo "$go"
        exit 0
    fi
done
echo "$reason" >&2
exit 1
