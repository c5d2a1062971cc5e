// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "contract.h"

SEC(SECTION) int leaf(struct xdp_md *ctx)
{
	state.hits++;
	return next_code(ctx);
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, int(void *));
} leaves SEC(".maps") = { .values = { [0] = (void *)&leaf } };

SEC(SECTION) int branch(struct xdp_md *ctx)
{
	next_code(ctx);
	bpf_tail_call(ctx, &leaves, 0);
	return XDP_ABORTED;
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, int(void *));
} branches SEC(".maps") = { .values = { [0] = (void *)&branch } };

// caller calls the branch, which calls the leaf.
SEC(SECTION) int caller(struct xdp_md *ctx)
{
	observe(ctx);
	bpf_tail_call(ctx, &branches, 0);
	return XDP_ABORTED;
}

// misser calls an entry that is empty, and goes on.
SEC(SECTION) int misser(struct xdp_md *ctx)
{
	observe(ctx);
	bpf_tail_call(ctx, &branches, 1);
	return next_code(ctx);
}
