// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// ratelimit gives every source a token bucket and drops the packets for which it holds no token.
// A source is an IPv4 address or an IPv6 /64, of which one host can use every address.
// What is not IP passes. The limit of the config map holds on every interface that shares it, together.
#include "parse.h"

#define SECOND 1000000000ULL // in ns

struct config {
	__u32 rate;  // packets per second; 0: no limit, which is what a new map says
	__u32 burst; // packets that may come at once; 0: as many as the rate
};

// bucket is a token bucket kept as one time, so that packets on several CPUs can take from it with one
// atomic addition: too many can get through only by one for each further CPU.
struct bucket {
	__u64 full_at; // when it will be full again if no packet comes, on CLOCK_MONOTONIC, in ns
};

enum count {
	PASSED,
	DROPPED,
	COUNTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct address);
	__type(value, struct bucket);
} buckets SEC(".maps");

// counts counts packets that the limit was applied to.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

// take takes a token for source, where a token takes cost ns to come back and depth ns fill the bucket.
static __always_inline bool take(const struct address *source, __u64 cost, __u64 depth)
{
	__u64 now = bpf_ktime_get_ns();
	struct bucket fresh = { .full_at = now + cost };
	struct bucket *bucket;
	__u64 full_at;

	bucket = bpf_map_lookup_elem(&buckets, source);
	if (!bucket) {
		if (!bpf_map_update_elem(&buckets, source, &fresh, BPF_NOEXIST))
			return true;
		bucket = bpf_map_lookup_elem(&buckets, source); // another CPU was faster
		if (!bucket)
			return true;
	}
	full_at = *(volatile __u64 *)&bucket->full_at;
	if (full_at <= now) {
		bucket->full_at = now + cost;
		return true;
	}
	if (full_at - now + cost > depth)
		return false;
	__sync_fetch_and_add(&bucket->full_at, cost);
	return true;
}

static __always_inline int verdict(__u32 index, int verdict)
{
	__u64 *count = bpf_map_lookup_elem(&counts, &index);

	if (count)
		(*count)++;
	return verdict;
}

SEC("xdp")
int ratelimit(struct xdp_md *ctx)
{
	struct address source = {};
	struct packet p = {};
	struct config *c;
	__u32 zero = 0, rate, burst;
	__u64 cost;

	c = bpf_map_lookup_elem(&config, &zero);
	if (!c)
		return XDP_PASS;
	rate = c->rate;
	burst = c->burst;
	if (!rate || !parse_ip(ctx, &p))
		return XDP_PASS;
	if (!burst)
		burst = rate;

	source_of(&p, &source);
	if (p.ip6) {
		source.word[2] = 0;
		source.word[3] = 0;
	}
	cost = SECOND / rate;
	if (!take(&source, cost, burst * cost))
		return verdict(DROPPED, XDP_DROP);
	return verdict(PASSED, XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
