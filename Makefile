# SPDX-License-Identifier: MIT
# `make help` says what there is. Everything is built under $(O).

O ?= build
ACCEL ?= tcg
VERSION := 0.1.0
Q := $(if $(V),,@)
say = @printf '  %-7s %s\n' $(1) $(2)

all: $(O)/tallyvisor.efi guests $(O)/tally $(O)/tally.efi $(O)/firmware.efi

# --- sources -------------------------------------------------------------------------------------
PMU := $(wildcard pmu/*.c)
CORE := $(wildcard hv/core/*.c)
HV := $(wildcard hv/*.c)
BOOT := $(wildcard boot/*.c)
GUEST_LIB := $(wildcard guest/lib/*.c)
GUESTS := $(patsubst guest/%.c,%,$(wildcard guest/*.c))
CLIENT := $(filter-out %linux.c %efi.c,$(wildcard client/*.c)) hv/core/format.c boot/filter.c
TESTS := $(wildcard tests/host/*.c)
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))

# --- flags ---------------------------------------------------------------------------------------
WARN := -Wall -Wextra -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Wundef -Werror
FREE := -std=gnu11 -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -mno-red-zone \
	-mgeneral-regs-only -fcf-protection=none -O2 -g $(WARN) -Iinclude -I. -MMD -MP \
	-DTALLY_VERSION='"$(VERSION)"' $(if $(DEBUG),-DTALLY_DEBUG)
# -fno-jump-tables: an indirect branch in the exit path costs more than the compares
# the core has no SSE, so its stack needs no 16-byte alignment
STACK_ALIGN = $(if $(findstring clang,$(shell $(CC) --version)),-mstack-alignment=8,-mpreferred-stack-boundary=3)
# every CPU with SVM and nested paging has POPCNT
HV_FLAGS = $(FREE) $(STACK_ALIGN) -mpopcnt -fpie -fvisibility=hidden -fno-jump-tables -fno-strict-aliasing
EFI_INC := /usr/include/efi
EFI_FLAGS := $(FREE) -fpic -fshort-wchar -isystem $(EFI_INC) -isystem $(EFI_INC)/x86_64
# looked up when the first rule needs them, not before: gnu-efi may have been installed by this very make
EFI_CRT = $(eval EFI_CRT := $$(shell find /usr/lib -name crt0-efi-x86_64.o | head -n 1))$(EFI_CRT)
EFI_LIBS = $(eval EFI_LIBS := $$(shell find /usr/lib -name libgnuefi.a | head -n 1))$(EFI_LIBS)
EFI_LD = -nostdlib -znocombreloc -shared -Bsymbolic --no-undefined --warn-common \
	-z noexecstack -T $(dir $(EFI_CRT))elf_x86_64_efi.lds $(EFI_CRT)
EFI_END = $(EFI_LIBS) $(dir $(EFI_LIBS))libefi.a
EFI_COPY := objcopy -j .text -j .sdata -j .data -j .rodata -j .dynamic -j .dynsym -j '.rel*' \
	-j .reloc -j .sbat --target efi-app-x86_64
LINUX_FLAGS := -std=gnu11 -O2 -g $(WARN) -Iinclude -I. -MMD -MP -DTALLY_VERSION='"$(VERSION)"'
HOST_CC ?= clang
FUZZ_CC ?= clang
HOST_FLAGS := -std=gnu11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all $(WARN) -Iinclude -I. -MMD -MP \
	-DTALLY_VERSION='"$(VERSION)"'
# Only what is fuzzed is instrumented for coverage: the code under test, which is in the target itself where it is inline.
FUZZ_FLAGS := $(HOST_FLAGS) -fsanitize=fuzzer-no-link
FUZZ_INLINE := event merge route
FUZZ_UNCOUNTED := -fno-sanitize-coverage=inline-8bit-counters,pc-table,trace-cmp,indirect-calls,edge
ZYDIS_H := /usr/include/Zydis/Zydis.h

# --- rules ---------------------------------------------------------------------------------------
obj = $(patsubst %,$(O)/$(1)/%.o,$(basename $(2)))
HV_OBJ := $(call obj,hv,$(PMU) $(CORE) $(HV)) $(O)/hv/hv/vmrun.o
BOOT_OBJ := $(call obj,efi,$(BOOT)) $(O)/efi/core.o
LIB_OBJ := $(call obj,efi,$(GUEST_LIB)) $(patsubst %.asm,$(O)/efi/%.asm.o,$(wildcard guest/lib/*.asm))
TEST_OBJ := $(call obj,host,$(TESTS) $(PMU) $(CORE) boot/config.c boot/filter.c boot/aml.c boot/ivrs.c client/out.c client/names.c client/words.c client/probe.c client/probe_page.c)

$(O)/hv/%.o: %.c Makefile | deps
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(HV_FLAGS) -c -o $@ $<

$(O)/hv/asm-offsets.inc: hv/asm/offsets.c Makefile | deps
	@mkdir -p $(@D)
	$(Q)$(CC) $(HV_FLAGS) -MT $@ -MF $(O)/hv/asm-offsets.d -S -o - $< | sed -n 's/.*@@ \([A-Z0-9_]*\) \([0-9]*\).*/%define \1 \2/p' > $@

$(O)/hv/hv/vmrun.o: hv/vmrun.asm $(O)/hv/asm-offsets.inc
	$(call say,ASM,$<)
	@mkdir -p $(@D)
	$(Q)nasm -f elf64 -I $(O)/hv/ -o $@ $<

$(O)/core.elf: $(HV_OBJ) linker.ld
	$(call say,LD,$@)
	$(Q)ld -pie --no-dynamic-linker -z noexecstack -z max-page-size=4096 -z text --no-undefined \
		-T linker.ld -o $@ $(HV_OBJ)

$(O)/core.bin: $(O)/core.elf
	$(Q)objcopy -O binary -j .text -j .rodata -j .data.rel.ro -j .rela.dyn -j .rodata.end -j .data -j .dynamic $< $@

$(O)/efi/core.o: boot/core.asm $(O)/core.bin
	@mkdir -p $(@D)
	$(Q)nasm -f elf64 -I $(O)/ -o $@ $<

$(O)/efi/%.o: %.c Makefile | deps
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(EFI_FLAGS) -c -o $@ $<

$(O)/efi/%.asm.o: %.asm Makefile | deps
	$(call say,ASM,$<)
	@mkdir -p $(@D)
	$(Q)nasm -f elf64 -I $(<D)/ -MD $@.d -o $@ $<

$(O)/efi/sbat.o: boot/sbat.asm Makefile | deps
	@mkdir -p $(@D)
	$(Q)nasm -f elf64 -DVERSION='"$(VERSION)"' -o $@ $<

$(O)/tallyvisor.so $(O)/tally.so $(O)/firmware.so $(GUESTS:%=$(O)/guest/%.so): $(O)/efi/sbat.o

$(O)/tallyvisor.so: $(BOOT_OBJ)
	$(Q)ld $(EFI_LD) -o $@ $^ $(EFI_END)

$(O)/tallyvisor.efi: $(O)/tallyvisor.so
	$(call say,EFI,$@)
	$(Q)$(EFI_COPY) $< $@

$(O)/guest/%.so: $(O)/efi/guest/%.o $(LIB_OBJ)
	@mkdir -p $(@D)
	$(Q)ld $(EFI_LD) -o $@ $^ $(EFI_END)

$(O)/guest/%.efi: $(O)/guest/%.so
	$(call say,EFI,$@)
	$(Q)$(EFI_COPY) $< $@

# a guest of several files
$(O)/guest/fuzz_vmrun.so: $(call obj,efi,$(wildcard guest/fuzz/*.c))

# the client: a UEFI application, and a program for any Linux
$(O)/tally.so: $(call obj,efi,$(CLIENT) client/efi.c client/probe_efi.c guest/lib/string.c) $(O)/efi/client/probe_efi.asm.o
	$(Q)ld $(EFI_LD) -o $@ $^ $(EFI_END)

$(O)/tally.efi: $(O)/tally.so
	$(call say,EFI,$@)
	$(Q)$(EFI_COPY) $< $@

# what tests/qemu/run starts before the hypervisor
$(O)/firmware.so: $(call obj,efi,tests/qemu/firmware.c guest/lib/fwcfg.c)
	$(Q)ld $(EFI_LD) -o $@ $^ $(EFI_END)

$(O)/firmware.efi: $(O)/firmware.so
	$(call say,EFI,$@)
	$(Q)$(EFI_COPY) $< $@

$(O)/linux-client/%.o: %.c Makefile | deps
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LINUX_FLAGS) -c -o $@ $<

$(O)/tally: $(call obj,linux-client,$(CLIENT) client/linux.c client/probe_linux.c)
	$(call say,LD,$@)
	$(Q)$(CC) -static -o $@ $^

guests: $(GUESTS:%=$(O)/guest/%.efi)

$(O)/host/%.o: %.c Makefile | deps-host
	$(call say,HOSTCC,$<)
	@mkdir -p $(@D)
	$(Q)$(HOST_CC) $(HOST_FLAGS) -c -o $@ $<

$(O)/host-tests: $(TEST_OBJ)
	$(Q)$(HOST_CC) -fsanitize=address,undefined -o $@ $^

$(O)/fuzz/%.o: %.c Makefile | deps-fuzz
	$(call say,FUZZCC,$<)
	@mkdir -p $(@D)
	$(Q)$(FUZZ_CC) $(FUZZ_FLAGS) $(if $(filter tests/fuzz/%,$<),$(FUZZ_UNCOUNTED)) -c -o $@ $<

$(O)/fuzz/core.a: $(call obj,fuzz,$(CORE) boot/ivrs.c)
	$(Q)rm -f $@ && ar rcs $@ $^

# fuzz_insn is not there without libzydis; tests/fuzz/run says so
$(FUZZERS:%=$(O)/fuzz/fuzz_%): $(O)/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(O)/fuzz/tests/fuzz/fuzz.o $(O)/fuzz/core.a
	$(call say,FUZZ,$@)
	$(Q)if [ $* != insn ] || [ -e $(ZYDIS_H) ]; then \
		$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer $(if $(filter $*,$(FUZZ_INLINE)),,$(FUZZ_UNCOUNTED)) \
			-MT $@ -MF $@.d -o $@ $< $(O)/fuzz/tests/fuzz/fuzz.o $(O)/fuzz/core.a \
			$(if $(filter insn,$*),-lZydis); \
	fi

# --- what a person calls -------------------------------------------------------------------------
run: all | deps-qemu ## boot the demo in QEMU: hypervisor, L1, L2 and four counters
	$(Q)tools/demo $(O)

test: test-host test-qemu test-outside test-trace test-fuzz-vmrun test-fuzz-config ## prove everything but the Linux boots

test-host: $(O)/host-tests $(FUZZERS:%=$(O)/fuzz/fuzz_%) ## pure code under ASan and UBSan, on this machine
	$(Q)$(O)/host-tests
	$(Q)CC=$(CC) tests/host/trigger-cost
	$(Q)CC=$(CC) tests/host/transition-cost
	$(Q)tests/qemu/verdict-test
	$(Q)O=$(O) tests/fuzz/run --quick $(FUZZERS)

fuzz: fuzz-host fuzz-vmrun fuzz-config ## all fuzzers, longer than in make test

fuzz-host: $(FUZZERS:%=$(O)/fuzz/fuzz_%) ## the pure parts by libFuzzer, each against a second implementation
	$(Q)O=$(O) tests/fuzz/run $(FUZZERS)

fuzz-vmrun: all | deps-qemu ## 100,000 random VMRUNs (COUNT=, SEED=), bare and under Tallyvisor, compared
	$(Q)O=$(O) tests/fuzz/vmrun -n $(or $(COUNT),50000) -s $(or $(SEED),2)

test-fuzz-vmrun: all | deps-qemu
	$(Q)O=$(O) tests/fuzz/vmrun -n 2500

fuzz-config: all | deps-qemu deps-image deps-outside ## the image with 24 random tallyvisor.cfg (COUNT=, SEED=)
	$(Q)O=$(O) tests/qemu/fuzz-config -n $(or $(COUNT),24) -s $(or $(SEED),100)

test-fuzz-config: all | deps-qemu deps-image deps-outside
	$(Q)O=$(O) tests/qemu/fuzz-config -n 3 -s 5

test-qemu: all | deps-qemu deps-image deps-sign ## every guest in QEMU, bare and under Tallyvisor
	$(Q)tests/qemu/sections $(O)/tallyvisor.efi $(O)/tally.efi $(O)/guest/demo.efi
	$(Q)O=$(O) tests/qemu/run

test-outside: all | deps-qemu deps-outside ## the hypervisor's tables, stacks and panic page as QEMU sees them, on 4 CPUs
	$(Q)O=$(O) tests/qemu/outside

test-trace: all | deps-qemu deps-trace ## the demo's trace through both converters
	$(Q)O=$(O) tests/trace/run

bench: all | deps-qemu ## instructions per exit, and their limits
	$(Q)O=$(O) tests/qemu/bench

bench-kvm: all | deps-qemu deps-linux deps-l1 ## the same of Linux KVM, measured next to ours
	$(Q)O=$(O) tests/l1/bench-kvm

hostile: all | deps-qemu ## an L1 that does everything wrong for TIME=600 seconds, seen from inside and outside
	$(Q)O=$(O) TIME=$(TIME) SEED=$(SEED) tests/qemu/hostile

soak: all | deps-qemu ## boot with 1, 2, 4 and 8 CPUs in turns, COUNT=500 times (SMP=, JOBS=2, STOP=1: end at the first failure)
	$(Q)O=$(O) COUNT=$(COUNT) SMP='$(SMP)' JOBS=$(JOBS) STOP=$(STOP) tests/qemu/soak

test-linux: all | deps-qemu deps-linux deps-sign ## stock GRUB and Debian kernels with perf on top
	$(Q)O=$(O) tests/linux/run

test-l1: all | deps-qemu deps-linux deps-l1 ## hypervisors as L1: Linux KVM, Xen, ourselves
	$(Q)O=$(O) tests/l1/run

check: | deps deps-check ## include directions, purity, format, clang-tidy, cppcheck, gcc and clang, depth of stacks
	$(Q)O=$(O) tests/check

format: | deps-check ## put all C files into the project's format
	$(Q)clang-format -i $$(git ls-files '*.c' '*.h')

tally: $(O)/tally ## the client for Linux on Tallyvisor: build/tally, one static program

image: all | deps-image $(if $(SB_KEY),deps-sign) ## a disk image for a USB stick: build/tallyvisor.img; signed, with SB_KEY= SB_CERT=
	$(Q)tools/image $(O) $(O)/tallyvisor.img
	@echo '$(O)/tallyvisor.img is ready$(if $(SB_KEY), and signed). To a USB stick, all of which is overwritten (lsblk tells its name):'
	@echo '  sudo dd if=$(O)/tallyvisor.img of=/dev/sdX bs=4M conv=fsync status=progress'

debug: all | deps-qemu ## the demo, stopped before its first instruction, with QEMU's gdb server on :1234
	$(Q)tools/demo $(O) -s -S

clean: ## remove everything that was built
	rm -rf $(O)

help: ## this
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'
	@echo '  variables: O=build  V=1 (show commands)  DEBUG=1  CC=clang  ACCEL=kvm  QEMU=program  OVMF=file'
	@echo '             SMP=N (CPUs in make test, test-linux, test-l1, for each case that neither fixes them nor needs exact counts)'
	@echo '             FUZZ_RUNS=N or FUZZ_SECONDS=N (for each target)'

# What is missing on this machine is installed, or the one command for it is printed.
deps:
	@tools/setup build
deps-%:
	@tools/setup $*

.PHONY: all guests tally run test test-outside test-host fuzz fuzz-host fuzz-vmrun test-fuzz-vmrun fuzz-config test-fuzz-config test-qemu test-trace test-linux test-l1 bench bench-kvm hostile soak check format image debug clean help deps
.SECONDARY:
export ACCEL QEMU OVMF SMP SB_KEY SB_CERT FUZZ_RUNS FUZZ_SECONDS
-include $(shell find $(O) -name '*.d' 2>/dev/null)
