// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Programs with variables of several types, and with a map whose size somebody else has to say.
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

const volatile bool strict;
const volatile __u16 ports[4];
const volatile char label[8] = "none";
__s64 limit = -1;

// shown is what the variables were when show ran.
struct shown {
	__s64 limit;
	__u16 ports[4];
	char label[8];
	__u64 strict;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct shown);
} shown SEC(".maps");

// table counts packets at key 0. How many entries it has is not said.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
} table SEC(".maps");

// runs has the name of a map of the verdicts object, and another shape.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} runs SEC(".maps");

static __always_inline void count(void)
{
	__u32 zero = 0;
	__u64 one = 1, *n = bpf_map_lookup_elem(&table, &zero);

	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&table, &zero, &one, BPF_ANY);
}

SEC("xdp")
int show(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct shown *s = bpf_map_lookup_elem(&shown, &zero);

	(void)ctx;
	if (!s)
		return XDP_ABORTED;
	s->limit = limit;
	for (int i = 0; i < 4; i++)
		s->ports[i] = ports[i];
	for (int i = 0; i < 8; i++)
		s->label[i] = label[i];
	s->strict = strict;
	count();
	return strict ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int counting(struct xdp_md *ctx)
{
	(void)ctx;
	count();
	return XDP_PASS;
}

SEC("xdp")
int narrow(struct xdp_md *ctx)
{
	__u32 zero = 0, *n = bpf_map_lookup_elem(&runs, &zero);

	(void)ctx;
	if (n)
		__sync_fetch_and_add(n, 1);
	return XDP_PASS;
}
