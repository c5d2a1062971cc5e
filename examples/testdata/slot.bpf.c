// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The least that an example needs to be attached to as BPF_PROG_TYPE_EXT: a slot that may change packets.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

__attribute__((noinline)) int slot(struct xdp_md *ctx)
{
	volatile int verdict = XDP_ABORTED;

	if (!ctx)
		return XDP_ABORTED;
	bpf_xdp_adjust_tail(ctx, 0);
	return verdict;
}

SEC("xdp")
int entry(struct xdp_md *ctx)
{
	return slot(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
