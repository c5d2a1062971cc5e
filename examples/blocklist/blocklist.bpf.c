// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// blocklist drops packets by source prefix and by destination port, and passes all others.
//
// A fragment other than the first has no ports and passes the port check; the first one is dropped, so
// nothing is ever put together from the others.
#include "parse.h"

struct prefix4 {
	__u32 bits;
	__be32 addr;
};

struct prefix6 {
	__u32 bits;
	struct in6_addr addr;
};

struct port {
	__u8 proto;
	__u8 zero;
	__be16 port;
};

// reason is an index into dropped.
enum reason {
	SOURCE4,
	SOURCE6,
	PORT,
	HIDDEN, // ports hidden behind IPv6 headers
	REASONS,
};

// denied4 and denied6 hold source prefixes; the longest that matches decides. Value 1 denies, 0 is an exception.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix4);
	__type(value, __u32);
} denied4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix6);
	__type(value, __u32);
} denied6 SEC(".maps");

// denied_ports holds destination ports; the value has no meaning.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct port);
	__type(value, __u32);
} denied_ports SEC(".maps");

// dropped counts packets by reason.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} dropped SEC(".maps");

static __always_inline int drop(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&dropped, &reason);

	if (count)
		(*count)++;
	return XDP_DROP;
}

static __always_inline bool denies4(__be32 source)
{
	struct prefix4 key = { .bits = 32, .addr = source };
	__u32 *deny = bpf_map_lookup_elem(&denied4, &key);

	return deny && *deny;
}

static __always_inline bool denies6(const struct in6_addr *source)
{
	struct prefix6 key = { .bits = 128, .addr = *source };
	__u32 *deny = bpf_map_lookup_elem(&denied6, &key);

	return deny && *deny;
}

SEC("xdp")
int blocklist(struct xdp_md *ctx)
{
	struct packet p = {};
	struct port port = {};

	if (!parse_ip(ctx, &p))
		return XDP_PASS;
	if (p.ip4 && denies4(p.ip4->saddr))
		return drop(SOURCE4);
	if (p.ip6 && denies6(&p.ip6->saddr))
		return drop(SOURCE6);

	switch (parse_ports(&p)) {
	case PORTS_NONE:
		return XDP_PASS;
	case PORTS_HIDDEN:
		return drop(HIDDEN);
	case PORTS_FOUND:
		break;
	}
	port.proto = p.proto;
	port.port = p.dport;
	if (bpf_map_lookup_elem(&denied_ports, &port))
		return drop(PORT);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
