// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// What the programs of the contract tests share: the packets that they work on, and what they know.
#ifndef CONTRACT_H
#define CONTRACT_H
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef SECTION
#define SECTION "xdp"
#endif

// A test's packet says itself what each member is to return; each member leaves its mark in it.
struct packet {
	__u8 ethernet[14];
	__u8 count; // of members that saw it
	__u8 unused;
	__u8 trail[64]; // their marks
	__u32 codes[64]; // the n-th member to see it returns codes[n]
};

// Read and written by the tests, through the pinned .bss.
struct state {
	__u32 mark;
	__u32 size; // of the last packet
	__u32 meta; // the first word of its metadata
	__u32 hits; // of what the program is made for, other than next_code
	__u64 seen; // packets
};

volatile struct state state;

static __always_inline void observe(struct xdp_md *ctx)
{
	__u32 *meta = (void *)(long)ctx->data_meta;

	__sync_fetch_and_add(&state.seen, 1);
	state.size = ctx->data_end - ctx->data;
	state.meta = (void *)(meta + 1) <= (void *)(long)ctx->data ? *meta : 0;
}

// Many programs have a function of this name, and not all the same one.
static __attribute__((noinline, unused)) __u32 next_code(struct xdp_md *ctx)
{
	struct packet *p = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if ((void *)(p + 1) > end)
		return XDP_PASS;
	__u32 n = p->count & 63;
	__u8 *mark = p->trail + n;
	__u32 *code = p->codes + n;
	if ((void *)(mark + 1) > end || (void *)(code + 1) > end)
		return XDP_PASS;
#ifdef TWIN
	*mark = state.mark + 128;
#else
	*mark = state.mark;
#endif
	p->count = n + 1;
	return *code;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
