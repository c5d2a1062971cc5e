// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Programs that change packets, and those that cannot be members, all in one object.
#include "contract.h"

#define EXTRA 8 // bytes behind the Ethernet header

// push puts EXTRA bytes in.
SEC("xdp") int push(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_head(ctx, -EXTRA))
		return XDP_ABORTED;
	__u8 *data = (void *)(long)ctx->data;
	if (data + 14 + EXTRA > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memmove(data, data + EXTRA, 14);
	__builtin_memset(data + 14, 0xee, EXTRA);
	return XDP_PASS;
}

// pop takes them out again; a packet without them is aborted.
SEC("xdp") int pop(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data, header[14];
	if (data + 14 + EXTRA > (__u8 *)(long)ctx->data_end || data[14] != 0xee)
		return XDP_ABORTED;
	__builtin_memcpy(header, data, 14);
	if (bpf_xdp_adjust_head(ctx, EXTRA))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	if (data + 14 > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(data, header, 14);
	return XDP_PASS;
}

// cut takes 100 bytes off the end.
SEC("xdp") int cut(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_tail(ctx, -100) ? XDP_ABORTED : XDP_PASS;
}

// tag puts a word of metadata before the packet.
SEC("xdp") int tag(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_meta(ctx, -4))
		return XDP_ABORTED;
	__u32 *meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 1) > (void *)(long)ctx->data)
		return XDP_ABORTED;
	*meta = 0x5eed;
	return XDP_PASS;
}

// deep uses all of the stack that the compiler allows.
SEC("xdp") int deep(struct xdp_md *ctx)
{
	volatile __u64 frame[63], *at = frame;

	asm volatile("" : "+r"(at));
	at[0] = 3;
	at[62] = ctx->ingress_ifindex;
	return at[0] == 3 && at[62] == ctx->ingress_ifindex ? XDP_PASS : XDP_ABORTED;
}

// broken reads beyond the packet.
SEC("xdp") int broken(struct xdp_md *ctx)
{
	return *(volatile __u8 *)(long)ctx->data; // nobody checked the length
}

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 0);
	__type(key, __u32);
	__type(value, __u32);
} empty SEC(".maps");

// mapless needs a map that the kernel refuses.
SEC("xdp") int mapless(struct xdp_md *ctx)
{
	__u32 key = ctx->ingress_ifindex;

	return bpf_map_lookup_elem(&empty, &key) ? XDP_DROP : XDP_PASS;
}

SEC("xdp/devmap") int at_device(struct xdp_md *ctx)
{
	return ctx->ingress_ifindex ? XDP_PASS : XDP_DROP;
}

SEC("xdp/cpumap") int at_cpu(struct xdp_md *ctx)
{
	return ctx->ingress_ifindex ? XDP_PASS : XDP_DROP;
}
