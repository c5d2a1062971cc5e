// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "contract.h"

// step does what the packet says, and redirects to where the packet came from.
SEC(SECTION) int step(struct xdp_md *ctx)
{
	observe(ctx);
	__u32 code = next_code(ctx);
	if (code == XDP_REDIRECT)
		return bpf_redirect(ctx->ingress_ifindex, 0);
	return code;
}
