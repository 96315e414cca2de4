# Lunapark's build. `make help` lists the targets.
#
# Everything that is made goes below $(B), so one tree holds several builds side by side:
#     make B=build/clang CC=clang        make B=build/asan SAN=address,undefined
#     make B=build/tiny DEFS=-DRT_TINY   make V=1 (shows the commands)

.DEFAULT_GOAL := all
.SUFFIXES:
.DELETE_ON_ERROR:

# ---- what may be set on the command line -------------------------------------------------------

B      ?= build
SAN    ?=
DEFS   ?=
PREFIX ?= /usr/local
LUAJIT ?= luajit
APP    ?= scripts/hello.lua
LISTEN ?= 127.0.0.1:8080
FUZZ_S ?= 60
SEED   ?=
ROUND  ?=
N      ?=
V      ?=
# The LuaJIT that is linked; one for all builds of a tree.
LUAJIT_DIR ?= build/luajit
ifeq ($(origin CC),default)
CC := gcc
endif
# For host/base/decimal.cc.
ifeq ($(origin CXX),default)
CXX := $(if $(findstring clang,$(CC)),clang++,g++)
endif

# ---- Debian packages ---------------------------------------------------------------------------

# libc6-dev: gcc only recommends it.
DEPS_BUILD := g++ libc6-dev libluajit2-5.1-dev luajit2 lua-cjson-dev xz-utils libc-ares-dev libmd-dev libedit-dev
DEPS_BUILD += zlib1g-dev libbrotli-dev libzstd-dev libssl-dev
DEPS_TEST  := lua-busted libcmocka-dev node-llhttp curl netcat-openbsd redis-server lua-ldoc git openssl
# For spec/dev_browser_spec.lua, which is pending without it: 100 MB that few need. CI has it.
DEPS_BROWSER := chromium-headless-shell fonts-dejavu-core
# Clients and attackers of others, for spec/http_peers_spec.lua and https_peers_spec.lua, where those that are missing are pending. CI has them.
DEPS_PEERS := apache2-utils nghttp2-client siege slowhttptest sslscan wrk
DEPS_DOCS  := lua-ldoc
DEPS_LINT  := clang-format clang-tidy lua-check clang
DEPS_FUZZ  := clang libclang-rt-14-dev
DEPS_BENCH := wrk curl valgrind
# What the runtime is measured beside; without it bench-runtime leaves its columns out.
DEPS_BENCH_GO := golang-go
DEPS_MODEL := spin gcc libc6-dev
DEPS_CROSS := gcc-aarch64-linux-gnu libc6-dev-arm64-cross

# ---- compiler and flags ------------------------------------------------------------------------

ARCH      := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
MULTIARCH := $(shell $(CC) -print-multiarch)

# Empty: warnings are none of a build's business, where lines are broken on purpose (host/build/mutate.lua).
WERROR ?= -Werror
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes $(WERROR)
# Defined as empty, so that a source which says `#define _GNU_SOURCE` itself repeats the same thing.
# The last: a frame larger than a page touches each of its pages, so that no overflow steps over a guard (runtime/stack.c).
BASE := -std=gnu11 -O2 -g -pthread -D_GNU_SOURCE= $(DEFS) -fstack-clash-protection
ifneq ($(SAN),)
# An undefined-behaviour report ends the program: one that only prints would pass its test.
BASE     += -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all
LDFLAGS  += -fsanitize=$(SAN)
endif
# -isystem: the warnings are for our code, not for the packages' headers.
INC    := -isystem /usr/include/luajit-2.1 -I$(B)/gen -isystem $(LUAJIT_DIR)
CFLAGS  = $(BASE) $(WARN) $(INC)
CXXFLAGS = $(filter-out -D_GNU_SOURCE=,$(subst -std=gnu11,-std=gnu++17,$(BASE))) -Wall -Wextra -Wshadow $(WERROR) -fno-exceptions -fno-rtti $(INC)

