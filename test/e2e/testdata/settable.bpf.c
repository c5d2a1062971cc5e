// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// A program whose verdict is set when it is loaded, and whose map is of the shape of that of verdict.bpf.c: what
// replaces the programs there, and finds what they counted.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

const volatile __u32 verdict = XDP_PASS;

SEC("xdp")
int chosen(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&runs, &zero);

	(void)ctx;
	if (n)
		__sync_fetch_and_add(n, 1);
	return verdict;
}

char _license[] SEC("license") = "Dual BSD/GPL";
