# `make` lists the targets. What is built goes to target/ alone.

PREFIX  ?= /usr/local
LIBDIR  ?= lib
DESTDIR ?=
CARGO   ?= cargo
# Options of `make bench`: a file of cases (tests/cases has one for each operation), and the figures to compare with.
CASES   ?= tests/cases/dense_decode.jsonl
VS      ?= tests/cases/dense_decode.jsonl

TARGET  := $(or $(CARGO_TARGET_DIR),target)
LIBRARY := $(TARGET)/release/libflashmla.so
# From LIBDIR/pkgconfig up to the prefix.
PC_UP   := $(shell echo '$(LIBDIR)/pkgconfig' | sed 's|[^/][^/]*|..|g')
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

.PHONY: help toolchain go_toolchain build demo test bench bundle install header docs clean

help:
	@echo 'make demo       build, and run the main example (on a GPU where there is one)'
	@echo 'make test       every test that this machine can run; says what it skipped'
	@echo 'make build      the library: $(LIBRARY)'
	@echo 'make toolchain  nvcc, cmake and ninja into target/toolchain, where they are missing'
	@echo 'make bench      the benchmark (needs a GPU); CASES=FILE.jsonl VS=FILE.jsonl'
	@echo 'make bundle     target/bundle: what a machine with a GPU and no toolchain needs'
	@echo 'make install    library, header, pkg-config and CMake files; PREFIX=$(PREFIX) DESTDIR='
	@echo 'make docs       the API reference into target/docs (needs doxygen)'
	@echo 'make header     include/flashmla.h from src/capi'
	@echo 'make clean      remove what was built; the toolchain stays'

toolchain:
	@tools/toolchain.sh

# Go is for the tests of its binding, and large: not for those who build the library.
go_toolchain:
	@tools/toolchain.sh go

build: toolchain
	$(CARGO) build --release

demo: build
	@tools/examples.sh demo

test: go_toolchain build
	@tools/test.sh

bench: build
	$(CARGO) run --release --example bench -- --cases $(CASES) --vs $(VS)

bundle: go_toolchain build
	@tools/bundle.sh

install: build
	install -d $(DESTDIR)$(PREFIX)/$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/$(LIBDIR)/cmake/flashmla $(DESTDIR)$(PREFIX)/include
	install -m 755 -s $(LIBRARY) $(DESTDIR)$(PREFIX)/$(LIBDIR)/libflashmla.so.$(VERSION)
	ln -sf libflashmla.so.$(VERSION) $(DESTDIR)$(PREFIX)/$(LIBDIR)/libflashmla.so.0
	ln -sf libflashmla.so.0 $(DESTDIR)$(PREFIX)/$(LIBDIR)/libflashmla.so
	install -m 644 include/flashmla.h bindings/cpp/flashmla.hpp $(DESTDIR)$(PREFIX)/include/
	install -d $(DESTDIR)$(PREFIX)/share/flashmla/go
	install -m 644 bindings/go/go.mod bindings/go/outcome.h $(filter-out %_test.go,$(wildcard bindings/go/*.go)) \
	    $(DESTDIR)$(PREFIX)/share/flashmla/go/
	sed 's|@UP@|$(PC_UP)|; s|@VERSION@|$(VERSION)|' bindings/pkgconfig/flashmla.pc.in \
	    > $(DESTDIR)$(PREFIX)/$(LIBDIR)/pkgconfig/flashmla.pc
	sed 's|@LIBDIR@|$(LIBDIR)|; s|@VERSION@|$(VERSION)|' bindings/cmake/flashmlaConfig.cmake.in \
	    > $(DESTDIR)$(PREFIX)/$(LIBDIR)/cmake/flashmla/flashmlaConfig.cmake
	sed 's|@VERSION@|$(VERSION)|' bindings/cmake/flashmlaConfigVersion.cmake.in \
	    > $(DESTDIR)$(PREFIX)/$(LIBDIR)/cmake/flashmla/flashmlaConfigVersion.cmake

header:
	FLASHMLA_UPDATE_HEADER=1 FLASHMLA_NO_KERNELS=1 $(CARGO) test --test header

docs:
	@tools/docs.sh

clean:
	rm -rf $(TARGET)/release $(TARGET)/debug $(TARGET)/bundle $(TARGET)/examples $(TARGET)/tests $(TARGET)/docs
