// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

// push puts 4 bytes of 0xee before the packet, drop_tail takes 4 from its end.
SEC("xdp") __u64 push(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_head(ctx, -4))
		return XDP_ABORTED;
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (data + 4 > end)
		return XDP_ABORTED;
	*(__u32 *)data = 0xeeeeeeee;
	return verdict;
}

SEC("xdp") __u64 pull(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, 4) ? XDP_ABORTED : verdict;
}

SEC("xdp") __u64 drop_tail(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_tail(ctx, -4) ? XDP_ABORTED : verdict;
}

// length writes the packet's length behind its first 4 bytes.
SEC("xdp") __u64 length(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (data + 8 > end)
		return XDP_ABORTED;
	*(__u32 *)(data + 4) = end - data;
	return verdict;
}
