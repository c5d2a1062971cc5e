// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

SEC("xdp") __u64 step(struct xdp_md *ctx)
{
	leave_trail(ctx);
	return verdict;
}

SEC("xdp.frags") __u64 step_frags(struct xdp_md *ctx)
{
	leave_trail(ctx);
	return verdict;
}
