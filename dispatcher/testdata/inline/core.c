// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"
#include <bpf/bpf_core_read.h>

struct net_device {
	int ifindex;
	int no_such_field;
} __attribute__((preserve_access_index));

struct xdp_rxq_info {
	struct net_device *dev;
} __attribute__((preserve_access_index));

struct xdp_buff {
	struct xdp_rxq_info *rxq;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *) __ksym;

// core asks the kernel's own context for the interface, by a kfunc and by relocated offsets.
SEC("xdp") __u64 core(struct xdp_md *ctx)
{
	struct xdp_buff *xdp = bpf_cast_to_kern_ctx(ctx);
	int ifindex = xdp->rxq->dev->ifindex;

	leave_trail(ctx);
	if (bpf_core_field_exists(((struct net_device *)0)->no_such_field))
		return XDP_ABORTED;
	return ifindex == (int)ctx->ingress_ifindex ? verdict : XDP_ABORTED;
}
