// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

__u32 table[64];

// large is some thousand instructions long.
SEC("xdp") __u64 large(struct xdp_md *ctx)
{
	__u32 h = ctx->rx_queue_index + id;

	leave_trail(ctx);
	_Pragma("unroll") for (int i = 0; i < 300; i++) {
		h ^= h << 13;
		h ^= h >> 17;
		h += table[h & 63];
	}
	return h == 0x12345678 ? XDP_ABORTED : verdict;
}
