// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// A program that counts its packets in maps of all kinds. LATER is its next version, where some of them differ.
#include "contract.h"

#ifdef LATER
#define NOW(a, b) b
#else
#define NOW(a, b) a
#endif

#define MAP(name, map_type, entries, type_of_value, bits) \
	struct { \
		__uint(type, map_type); \
		__uint(max_entries, entries); \
		__uint(map_flags, bits); \
		__type(key, __u32); \
		__type(value, type_of_value); \
	} name SEC(".maps")

struct wide {
	__u64 count, more;
};

MAP(hash, BPF_MAP_TYPE_HASH, 16, __u64, 0);
MAP(array, BPF_MAP_TYPE_ARRAY, 4, __u64, 0);
MAP(lru, BPF_MAP_TYPE_LRU_HASH, 16, __u64, 0);
MAP(lru_each, BPF_MAP_TYPE_LRU_HASH, 131, __u64, BPF_F_NO_COMMON_LRU);
MAP(percpu, BPF_MAP_TYPE_PERCPU_ARRAY, 4, __u64, 0);
MAP(percpu_hash, BPF_MAP_TYPE_PERCPU_HASH, 16, __u64, 0);
MAP(frozen, BPF_MAP_TYPE_ARRAY, 4, __u64, 0);
MAP(wider, BPF_MAP_TYPE_HASH, 16, NOW(__u64, struct wide), 0);
MAP(larger, BPF_MAP_TYPE_HASH, NOW(4, 8), __u64, 0);
MAP(flagged, BPF_MAP_TYPE_HASH, 16, __u64, NOW(0, BPF_F_NO_PREALLOC));
MAP(kind, NOW(BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH), 16, __u64, 0);
MAP(NOW(before, after), BPF_MAP_TYPE_HASH, 16, __u64, 0);

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} jumps SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} inner SEC(".maps");

struct inner_changed {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NOW(1, 2));
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { [0] = &inner } };

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__array(values, struct inner_changed);
} outer_changed SEC(".maps");

const volatile __u32 version = NOW(1, 2);
volatile __u64 initial = 100; // counted up
volatile NOW(__u32, __u64) changed SEC(".data.changed") = 100;
volatile struct {
	__u32 NOW(left, right), NOW(right, left);
} swapped SEC(".data.swapped") = { 1, 1 };

#define COUNT(map, key) ({ \
	__u32 k = key; \
	__u64 *n = bpf_map_lookup_elem(&map, &k); \
	if (n) \
		++*n; \
	n; \
})

#define COUNT_NEW(map, value_type) ({ \
	value_type first = { 0 }; \
	if (!COUNT(map, 7)) { \
		__u32 k = 7; \
		bpf_map_update_elem(&map, &k, &first, BPF_NOEXIST); \
		COUNT(map, 7); \
	} \
})

SEC("xdp") int carry(struct xdp_md *ctx)
{
	__u32 key = 0;
	void *in;

	observe(ctx);
	COUNT(array, 1);
	COUNT(percpu, 1);
	COUNT(frozen, 1);
	COUNT_NEW(hash, __u64);
	COUNT_NEW(lru, __u64);
	COUNT_NEW(lru_each, __u64);
	COUNT_NEW(percpu_hash, __u64);
	COUNT_NEW(wider, NOW(__u64, struct wide));
	COUNT_NEW(larger, __u64);
	COUNT_NEW(flagged, __u64);
	COUNT_NEW(kind, __u64);
	COUNT_NEW(NOW(before, after), __u64);
	in = bpf_map_lookup_elem(&outer, &key);
	if (in) {
		__u64 *n = bpf_map_lookup_elem(in, &key);
		if (n)
			++*n;
	}
	bpf_map_lookup_elem(&outer_changed, &key);
	initial++;
	changed++;
	swapped.left++;
	if (version > 2) {
		bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &key, sizeof(key));
		bpf_tail_call(ctx, &jumps, 0);
	}
	return next_code(ctx);
}
