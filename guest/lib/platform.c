/* SPDX-License-Identifier: MIT */
#include "guest/lib/platform.h"

#include "abi/hypercall.h"
#include "guest/lib/cpu.h"
#include "guest/lib/tap.h"
#include "x86/cpuid.h"

struct platform platform;

#define TCG_SIGNATURE_EBX 0x54474354u /* "TCGT" */

void platform_probe(void)
{
	struct cpuid hv = cpuid(CPUID_HYPERVISOR);
	u32 ext_max = cpuid(CPUID_EXT_MAX).eax;
	struct cpuid ext = cpuid(CPUID_EXT_FEATURES);

	platform.under_us = hv.ebx == TALLY_CPUID_EBX && hv.ecx == TALLY_CPUID_ECX &&
			    hv.edx == TALLY_CPUID_EDX;
	platform.tcg = hv.ebx == TCG_SIGNATURE_EBX;
	platform.svm = ext.ecx & CPUID_EXT1_ECX_SVM;
	platform.pmu = ext.ecx & CPUID_EXT1_ECX_PERFCTREXTCORE;
	platform.long_1g = ext.edx & CPUID_EXT1_EDX_PAGE1GB;
	platform.phys_bits = ext_max >= CPUID_ADDR_SIZES ? cpuid(CPUID_ADDR_SIZES).eax & 0xff : 36;
	if (platform.svm && ext_max >= CPUID_SVM)
		platform.svm_edx = cpuid(CPUID_SVM).edx;
	if (platform.under_us) {
		struct cpuid status = cpuid(TALLY_CPUID_STATUS);

		platform.backend = status.ebx;
		platform.exact = status.ecx & BIT(0);
		platform.svme0_count = status.ecx & BIT(1);
	}
}

static const struct {
	bool under_us_too;
	const char *text;
} departures[] = {
#define BARE false
#define BOTH true
#define X(name, scope, text) { scope, text },
	DEPARTURES(X)
#undef X
};

bool departs(enum departure d)
{
	static bool told[ARRAY_SIZE(departures)];
	/* Under us only the clock backend, which is for a machine without a PMU, tells that TCG is below. */
	bool below = platform.under_us && platform.backend != TALLY_BACKEND_GUEST_ONLY;

	if (!platform.tcg && !(below && departures[d].under_us_too))
		return false;
	if (!told[d])
		note("departure of QEMU TCG: %s", departures[d].text);
	told[d] = true;
	return true;
}
