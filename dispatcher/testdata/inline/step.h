// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the members of the tests' chains share: a trail in the packet. Byte 0 says how many have run, their ids follow.
#ifndef STEP_H
#define STEP_H
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u8 id = 1;
volatile __u64 verdict = XDP_PASS; // 64 bits, of which the kernel looks at 32; tests change it while it runs

static __always_inline void leave_trail(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (data + 1 > end)
		return;
	__u8 *at = data + data[0] + 1;
	if (at + 1 > end)
		return;
	*at = id;
	data[0]++;
}

char _license[] SEC("license") = "GPL";
#endif
