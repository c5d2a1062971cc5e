// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

struct sum { __u32 n, left; };

static long add(__u32 i, struct sum *s)
{
	s->n += i;
	return --s->left == 0;
}

// loop adds 0 to 9 in a callback.
SEC("xdp") __u64 loop(struct xdp_md *ctx)
{
	struct sum s = { .left = 10 };

	leave_trail(ctx);
	bpf_loop(100, add, &s, 0);
	return s.n == 45 ? verdict : XDP_ABORTED;
}