LUAJIT_LIB := $(LUAJIT_DIR)/libluajit.a
# lua-cjson, two of whose calls of Lua are ours: host/vm/strbuf.c.
CJSON      := $(B)/gen/cjson.a
CJSON_LIB  ?= /usr/lib/$(MULTIARCH)/liblua5.1-cjson.a
# For a test alone.
LLHTTP_DIR ?= /usr/share/llhttp
LLHTTP_INC := -isystem /usr/share/include/llhttp
# What LuaJIT's objects call of each other or of libc comes to us first:
# __wrap_NAME in host/vm/barrier.c (the first line), host/vm/vmmem.c (the second).
comma   := ,
WRAPPED := lj_ccallback_enter lj_ccallback_leave lj_vm_pcall lj_dispatch_profile lj_err_unwind_dwarf
WRAPPED += mmap64 munmap mremap mprotect __register_frame __deregister_frame fopen64 fclose popen pclose tmpfile64
# The whole of LuaJIT, to which C modules (lfs.so) bind, a use that the linker does not see. The symbols of EXPORTS
# alone are seen from outside: LuaJIT's, and what the FFI declares of ours.
EXPORTS := $(B)/gen/exports
LDLIBS := $(addprefix -Wl$(comma)--wrap=,$(WRAPPED)) -Wl,--dynamic-list=$(EXPORTS) -Wl,--whole-archive $(LUAJIT_LIB) -Wl,--no-whole-archive $(CJSON) -lcares -lmd -ledit -lz -lbrotlienc -lzstd -lssl -lcrypto -Wl,-Bstatic -lstdc++ -Wl,-Bdynamic -lm -ldl -pthread

# ---- files -------------------------------------------------------------------------------------

