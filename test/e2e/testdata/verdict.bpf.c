// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Programs that always have the same verdict, and count how often they ran: what the daemon's counters are
// compared with.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "xdpd.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

static __always_inline int count(struct xdp_md *ctx, int verdict)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&runs, &zero);

	(void)ctx;
	if (n)
		__sync_fetch_and_add(n, 1);
	return verdict;
}

SEC("xdp")
int pass(struct xdp_md *ctx)
{
	return count(ctx, XDP_PASS);
}

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	return count(ctx, XDP_DROP);
}

SEC("xdp")
int tx(struct xdp_md *ctx)
{
	return count(ctx, XDP_TX);
}

SEC("xdp")
int aborted(struct xdp_md *ctx)
{
	return count(ctx, XDP_ABORTED);
}

SEC("xdp")
int goon(struct xdp_md *ctx)
{
	return count(ctx, XDPD_CONTINUE);
}

// plain has no map.
SEC("xdp")
int plain(struct xdp_md *ctx)
{
	(void)ctx;
	return XDPD_CONTINUE;
}

char _license[] SEC("license") = "Dual BSD/GPL";
