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

	platform.under_us =
		hv.ebx == TALLY_CPUID_EBX && hv.ecx == TALLY_CPUID_ECX && hv.edx == TALLY_CPUID_EDX;
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
		platform.depth = TALLY_STATUS_DEPTH(status.ecx);
		platform.lowest_backend = TALLY_STATUS_LOWEST_BACKEND(status.ecx);
		platform.exact = status.ecx & TALLY_STATUS_ECX_EXACT;
		platform.pmi_exact = status.ecx & TALLY_STATUS_ECX_PMI_EXACT;
		platform.svme0_count = status.ecx & TALLY_STATUS_ECX_SVME0_COUNT;
	}
}

enum scope { TCG_BARE, TCG_BOTH, OURS };

static const struct {
	enum scope scope;
	const char *text;
} departures[] = {
#define X(name, scope, text) {scope, text},
	DEPARTURES(X)
#undef X
};

/* That the lowest has no PMU to leave to its guests is all that tells that TCG is below us. */
static bool tcg_below(void)
{
	return platform.under_us && platform.lowest_backend != TALLY_BACKEND_GUEST_ONLY &&
	       platform.lowest_backend != TALLY_BACKEND_SWITCHED;
}

static bool in_scope(enum scope scope)
{
	switch (scope) {
	case TCG_BARE:
		return platform.tcg;
	case TCG_BOTH:
		return platform.tcg || tcg_below();
	default:
		return platform.under_us;
	}
}

bool departs(enum departure d)
{
	static bool told[ARRAY_SIZE(departures)];

	if (!in_scope(departures[d].scope))
		return false;
	if (!told[d])
		note("departure of %s: %s", departures[d].scope == OURS ? "Tallyvisor" : "QEMU TCG",
		     departures[d].text);
	told[d] = true;
	return true;
}

bool departs_below(enum departure d)
{
	return departures[d].scope == OURS || platform.tcg || tcg_below();
}
