// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

// The other one has functions with the same names and other bodies.
static __noinline __u32 same(__u32 x)
{
	return x * 3 + 1;
}

__noinline __u32 same_global(__u32 x)
{
	return same(x + 1);
}

SEC("xdp") __u64 main_same(struct xdp_md *ctx)
{
	__u32 x = ctx->rx_queue_index & 7;

	leave_trail(ctx);
	if (same_global(x) != ({ __u32 y = x; x = y + 1; x * 3 + 1; }))
		return XDP_ABORTED;
	return verdict;
}
