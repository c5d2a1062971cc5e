// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

// USE makes a frame of n bytes and sets ok to whether both its ends hold what was put there. The compiler is
// kept from seeing which bytes are used.
#define USE(n, ok)                                                \
	volatile __u64 frame[(n) / 8], *at = frame;               \
	asm volatile("" : "+r"(at));                              \
	at[0] = 3;                                                \
	at[(n) / 8 - 1] = 4;                                      \
	int ok = at[0] + at[(n) / 8 - 1] == 7

// SPOIL uses every register that calls preserve.
#define SPOIL asm volatile("r6 = 1; r7 = 1; r8 = 1; r9 = 1" ::: "r6", "r7", "r8", "r9")

static __noinline int frame_192(void)
{
	USE(192, ok);
	return ok;
}

static __noinline int frame_256(void)
{
	USE(256, ok);
	return ok;
}

static __noinline int frame_448(void)
{
	USE(192, ok);
	return ok & frame_256();
}

// deep_504 has as much of a frame as this compiler allows.
SEC("xdp") __u64 deep_504(struct xdp_md *ctx)
{
	USE(504, ok);
	return ok ? verdict : XDP_ABORTED;
}

SEC("xdp") __u64 busy_504(struct xdp_md *ctx)
{
	SPOIL;
	USE(504, ok);
	return ok ? verdict : XDP_ABORTED;
}

SEC("xdp") __u64 deep_256(struct xdp_md *ctx)
{
	leave_trail(ctx);
	SPOIL;
	USE(256, ok);
	return ok ? verdict : XDP_ABORTED;
}

// below_448 has no frame of its own, and functions below it that use 448 bytes.
SEC("xdp") __u64 below_448(struct xdp_md *ctx)
{
	leave_trail(ctx);
	return frame_448() ? verdict : XDP_ABORTED;
}

SEC("xdp") __u64 below_192(struct xdp_md *ctx)
{
	leave_trail(ctx);
	return frame_192() ? verdict : XDP_ABORTED;
}

// indexed gets at its frame through variables, and keeps pointers to it on the stack.
SEC("xdp") __u64 indexed(struct xdp_md *ctx)
{
	__u8 frame[64] = {};
	__u32 at = ctx->rx_queue_index & 31;
	__u8 *volatile p = frame + 32;

	leave_trail(ctx);
	frame[at] = 1;
	__u8 *q = p;
	q[at & 7] = 2;
	SPOIL;
	return frame[at] == 1 && q[at & 7] == 2 ? verdict : XDP_ABORTED;
}
