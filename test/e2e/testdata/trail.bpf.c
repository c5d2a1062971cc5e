// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Programs that leave a trail in the packet, and one at the end that knows what trail there must be: it sees a
// packet that went through a mixture of two chains, or of two versions of programs.
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "xdpd.h"

// trail stands behind the Ethernet header, in the host's byte order.
struct trail {
	__u32 order;   // the ids of those that wrote, 4 bits each, the last one lowest
	__u32 version; // of the first that wrote
	__u32 mixed;   // how many were of another
};

// tally is what check counts.
struct tally {
	__u64 seen;
	__u64 wrong;   // packets with another trail than they must have
	__u32 order;   // of the latest such packet
	__u32 version;
	__u32 mixed;
	__u32 want;    // the order that it had to have
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tally SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

const volatile __u32 id;         // of mark, 1 to 7
const volatile __u32 build;      // of mark: for versions that do the same
const volatile __u32 version;    // of mark, and the one that check wants
const volatile __u32 want_order; // 0: each of want_ids once, in any order
const volatile __u32 want_ids;   // a bit for each id

static __always_inline struct trail *trail_of(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	struct trail *t = data + 14;

	if ((void *)(t + 1) > (void *)(long)ctx->data_end)
		return 0;
	return t;
}

SEC("xdp")
int mark(struct xdp_md *ctx)
{
	struct trail *t = trail_of(ctx);
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&runs, &zero);

	if (n)
		__sync_fetch_and_add(n, 1);
	if (!t || build == ~0U)
		return XDPD_CONTINUE;
	if (!t->order)
		t->version = version;
	else if (t->version != version)
		t->mixed++;
	t->order = t->order << 4 | id;
	return XDPD_CONTINUE;
}

// once tells whether an order has each of the ids once, and no other.
static __always_inline bool once(__u32 order, __u32 ids)
{
	__u32 seen = 0;

	for (int i = 0; i < 8; i++) {
		__u32 bit = 1U << (order >> 4 * i & 7);

		if (order >> 4 * i & 15 && seen & bit)
			return false;
		if (order >> 4 * i & 15)
			seen |= bit;
	}
	return seen == ids;
}

SEC("xdp")
int check(struct xdp_md *ctx)
{
	struct trail *t = trail_of(ctx);
	__u32 zero = 0;
	struct tally *n = bpf_map_lookup_elem(&tally, &zero);

	if (!t || !n)
		return XDP_ABORTED;
	__sync_fetch_and_add(&n->seen, 1);
	if (t->mixed || t->version != version || (want_order ? t->order != want_order : !once(t->order, want_ids))) {
		__sync_fetch_and_add(&n->wrong, 1);
		n->order = t->order;
		n->version = t->version;
		n->mixed = t->mixed;
		n->want = want_order;
	}
	return XDP_PASS;
}
