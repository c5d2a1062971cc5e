// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// A program that the kernel's verifier refuses: it reads a packet without looking how long it is.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	return *(__u8 *)(long)ctx->data ? XDP_PASS : XDP_DROP;
}
