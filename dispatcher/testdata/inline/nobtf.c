// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

// The object is built without BTF, so the map is defined in the old way.
struct {
	__u32 type, key_size, value_size, max_entries, map_flags;
} runs SEC("maps") = { BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0 };

static __noinline int bump(__u32 key)
{
	__u64 *n = bpf_map_lookup_elem(&runs, &key);

	if (n)
		++*n;
	return n != 0;
}

SEC("xdp") int nobtf(struct xdp_md *ctx)
{
	return bump(ctx->rx_queue_index & 0) ? XDP_PASS : XDP_ABORTED;
}

char _license[] SEC("license") = "GPL";
