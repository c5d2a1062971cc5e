// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

SEC("xdp") __u64 target(struct xdp_md *ctx)
{
	leave_trail(ctx);
	return verdict;
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, __u64(void *));
} targets SEC(".maps") = { .values = { [0] = (void *)&target } };

SEC("xdp") __u64 caller(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &targets, 0);
	return XDP_ABORTED;
}

// miss calls an entry that is not there.
SEC("xdp") __u64 miss(struct xdp_md *ctx)
{
	leave_trail(ctx);
	bpf_tail_call(ctx, &targets, 1);
	return verdict;
}

volatile int aborted = XDP_ABORTED; // the compiler must not know what from_below returns

static __noinline int from_below(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &targets, 0);
	return aborted;
}

// below_caller makes its tail call in a function; what the target returns is what the function returns.
SEC("xdp") __u64 below_caller(struct xdp_md *ctx)
{
	return from_below(ctx) == (int)verdict ? verdict : XDP_ABORTED;
}
