// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

extern unsigned int LINUX_KERNEL_VERSION __kconfig;

SEC("xdp") __u64 kconfig(struct xdp_md *ctx)
{
	leave_trail(ctx);
	return LINUX_KERNEL_VERSION >= 0x050a00 ? verdict : XDP_ABORTED;
}
