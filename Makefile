# A thin front of meson and ninja.  `make help` says what there is.
BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=

all: $(BUILD)/build.ninja ## Build blixard and blixard-runner into build/.
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@tools/bootstrap build
	@meson setup $(BUILD) --prefix=$(PREFIX)

demo: ## Install what is missing, build, run functions and a machine on real input, show what it cost.
	@tools/bootstrap build run machine
	@$(MAKE) --no-print-directory all
	@tools/demo

test: ## Install what the tests need and run all of them.
	@tools/bootstrap build run machine test
	@tools/test

bench: ## Measure against native code, nginx and node; ratios on the screen, JSON in build/bench.json.
	@tools/bootstrap build run machine bench
	@$(MAKE) --no-print-directory all
	@tools/bench

install: all ## Install into PREFIX (default /usr/local), below DESTDIR.
	@meson introspect $(BUILD) --buildoptions | grep -q '"name": "prefix", "value": "$(PREFIX)"' || \
	  { meson configure $(BUILD) -Dprefix=$(PREFIX) && ninja -C $(BUILD); }
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild

clean: ## Remove build/.
	@rm -rf $(BUILD)

help: ## This text.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

.PHONY: all demo test bench install clean help
