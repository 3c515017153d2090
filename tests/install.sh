#!/usr/bin/env bash
# Installs into an empty folder, moves it, and builds and runs a C program from there: by hand, with
# pkg-config and with CMake.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/toolchain/tools
export PATH="$PATH:$tools/bin" PYTHONPATH="$tools${PYTHONPATH:+:$PYTHONPATH}"
cc=${CC:-cc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

make --no-print-directory install DESTDIR="$work/stage" PREFIX=/opt/flashmla >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
mv "$work/stage/opt/flashmla" "$work/moved"
cat >"$work/consumer.c" <<'C'
#include <flashmla.h>
#include <stdio.h>

int main(void) {
    flashmla_context_t *context = NULL;
    flashmla_device_info_t info = FLASHMLA_DEVICE_INFO_INIT;
    if (flashmla_create(FLASHMLA_DEVICE_CPU, NULL, &context) != FLASHMLA_SUCCESS) return 1;
    if (flashmla_get_device_info(context, &info) != FLASHMLA_SUCCESS) return 1;
    printf("%s %d\n", info.name, flashmla_version());
    return flashmla_destroy(context) != FLASHMLA_SUCCESS;
}
C
flags="-std=c99 -pedantic -Wall -Wextra -Werror"

$cc $flags -I"$work/moved/include" "$work/consumer.c" -L"$work/moved/lib" -lflashmla -o "$work/by_hand"
LD_LIBRARY_PATH=$work/moved/lib "$work/by_hand"

if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$work/moved/lib/pkgconfig
    # shellcheck disable=SC2046
    $cc $flags $(pkg-config --cflags flashmla) "$work/consumer.c" $(pkg-config --libs flashmla) -o "$work/by_pkg_config"
    LD_LIBRARY_PATH=$work/moved/lib "$work/by_pkg_config"
else
    echo "no pkg-config here: its file was installed, not tried"
fi

# The program in the README is what a reader tries first.
sed -n '/^```c$/,/^```$/{/^```/d;p}' README.md >"$work/readme.c"
$cc $flags -I"$work/moved/include" "$work/readme.c" -L"$work/moved/lib" -lflashmla -o "$work/readme"
LD_LIBRARY_PATH=$work/moved/lib "$work/readme" | grep 'lse of head 0: 1.0986'

cat >"$work/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.16)
project(consumer C)
find_package(flashmla 0.1 REQUIRED)
add_executable(consumer consumer.c)
target_link_libraries(consumer PRIVATE flashmla::flashmla)
CMAKE
cmake -S "$work" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/moved" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
cmake --build "$work/build" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
"$work/build/consumer"
echo "install: ok"
