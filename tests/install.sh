#!/usr/bin/env bash
# Installs into an empty folder, moves it, and builds and runs C, C++ and Go programs from there: by hand, with
# pkg-config and with CMake. Then the library is loaded and closed again and again. The programs are the README's.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/toolchain/tools
export PATH="$PATH:$tools/bin" PYTHONPATH="$tools${PYTHONPATH:+:$PYTHONPATH}"
# The programs are to find this library, and no other.
unset LD_LIBRARY_PATH
cc=${CC:-cc}
cxx=${CXX:-c++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log"; return 1; }; }
fail() { echo "install: $*" >&2; exit 1; }

quietly make --no-print-directory install DESTDIR="$work/stage" PREFIX=/opt/flashmla
mv "$work/stage/opt/flashmla" "$work/moved"
found=$(cd "$work/moved" && find . -type f -o -type l | sort | sed 's/\.so\.[0-9]*\.[0-9]*\.[0-9]*$/.so.VERSION/' | tr '\n' ' ')
expected="./include/flashmla.h ./include/flashmla.hpp ./lib/cmake/flashmla/flashmlaConfig.cmake \
./lib/cmake/flashmla/flashmlaConfigVersion.cmake ./lib/libflashmla.so ./lib/libflashmla.so.0 \
./lib/libflashmla.so.VERSION ./lib/pkgconfig/flashmla.pc $(cd bindings/go && ls go.mod ./*.go outcome.h |
    sed '/_test\.go$/d; s|^\./||; s|^|./share/flashmla/go/|' | sort | tr '\n' ' ')"
[ "$found" = "$expected" ] || fail "installed $found"
if grep -rIl -e /opt/flashmla -e "$work" -e "$PWD" "$work/moved"; then fail "the files above name a folder"; fi

c_flags="-std=c99 -pedantic -Wall -Wextra -Werror"
cxx_flags="-std=c++20 -pedantic -Wall -Wextra -Werror"
cp tests/quick_start/program.c "$work/readme.c"
cp tests/quick_start/program.cpp tests/install/consumer.c "$work/"
lse='lse of head 0: 1.098612'

# build_all NAME CFLAGS -- LIBS: the three programs, and runs them.
build_all() {
    local name=$1 compile=() link=()
    shift
    while [ "$1" != -- ]; do compile+=("$1"); shift; done
    shift
    link=("$@" "-Wl,-rpath,$work/moved/lib")
    $cc $c_flags "${compile[@]}" "$work/consumer.c" "${link[@]}" -o "$work/c_$name"
    $cc $c_flags "${compile[@]}" "$work/readme.c" "${link[@]}" -o "$work/readme_$name"
    $cxx $cxx_flags "${compile[@]}" "$work/program.cpp" "${link[@]}" -o "$work/cpp_$name"
    "$work/c_$name"
    "$work/readme_$name" | grep -x "$lse"
    "$work/cpp_$name" | grep -x "$lse"
}

build_all by_hand -I"$work/moved/include" -- -L"$work/moved/lib" -lflashmla

if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$work/moved/lib/pkgconfig
    # shellcheck disable=SC2046
    build_all by_pkg_config $(pkg-config --cflags flashmla) -- $(pkg-config --libs flashmla)
else
    echo "SKIP install::pkg_config skipped: no pkg-config here; its file was installed, not tried"
fi

# Go, where there is one: the README's module, with the package that was installed.
if go=$(tools/find_go.sh 2>"$work/log"); then
    export GOTOOLCHAIN=local GOPROXY=off GOWORK=off GOFLAGS=-buildvcs=false
    mkdir "$work/go_project"
    sed "s|/opt/flashmla|$work/moved|" tests/quick_start/go.mod >"$work/go_project/go.mod"
    cp tests/quick_start/program.go "$work/go_project/"
    if command -v pkg-config >/dev/null; then
        [ -f "$(pkg-config --variable=godir flashmla)/go.mod" ] || fail "pkg-config does not know where the Go package is"
        (cd "$work/go_project" && "$go" vet . && "$go" build -o by_pkg_config .)
        LD_LIBRARY_PATH=$work/moved/lib "$work/go_project/by_pkg_config" | grep -x "$lse"
    fi
    (cd "$work/go_project" && PKG_CONFIG_PATH='' CGO_CFLAGS="-I$work/moved/include" \
        CGO_LDFLAGS="-L$work/moved/lib -Wl,-rpath,$work/moved/lib" "$go" build -tags flashmla_by_hand -o by_hand .)
    "$work/go_project/by_hand" | grep -x "$lse"
else
    echo "SKIP install::go skipped: $(cat "$work/log")"
fi

# The README's CMake, for C++; and a project that knows no C++.
mkdir "$work/c_project" "$work/cpp_project"
cp "$work/consumer.c" "$work/c_project/"
cp "$work/program.cpp" "$work/cpp_project/"
cp tests/quick_start/CMakeLists.txt "$work/cpp_project/"
sed 's/ CXX)/ C)/; /cxx_std/d; s/program\.cpp/consumer.c/' "$work/cpp_project/CMakeLists.txt" >"$work/c_project/CMakeLists.txt"
for project in c cpp; do
    quietly cmake -S "$work/${project}_project" -B "$work/${project}_build" -DCMAKE_PREFIX_PATH="$work/moved"
    quietly cmake --build "$work/${project}_build"
    "$work/${project}_build/program"
done
# A version that this one does not serve is refused.
for version in 0.99 1.0; do
    sed "s/flashmla 0\.1 /flashmla $version /" "$work/c_project/CMakeLists.txt" >"$work/CMakeLists.txt"
    if cmake -S "$work" -B "$work/refused_$version" -DCMAKE_PREFIX_PATH="$work/moved" >"$work/log" 2>&1; then
        fail "CMake took $version"
    fi
    grep -q 'compatible with requested version' "$work/log" || { cat "$work/log"; fail "refused for another reason"; }
done
# The examples, as somebody builds them who has no source tree of the library; among them a program in Go.
quietly cmake -S examples -B "$work/examples" -DCMAKE_PREFIX_PATH="$work/moved"
quietly cmake --build "$work/examples"
quietly ctest --test-dir "$work/examples"

# Where distributions put libraries: the packages still find the headers.
quietly make --no-print-directory install DESTDIR="$work/stage" PREFIX=/usr LIBDIR=lib/x86_64-linux-gnu
mv "$work/stage/usr" "$work/multiarch"
libdir=$work/multiarch/lib/x86_64-linux-gnu
if command -v pkg-config >/dev/null; then
    PKG_CONFIG_PATH=$libdir/pkgconfig
    # shellcheck disable=SC2046
    $cc $c_flags $(pkg-config --cflags flashmla) "$work/consumer.c" $(pkg-config --libs flashmla) \
        -Wl,-rpath,"$libdir" -o "$work/multiarch_program"
    "$work/multiarch_program"
fi
quietly cmake -S "$work/c_project" -B "$work/multiarch_build" -Dflashmla_DIR="$libdir/cmake/flashmla"
quietly cmake --build "$work/multiarch_build"
"$work/multiarch_build/program"

$cc $c_flags -I"$work/moved/include" -pthread tests/install/reload.c -ldl -o "$work/reload"
"$work/reload" "$work/moved/lib/libflashmla.so"
echo "install: ok"
