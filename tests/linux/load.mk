# SPDX-License-Identifier: MIT
#
# The load of tests/linux/init-smp: the hypervisor's own C files, compiled by the CPUs of the guest.

OBJECTS := $(patsubst %.c,/objects/%.o,$(wildcard pmu/*.c hv/core/*.c))

/objects/core.sum: $(OBJECTS)
	@cat $(OBJECTS:.o=.sum) | sort | md5sum | cut -d ' ' -f 1 >$@

# A shell, a pipeline and some short programs for each, as builds have them.
/objects/%.o: %.c
	@mkdir -p $(@D)
	@gcc -std=gnu11 -ffreestanding -mgeneral-regs-only -mpopcnt -O2 -fpie -Iinclude -I. -MMD \
		-DTALLY_VERSION='"load"' -c -o $@ $<
	@ld -r -o $@.r $@ && md5sum <$@.r | sed 's|-|$<|' >$(@:.o=.sum)
