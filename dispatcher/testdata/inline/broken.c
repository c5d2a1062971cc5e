// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

static __noinline __u32 first_byte(struct xdp_md *ctx)
{
	return *(volatile __u8 *)(long)ctx->data; /* nobody looked at data_end */
}

SEC("xdp") __u64 broken(struct xdp_md *ctx)
{
	__u32 kept = *(volatile __u8 *)(long)ctx->data; /* not even here */

	return kept;
}

SEC("xdp") __u64 broken_below(struct xdp_md *ctx)
{
	return first_byte(ctx);
}