RT_OBJS  := $(patsubst %.c,$(B)/%.o,$(wildcard runtime/*.c)) $(B)/runtime/context_$(ARCH).o
RT_LIB   := $(B)/liblunapark_rt.a
LLHTTP   := $(addprefix $(B)/llhttp/,api.o http.o llhttp.o)
GEN_OBJS := $(B)/gen/abi.o $(B)/gen/embed.o
HOST_ROOMS := base vm net shared sys serve http generation command
MAIN_OBJ := $(B)/host/command/main.o
# Every object of the host but main.o: what its tests are linked with.
HOST_OBJS := $(filter-out $(MAIN_OBJ),$(patsubst %.c,$(B)/%.o,$(wildcard $(HOST_ROOMS:%=host/%/*.c)))) $(B)/host/base/decimal.o $(GEN_OBJS)

# Each of these sources is one program.
programs_of = $(patsubst %.c,$(B)/%,$(wildcard $(1)))
RT_TESTS   := $(call programs_of,runtime/test/test_*.c)
HOST_TESTS := $(call programs_of,host/test/test_*.c)
# What host/test/faults.lua preloads into the servers that it tries.
FAULTS := $(B)/host/test/fault.so
# The target of `make fuzz`, and the tests that play scripts: host/fuzz/play.c.
FUZZ       := $(B)/host/fuzz/conn
PLAYERS    := $(FUZZ) $(addprefix $(B)/host/test/,test_fuzz_conn test_over)
PLAY_OBJS  := $(addprefix $(B)/host/fuzz/,play.o answers.o)
RT_TOOLS   := $(call programs_of,runtime/examples/*.c runtime/bench/*.c)
RT_BENCH   := $(call programs_of,runtime/bench/*.c)
# Programs that call the host from inside.
HOST_INSIDE := $(B)/host/bench/shared
HOST_TOOLS := $(filter-out $(HOST_INSIDE),$(call programs_of,host/bench/*.c))

# In the order of their types: LuaJIT reads them as one text.
FFI_HEADERS := runtime/runtime_ffi.h $(foreach r,base vm net serve http shared sys generation command,host/$r/$r_ffi.h) host/base/abi.h
LUA_FILES   := $(shell LC_ALL=C find lua -name '*.lua' | LC_ALL=C sort)
OUR_C       := $(sort $(wildcard $(foreach d,runtime host $(HOST_ROOMS:%=host/%),$(addprefix $d/,*.[ch] *.cc test/*.[ch] bench/*.[ch] fuzz/*.[ch] examples/*.[ch]))))

# ---- what people call --------------------------------------------------------------------------

ifeq ($(V),)
Q   := @
say  = @echo "  $(1) $(2)"
endif
# What a target does after it installed its packages: no second look at them.
again := $(MAKE) --no-print-directory NEED=known

.PHONY: all run test test-tls test-runtime asan faults tsan lint lint-format lint-tidy lint-lua lint-size lint-edges lint-headers format bench aarch64
.PHONY: dict-kills cert-swaps testssl mutate fuzz fuzz-target fuzz-apps bench-reload bench-runtime bench-runtime-callgrind model docs
.PHONY: programs tests install clean help deps deps-test deps-docs deps-browser deps-peers deps-lint deps-fuzz deps-bench deps-model deps-cross need FORCE

all: $(B)/lunapark ## builds build/lunapark (the default)
	@:

run: deps ## installs what is missing, builds, serves scripts/hello.lua on 127.0.0.1:8080 (APP=, LISTEN=)
	+@$(again) all
	@exec $(B)/lunapark $(APP) --listen $(LISTEN)

test: deps-test ## installs what is missing, builds, runs every C test and spec
	+@$(again) all programs tests
	@$(run_tests) LUNAPARK='$(abspath $(B)/lunapark)' host/build/run_tests.sh $(RT_TESTS) $(HOST_TESTS)

# Without those that know what is on the wire, or ask by programs of others: https_spec, https_peers_spec. TLS too:
# http_conformance_spec.
TLS_SPECS ?= $(foreach s,app box compress control form hosts multipart request response wire,spec/http_$s_spec.lua) \
	$(foreach s,send_file site sse static,spec/$s_spec.lua)
test-tls: deps-test ## the specs of HTTP once more, over TLS
	+@$(again) all
	@$(run_tests) SPECS='$(TLS_SPECS)' LUNAPARK_TEST_TLS=1 LUNAPARK='$(abspath $(B)/lunapark)' host/build/run_tests.sh

test-runtime: deps-test ## the C tests of runtime/ alone
	+@$(again) $(RT_TESTS)
	@$(run_tests) host/build/run_tests.sh $(RT_TESTS)

asan: ## the same tests under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory test B=build/asan SAN=address,undefined

faults: ## makes each allocation, mapping, thread and descriptor of a server fail in turn; hours without FAULT_S=seconds
	+@$(again) all $(FAULTS)
	@B=$(B) LUNAPARK='$(abspath $(B)/lunapark)' $(B)/lunapark run host/test/faults.lua $(FAULT_S)

dict-kills: ## kills a program that counts in a dict with a file, N times (1000), and looks for what is lost or there twice
	+@$(again) all
	@LUNAPARK='$(abspath $(B)/lunapark)' $(B)/lunapark run host/test/dict_kills.lua $(or $(N),1000) $(SEED)

cert-swaps: deps-test ## exchanges the certificates of a server N times (1000) under 64 connections
	+@$(again) all
	@LUNAPARK_SWAPS=$(or $(N),1000) LUNAPARK='$(abspath $(B)/lunapark)' $(B)/lunapark test --output=plainTerminal \
		--filter='lose no request' spec/https_reload_spec.lua

testssl: deps-test ## has testssl.sh look for weaknesses of HTTPS; minutes
	+@$(again) all
	@host/build/deps.sh install testssl.sh
	@LUNAPARK_TESTSSL=1 LUNAPARK='$(abspath $(B)/lunapark)' $(B)/lunapark test --output=plainTerminal \
		--filter='self%-signed certificate' spec/https_peers_spec.lua

mutate: deps-test ## breaks each mechanism on purpose, in a copy, and runs the test that must fail; N=10: ten of them by the day (SEED=); MUTATE=pattern
	+@$(again) all
	@B=$(B) $(LUAJIT) host/build/mutate.lua $(if $(N),--random $(N) --seed $(or $(SEED),$$(date -u +%Y%m%d))) $(if $(MUTATE),'$(MUTATE)')

tsan: ## the same tests under ThreadSanitizer
	@$(MAKE) --no-print-directory test B=build/tsan SAN=thread

# Without the names of new functions: who finds them out is a process whose pipes stay, and look like descriptors left.
fuzz: deps-fuzz ## libFuzzer on the connection state machine, FUZZ_S seconds (60); what it finds goes to host/fuzz/regress
	+@$(again) B=build/fuzz CC=clang SAN=fuzzer-no-link,address,undefined fuzz-target
	@mkdir -p build/fuzz/corpus
	@ASAN_OPTIONS='$(ASAN_OPTIONS)' UBSAN_OPTIONS='$(UBSAN_OPTIONS)' build/fuzz/host/fuzz/conn -max_total_time=$(FUZZ_S) \
		-timeout=30 -detect_leaks=0 -print_funcs=0 -rss_limit_mb=4096 -max_len=4096 -dict=host/fuzz/http.dict -print_final_stats=1 \
		-artifact_prefix=host/fuzz/regress/ build/fuzz/corpus host/fuzz/conn host/fuzz/regress

fuzz-apps: deps-test ## clients that do everything to an app under AddressSanitizer, FUZZ_S seconds (60); SEED=, ROUND= of a run that failed
	+@$(again) B=build/asan SAN=address,undefined all
	@ASAN_OPTIONS='$(ASAN_OPTIONS)' UBSAN_OPTIONS='$(UBSAN_OPTIONS)' LUNAPARK='$(abspath build/asan/lunapark)' \
		build/asan/lunapark run host/fuzz/apps.lua $(or $(SEED),$$(date +%s)) $(FUZZ_S) $(ROUND)

docs: deps-docs ## the reference of the Lua modules, from the annotations in their sources, to $(B)/doc
	+@$(again) all
	@rm -rf $(B)/doc $(B)/doc-src && mkdir -p $(B)/doc-src
	@$(B)/lunapark run host/build/docs.lua $(B)/doc-src
	@ldoc -c $(B)/doc-src/config.ld -d $(B)/doc --testing --fatalwarnings $(B)/doc-src >$(B)/doc-src/log 2>&1 || \
		{ cat $(B)/doc-src/log; exit 1; }
	@echo "docs: $(B)/doc/index.html"

lint: lint-format lint-tidy lint-lua lint-size lint-edges lint-headers ## clang-format, clang-tidy, luacheck, lengths, includes; changes nothing

format: deps-lint ## lays our C out as .clang-format says
	@clang-format -i $(OUR_C)

bench: deps-bench ## CPU per request and message beside bare epoll loops and nginx, what waits, calls that block, lines and logging cost (ROUNDS=, SECS=)
	+@$(again) all programs
	@host/bench/hello.sh $(B)
	@host/bench/requests.sh $(B)
	@host/bench/static.sh $(B)
	@host/bench/tls.sh $(B)
	@host/bench/waits.sh $(B)
	@host/bench/echo.sh $(B)
	@LUNAPARK_PROCS=1 $(B)/lunapark run host/bench/blocking.lua
	@LUNAPARK_PROCS=2 $(B)/lunapark run host/bench/blocking.lua
	@$(B)/host/bench/spawn
	@B=$(B) $(B)/lunapark run host/bench/net.lua
	@$(B)/lunapark run host/bench/log.lua
	@$(B)/lunapark run host/bench/json.lua
	@$(B)/lunapark run host/bench/dict_file.lua

bench-reload: deps-bench ## what 20 reloads in 10 s cost 64 keep-alive connections, beside nginx; memory after 1,000 (ROUNDS=, SECS=)
	+@$(again) all
	@host/bench/reload.sh $(B)

bench-runtime: deps ## the runtime's numbers beside Go's and bare epoll loops, 2 minutes (ROUNDS=)
	@command -v go >/dev/null || host/build/deps.sh install $(DEPS_BENCH_GO) || echo 'bench-runtime: goes on without Go'
	+@$(again) $(RT_BENCH) $$(command -v go >/dev/null && echo $(GO_BENCH))
	@runtime/bench/run.sh $(B)

bench-runtime-callgrind: deps deps-bench ## instructions per switch, spawn, timer: the same in every run
	+@$(again) $(RT_BENCH)
	@runtime/bench/run.sh $(B) callgrind

model: deps-model ## checks the protocols' models in spin, and that each mutation of them fails; 5 minutes at most
	@B=$(B) CC=$(CC) runtime/model/check.sh

aarch64: deps-cross ## cross-compiles the runtime and its programs for AArch64
	+@$(again) B=build/aarch64 CC=aarch64-linux-gnu-gcc runtime-programs

install: all ## the binary, the example scripts and a systemd unit to PREFIX
	install -D -m 755 $(B)/lunapark $(DESTDIR)$(PREFIX)/bin/lunapark
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' host/command/lunapark.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/lunapark.service
	install -d $(DESTDIR)$(PREFIX)/share/lunapark/scripts
	install -m 644 scripts/*.lua $(DESTDIR)$(PREFIX)/share/lunapark/scripts

clean: ## removes $(B)
	rm -rf $(B)

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | awk -F '\t' '{ printf "make %-13s %s\n", $$1, $$2 }'

# ---- packages ----------------------------------------------------------------------------------

deps: ## installs the Debian packages that the build needs (deps-test, -docs, -browser, -peers, -lint, -fuzz, -bench, -model, -cross: more)
	@host/build/deps.sh install $(DEPS_BUILD)
deps-test:
	@host/build/deps.sh install $(DEPS_BUILD) $(DEPS_TEST)
deps-docs:
	@host/build/deps.sh install $(DEPS_BUILD) $(DEPS_DOCS)
deps-browser:
	@host/build/deps.sh install $(DEPS_BROWSER)
deps-peers:
	@host/build/deps.sh install $(DEPS_PEERS)
deps-lint:
	@host/build/deps.sh install $(DEPS_BUILD) $(DEPS_LINT)
deps-fuzz:
	@host/build/deps.sh install $(DEPS_BUILD) $(DEPS_FUZZ)
deps-bench:
	@host/build/deps.sh install $(DEPS_BUILD) $(DEPS_BENCH)
deps-model:
	@host/build/deps.sh install $(DEPS_MODEL)
deps-cross:
	@host/build/deps.sh install $(DEPS_CROSS)

# Order-only for everything compiled: a plain `make` says what is missing before gcc does.
need:
ifneq ($(NEED),known)
	@host/build/deps.sh check $(DEPS_BUILD)
endif

# ---- the library, the binary, the programs -----------------------------------------------------

# A change of compiler or flags makes the objects anew; a file that came or went makes what they are
# linked into anew.
$(B)/flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(CFLAGS) $(LDFLAGS) $(LDLIBS)' | cmp -s - $@ || echo '$(CC) $(CFLAGS) $(LDFLAGS) $(LDLIBS)' >$@
$(B)/files: FORCE
	@mkdir -p $(@D); echo '$(RT_OBJS) $(HOST_OBJS) $(LUA_FILES)' | cmp -s - $@ || echo '$(RT_OBJS) $(HOST_OBJS) $(LUA_FILES)' >$@

$(B)/%.o: %.c $(B)/flags | need
	$(call say,CC ,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/%.o: %.cc $(B)/flags | need
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CXXFLAGS) -MMD -MP -c -o $@ $<

# The stack that a switch in assembly leaves is no reason for an executable one.
$(B)/%.o: %.S $(B)/flags | need
	$(call say,AS ,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -g $(DEFS) -Wa,--noexecstack -MMD -MP -c -o $@ $<

# Not our code: no warnings, and no report of what it may find undefined.
$(B)/llhttp/%.o: $(LLHTTP_DIR)/%.c $(B)/flags | need
	$(call say,CC ,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE) -w -DLLHTTP_STRICT_MODE=1 $(LLHTTP_INC) $(if $(SAN),-fno-sanitize=undefined) -c -o $@ $<

$(RT_LIB): $(RT_OBJS) $(B)/files
	$(call say,AR ,$@)
	$(Q)rm -f $@ && $(CC_AR) rcs $@ $(RT_OBJS)
CC_AR = $(if $(filter aarch64-linux-gnu-%,$(CC)),aarch64-linux-gnu-ar,ar)

$(CJSON): $(CJSON_LIB) Makefile | need
	@mkdir -p $(@D)
	$(Q)objcopy --redefine-sym lua_gettop=cjson_gettop --redefine-sym lua_newuserdata=cjson_newuserdata $< $@

# One call makes all.
$(LUAJIT_DIR)/luajit_config.h: host/build/luajit.sh $(wildcard host/build/luajit/*.fix) | need
	@CC=gcc host/build/luajit.sh $(LUAJIT_DIR)
$(LUAJIT_LIB) $(LUAJIT_DIR)/luajit: $(LUAJIT_DIR)/luajit_config.h
	@touch $@
$(addprefix $(B)/host/,command/main.o vm/vm.o vm/luaframes.o test/test_luaframes.o): $(LUAJIT_DIR)/luajit_config.h
# Errors of Lua that pass through it run its cleanups.
$(B)/host/vm/load.o: private CFLAGS += -fexceptions

$(B)/lunapark: $(MAIN_OBJ) $(HOST_OBJS) $(RT_LIB) $(B)/files $(LUAJIT_LIB) $(CJSON) $(EXPORTS)
	$(call say,LD ,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(MAIN_OBJ) $(HOST_OBJS) -Wl,--whole-archive $(RT_LIB) -Wl,--no-whole-archive $(LDLIBS)

$(RT_TESTS) $(RT_TOOLS): $(B)/%: $(B)/%.o $(RT_LIB)
	$(call say,LD ,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(RT_LIB) -pthread -lm $(if $(findstring /test/,$@),-lcmocka)

$(HOST_TESTS) $(FUZZ): $(B)/%: $(B)/%.o $(HOST_OBJS) $(RT_LIB) $(B)/files $(LUAJIT_LIB) $(CJSON) $(EXPORTS)
	$(call say,LD ,$@)
	$(Q)$(CC) $(LDFLAGS) $(OWN_LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--whole-archive $(RT_LIB) -Wl,--no-whole-archive $(LDLIBS) -lcmocka
# Another parser, which ours is compared with.
$(B)/host/test/test_http1_differ: $(LLHTTP)
$(B)/host/test/test_http1_differ.o: private CFLAGS += $(LLHTTP_INC)
$(PLAYERS): $(PLAY_OBJS)
$(PLAYERS): private OWN_LDFLAGS = $(addprefix -Wl$(comma)--wrap=,clock_gettime server_add_conn server_remove_conn)
$(FUZZ): private OWN_LDFLAGS += -fsanitize=fuzzer

$(FAULTS): host/test/fault.c $(B)/flags | need
	$(call say,LD ,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -g -D_GNU_SOURCE= $(WARN) -fPIC -shared -MMD -MP -o $@ $< -ldl

GO_BENCH := $(B)/runtime/bench/go/bench
$(GO_BENCH): $(wildcard runtime/bench/go/*.go)
	$(call say,GO ,$@)
	@mkdir -p $(@D)
	$(Q)go build -o $@ $^

$(HOST_INSIDE): $(B)/%: $(B)/%.o $(HOST_OBJS) $(RT_LIB) $(B)/files $(LUAJIT_LIB) $(CJSON) $(EXPORTS)
	$(call say,LD ,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(HOST_OBJS) -Wl,--whole-archive $(RT_LIB) -Wl,--no-whole-archive $(LDLIBS)

# The other bench tools measure the host from outside: they are linked with nothing of it.
$(HOST_TOOLS): $(B)/%: $(B)/%.o
	$(call say,LD ,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(OWN_LDFLAGS) -pthread
$(B)/host/bench/shake: private OWN_LDFLAGS = -lssl -lcrypto

.PHONY: runtime-programs
runtime-programs: $(RT_LIB) $(RT_TOOLS) ; @:
programs: $(RT_TOOLS) $(HOST_TOOLS) $(HOST_INSIDE) ; @:
tests: $(RT_TESTS) $(HOST_TESTS) $(FAULTS) ; @:
fuzz-target: $(FUZZ) ; @:

-include $(shell [ -d $(B) ] && find $(B)/runtime $(B)/host $(B)/gen -name '*.d' 2>/dev/null)

# ---- what is generated -------------------------------------------------------------------------

# The headers' marked parts as the Lua module lunapark.cdef, the same names as C sees them, and for the linker.
$(B)/gen/abi.c: host/build/cdef.lua $(FFI_HEADERS) | need
	$(call say,GEN,$@)
	@mkdir -p $(@D)/lunapark
	$(Q)$(LUAJIT) host/build/cdef.lua $(@D)/lunapark/cdef.lua $@ $(EXPORTS) $(FFI_HEADERS)
$(B)/gen/lunapark/cdef.lua $(EXPORTS): $(B)/gen/abi.c ;

# Every Lua file as bytecode. ROOT:PATH, so that a traceback says lunapark/http/app.lua.
$(B)/gen/embed.c: host/build/embed.lua $(LUAJIT_DIR)/luajit $(LUA_FILES) $(B)/gen/lunapark/cdef.lua $(B)/files | need
	$(call say,GEN,$@)
	$(Q)$(LUAJIT_DIR)/luajit host/build/embed.lua $@ $(LUA_FILES:lua/%=lua:%) $(B)/gen:lunapark/cdef.lua

# Their includes are named from the top.
$(GEN_OBJS): $(B)/%.o: $(B)/%.c $(B)/flags
	$(call say,CC ,$<)
	$(Q)$(CC) $(CFLAGS) -iquote . -MMD -MP -c -o $@ $<

# ---- tests -------------------------------------------------------------------------------------

# Leaks: LuaJIT's and the runtime's own mappings are none of the sanitizer's. Fake stacks: a G's
# frames must lie on its own stack.
ASAN_OPTIONS  ?= detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0:exitcode=99
UBSAN_OPTIONS ?= print_stacktrace=1
TSAN_OPTIONS  ?= halt_on_error=0:second_deadlock_stack=1:exitcode=99
# gcc 12's TSan dies on kernels that randomize more address bits than it knows of.
TEST_WRAP ?= $(if $(findstring thread,$(SAN)),$(shell setarch -R true 2>/dev/null && echo setarch -R))
# Seconds for one C test program, and for all specs.
TEST_TIMEOUT ?= 900
SPEC_TIMEOUT ?= 3600
SPECS        ?= spec

run_tests = ASAN_OPTIONS='$(ASAN_OPTIONS)' UBSAN_OPTIONS='$(UBSAN_OPTIONS)' TSAN_OPTIONS='$(TSAN_OPTIONS)' \
	TEST_WRAP='$(TEST_WRAP)' TEST_TIMEOUT=$(TEST_TIMEOUT) SPEC_TIMEOUT=$(SPEC_TIMEOUT) SPECS='$(SPECS)' B=$(B)

# ---- lint --------------------------------------------------------------------------------------

lint-format: deps-lint
	@clang-format --dry-run -Werror $(OUR_C)

# .clang-tidy names the checks. One process per file and CPU.
lint-tidy: deps-lint
	@printf '%s\n' $(filter %.c,$(OUR_C)) | xargs -P $$(nproc) -I{} \
		clang-tidy --quiet {} -- -std=gnu11 -D_GNU_SOURCE= $(DEFS) $(INC) $(LLHTTP_INC) 2>$(TIDY_NOISE)
# How many warnings it left out.
TIDY_NOISE := /dev/null

lint-lua: deps-lint
	@luacheck --quiet --no-color --no-cache $(wildcard lua spec scripts host/build host/bench host/fuzz)
	@$(LUAJIT) host/build/mutate.lua --stale

# Files and functions that are too long.
lint-size: deps
	@$(LUAJIT) host/build/size.lua $(shell find lua spec scripts host -name '*.lua') $(filter host/%,$(OUR_C)) $(OUR_C)

# Which folder of host/ includes which.
lint-edges: deps
	@$(LUAJIT) host/build/edges.lua

# A header says what it needs.
lint-headers: deps
	@for h in $(wildcard $(foreach d,runtime $(HOST_ROOMS:%=host/%),$d/*.h)); do $(CC) $(CFLAGS) -fsyntax-only -x c $$h || exit 1; done
