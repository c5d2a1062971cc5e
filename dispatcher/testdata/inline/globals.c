// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "step.h"

__u32 in_data = 7;
__u32 in_bss;
static volatile __u32 counted[4];

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

SEC("xdp") __u64 globals(struct xdp_md *ctx)
{
	__u32 key = id;
	__u64 one = 1, *n;

	leave_trail(ctx);
	in_data++;
	in_bss += 2;
	counted[in_bss & 3]++;
	n = bpf_map_lookup_elem(&seen, &key);
	if (n)
		++*n;
	else
		bpf_map_update_elem(&seen, &key, &one, BPF_ANY);
	return verdict;
}
