// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Programs that show what they get off the wire, and one with a map of each kind.
#include "contract.h"

// shown is what a program writes into the packet.
struct shown {
	__u8 ethernet[14];
	__u16 unused;
	__u64 values[16];
};

#define SHOWN(ctx)                                            \
	({                                                    \
		struct shown *to = (void *)(long)(ctx)->data; \
		if ((void *)(to + 1) > (void *)(long)(ctx)->data_end) \
			return XDP_ABORTED;                   \
		to;                                           \
	})

// origin shows where the packet came from.
SEC("xdp") int origin(struct xdp_md *ctx)
{
	struct shown *to = SHOWN(ctx);

	to->values[0] = ctx->ingress_ifindex;
	to->values[1] = ctx->rx_queue_index;
	return XDP_PASS;
}

// grow puts 3000 bytes behind the packet.
SEC("xdp") int grow(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_tail(ctx, 3000) ? XDP_ABORTED : XDP_PASS;
}

#define MAP(name, kind, flags, count, value_type)  \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(map_flags, flags);          \
		__uint(max_entries, count);        \
		__type(key, __u32);                \
		__type(value, value_type);         \
	} name SEC(".maps")

struct locked {
	__u64 count;
	struct bpf_spin_lock lock;
};

struct timed {
	__u64 count;
	struct bpf_timer timer;
};

MAP(hash, HASH, 0, 5000, __u64);
MAP(sparse, HASH, BPF_F_NO_PREALLOC, 5000, __u64);
MAP(lru, LRU_HASH, 0, 5000, __u64);
MAP(array, ARRAY, 0, 3, __u64);
MAP(cpu_hash, PERCPU_HASH, 0, 100, __u64);
MAP(cpu_lru, LRU_PERCPU_HASH, 0, 100, __u64);
MAP(cpu_array, PERCPU_ARRAY, 0, 3, __u64);
MAP(locks, ARRAY, 0, 3, struct locked);
MAP(timers, ARRAY, 0, 3, struct timed);
MAP(fixed, ARRAY, BPF_F_RDONLY_PROG, 3, __u64);

struct prefix {
	__u32 length, address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 100);
	__type(key, struct prefix);
	__type(value, __u64);
} trie SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 100);
	__type(value, __u64);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
} perf SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { &inner } };

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

volatile __u64 data = 7;
volatile const __u64 constant = 11;

#define COUNT(n, map, key)                                     \
	({                                                     \
		__u64 *count = bpf_map_lookup_elem(&map, key); \
		if (count)                                     \
			to->values[n] = ++*count;              \
	})

// counter counts packets in the entry of key 0 of each map that can have one, and shows the counts.
SEC("xdp") int counter(struct xdp_md *ctx)
{
	struct shown *to = SHOWN(ctx);
	struct prefix prefix = { 32, 0 };
	__u64 event = 1;
	__u32 key = 0;
	void *found;

	COUNT(0, hash, &key);
	COUNT(1, sparse, &key);
	COUNT(2, lru, &key);
	COUNT(3, array, &key);
	COUNT(4, cpu_hash, &key);
	COUNT(5, cpu_lru, &key);
	COUNT(6, cpu_array, &key);
	COUNT(7, timers, &key);
	COUNT(8, trie, &prefix);
	COUNT(9, inner, &key);
	struct locked *locked = bpf_map_lookup_elem(&locks, &key);
	if (locked) {
		bpf_spin_lock(&locked->lock);
		event = ++locked->count;
		bpf_spin_unlock(&locked->lock);
		to->values[10] = event;
	}
	to->values[11] = ++data;
	to->values[12] = constant;
	__u64 *given = bpf_map_lookup_elem(&fixed, &key);
	if (given)
		to->values[13] = *given;
	found = bpf_map_lookup_elem(&outer, &key);
	if (found && (given = bpf_map_lookup_elem(found, &key)))
		to->values[14] = *given;
	to->values[15] = ++state.seen;
	bpf_map_push_elem(&queue, &event, BPF_EXIST);
	bpf_ringbuf_output(&ring, &event, sizeof(event), 0);
	bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return bpf_redirect_map(&devices, 1, XDP_PASS);
}
