// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

//go:build ignore

// l4lb spreads the TCP and UDP flows to virtual services over backends, without state: the hash of a flow picks
// a slot of the service's Maglev table, which user space computes (package l4lb beside this file).
//
// A packet to a service is sent back out of the interface (XDP_TX), to the backend's MAC address, either
//   - rewritten: the destination becomes the backend's; its answers have to come back through this program,
//     which gives them the service's address again (map origins) and lets the stack route them; or
//   - encapsulated in a further IP header (IPIP, or IPv6 in IPv6): the backend takes that off and answers the
//     client itself. The network needs room for the 20 or 40 bytes more; the outer header forbids fragmentation.
// In both cases it costs the packet a hop.
//
// To the stack go: packets to anything else; packets whose hop limit ends here (it may answer them); fragments,
// because only the first has ports; packets with an IPv6 routing header; packets shorter than they claim to be.
// ICMP errors for flows are not followed to the backends.
// Packets must have whole checksums: a veth's peer leaves them out unless told otherwise (ethtool -K … tx off).
#include "parse.h"

#include <linux/tcp.h>
#include <linux/udp.h>

#include "maps.h"

#define OUTER_HOPS 64 // of the outer header of an encapsulated packet

static __always_inline __u64 mix(__u64 hash, __u64 value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

// flow_hash has no secret, so that several balancers agree.
static __always_inline __u32 flow_hash(const struct address *source, __be16 sport, const struct service *to)
{
	__u64 hash = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		hash = mix(hash, bpf_ntohl(source->word[i]));
#pragma unroll
	for (int i = 0; i < 4; i++)
		hash = mix(hash, bpf_ntohl(to->addr.word[i]));
	hash = mix(hash, (__u32)bpf_ntohs(sport) << 16 | bpf_ntohs(to->port));
	hash = mix(hash, to->proto);
	return hash >> 32;
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

// changed is what replacing a 32 bit word adds to a checksum's sum.
static __always_inline __u64 changed(__u32 from, __u32 to)
{
	return (__u64)(__u32)~from + to;
}

static __always_inline __u16 update_checksum(__u16 check, __u64 change)
{
	return ~fold((__u16)~check + change);
}

static __always_inline bool is_set(const struct address *a)
{
	return a->word[0] || a->word[1] || a->word[2] || a->word[3];
}

static __always_inline bool is_ip4(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

// whole says whether the packet has all the bytes that its IP header claims, and among them a TCP or UDP header.
static __always_inline bool whole(const struct packet *p)
{
	void *l3 = p->ip4 ? (void *)p->ip4 : (void *)p->ip6;
	__u64 claimed, needed = p->l4 - l3;

	if (p->ip4)
		claimed = bpf_ntohs(p->ip4->tot_len);
	else
		claimed = sizeof(*p->ip6) + bpf_ntohs(p->ip6->payload_len);
	needed += p->proto == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
	return needed <= claimed && claimed <= (__u64)(p->end - l3);
}

// take_hop counts the hop limit down. It returns false if it ends here.
static __always_inline bool take_hop(struct packet *p)
{
	if (p->ip4) {
		struct iphdr *ip = p->ip4;
		__u16 *word = (__u16 *)&ip->ttl, old = *word;

		if (ip->ttl <= 1)
			return false;
		ip->ttl--;
		ip->check = update_checksum(ip->check, (__u64)(__u16)~old + *word);
		return true;
	}
	if (p->ip6->hop_limit <= 1)
		return false;
	p->ip6->hop_limit--;
	return true;
}

// rewrite_port sets one of the two ports, and the checksum for that and for the change of the pseudo-header.
// It returns false if the packet has no whole TCP or UDP header.
static __always_inline bool rewrite_port(struct packet *p, bool source, __be16 to, __u64 change)
{
	__be16 *port = p->l4;

	if (p->proto == IPPROTO_TCP) {
		struct tcphdr *tcp = p->l4;

		if ((void *)(tcp + 1) > p->end)
			return false;
		change += (__u64)(__u16)~port[!source] + to;
		port[!source] = to;
		tcp->check = update_checksum(tcp->check, change);
	} else {
		struct udphdr *udp = p->l4;

		if ((void *)(udp + 1) > p->end)
			return false;
		change += (__u64)(__u16)~port[!source] + to;
		port[!source] = to;
		if (udp->check) { // 0: has none
			__u16 check = update_checksum(udp->check, change);

			udp->check = check ? check : 0xffff;
		}
	}
	return true;
}

// rewrite gives the packet another source or destination. It returns false where rewrite_port does.
static __always_inline bool rewrite(struct packet *p, bool source, const struct address *addr, __be16 port)
{
	__u64 change = 0;

	if (p->ip4) {
		__be32 *old = source ? &p->ip4->saddr : &p->ip4->daddr;

		change = changed(*old, addr->word[3]);
		*old = addr->word[3];
		p->ip4->check = update_checksum(p->ip4->check, change);
	} else {
		struct in6_addr *old = source ? &p->ip6->saddr : &p->ip6->daddr;

#pragma unroll
		for (int i = 0; i < 4; i++) {
			change += changed(old->s6_addr32[i], addr->word[i]);
			old->s6_addr32[i] = addr->word[i];
		}
	}
	return rewrite_port(p, source, port, change);
}

// push makes room for an outer header behind the Ethernet header and VLAN tags, which move to the front.
// It returns where the room is, or NULL if the driver has none; pointers in p are no longer valid then.
static __always_inline void *push(struct xdp_md *ctx, struct packet *p, int room)
{
	__u32 tags = p->tags, tag[MAX_TAGS] = {};
	struct ethhdr eth = *p->eth;
	__u32 *in = (__u32 *)&p->eth->h_proto, *out;
	void *at;

	// the IP header behind it makes the two words readable also where there are no tags
	tag[0] = in[0];
	tag[1] = in[1];
	if (bpf_xdp_adjust_head(ctx, -room))
		return NULL;
	p->end = (void *)(long)ctx->data_end;
	p->eth = (void *)(long)ctx->data;
	if ((void *)(p->eth + 1) + MAX_TAGS * 4 > p->end)
		return NULL;
	__builtin_memcpy(p->eth, &eth, 2 * ETH_ALEN);
	out = (__u32 *)&p->eth->h_proto;
	if (tags > 0)
		out[0] = tag[0];
	if (tags > 1)
		out[1] = tag[1];
	at = (void *)(p->eth + 1) + tags * 4;
	if (at + room > p->end)
		return NULL;
	((__be16 *)at)[-1] = room == sizeof(struct iphdr) ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	return at;
}

static __always_inline bool encapsulate4(struct xdp_md *ctx, struct packet *p, __be32 from, __be32 to)
{
	struct iphdr outer = {
		.version = 4,
		.ihl = 5,
		.tos = p->ip4->tos,
		.tot_len = bpf_htons(bpf_ntohs(p->ip4->tot_len) + sizeof(outer)),
		.frag_off = bpf_htons(0x4000),
		.ttl = OUTER_HOPS,
		.protocol = IPPROTO_IPIP,
		.saddr = from,
		.daddr = to,
	};
	__u16 *word = (__u16 *)&outer;
	struct iphdr *at;
	__u64 sum = 0;

#pragma unroll
	for (unsigned int i = 0; i < sizeof(outer) / 2; i++)
		sum += word[i];
	outer.check = ~fold(sum);
	at = push(ctx, p, sizeof(outer));
	if (!at)
		return false;
	*at = outer;
	return true;
}

static __always_inline bool encapsulate6(struct xdp_md *ctx, struct packet *p, const struct address *from,
					 const struct address *to, __u32 hash)
{
	__u32 class = bpf_ntohl(*(__be32 *)p->ip6) & 0x0ff00000;
	__be16 length = bpf_htons(bpf_ntohs(p->ip6->payload_len) + sizeof(struct ipv6hdr));
	struct ipv6hdr *at = push(ctx, p, sizeof(*at));

	if (!at)
		return false;
	*(__be32 *)at = bpf_htonl(6U << 28 | class | (hash & 0xfffff));
	at->payload_len = length;
	at->nexthdr = IPPROTO_IPV6;
	at->hop_limit = OUTER_HOPS;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		at->saddr.s6_addr32[i] = from->word[i];
		at->daddr.s6_addr32[i] = to->word[i];
	}
	return true;
}

static __always_inline bool encapsulate(struct xdp_md *ctx, struct packet *p, const struct address *to, __u32 hash)
{
	__u32 zero = 0;
	struct self *from = bpf_map_lookup_elem(&self, &zero);

	if (!from)
		return false;
	if (p->ip4)
		return encapsulate4(ctx, p, from->addr4.word[3], to->word[3]);
	return encapsulate6(ctx, p, &from->addr6, to, hash);
}

// pick returns the backend of a flow, or NULL if there is none of the packet's family.
static __always_inline struct backend *pick(const struct packet *p, __u32 index, __u32 hash)
{
	struct table *table = bpf_map_lookup_elem(&tables, &index);
	struct backend *backend;
	__u64 slot = hash % TABLE_SIZE;
	__u32 id;

	if (!table)
		return NULL;
	asm volatile("" : "+r"(slot)); // the verifier does not follow the remainder: the compiler must keep the check
	if (slot >= TABLE_SIZE)
		return NULL;
	id = table->backend[slot];
	if (!id)
		return NULL;
	backend = bpf_map_lookup_elem(&backends, &id);
	if (!backend || !is_set(&backend->addr) || is_ip4(&backend->addr) != !!p->ip4)
		return NULL;
	return backend;
}

// forward sends the packet to a backend of vip.
static __always_inline int forward(struct xdp_md *ctx, struct packet *p, const struct vip *vip,
				   const struct service *to)
{
	__u64 length = p->end - (void *)p->eth;
	struct address source = {};
	struct backend *backend;
	struct counter *counter;
	__u32 hash, index = vip->index;
	bool sent;

	counter = bpf_map_lookup_elem(&counters, &index);
	if (!counter)
		return XDP_DROP;
	source_of(p, &source);
	hash = flow_hash(&source, p->sport, to);
	backend = pick(p, index, hash);
	if (!backend) {
		counter->dropped++;
		return XDP_DROP;
	}
	if (!take_hop(p))
		return XDP_PASS;

	__builtin_memcpy(p->eth->h_source, p->eth->h_dest, ETH_ALEN);
	__builtin_memcpy(p->eth->h_dest, backend->mac, ETH_ALEN);
	if (vip->flags & VIP_ENCAPSULATE)
		sent = encapsulate(ctx, p, &backend->addr, hash);
	else
		sent = rewrite(p, false, &backend->addr, backend->port ? backend->port : to->port);
	if (!sent) {
		counter->dropped++;
		return XDP_DROP;
	}
	counter->packets++;
	counter->bytes += length;
	return XDP_TX;
}

SEC("xdp")
int l4lb(struct xdp_md *ctx)
{
	struct service from = {}, to = {};
	struct packet p = {};
	struct origin *origin;
	struct vip *vip;

	if (!parse_ip(ctx, &p) || parse_ports(&p) != PORTS_FOUND)
		return XDP_PASS;
	if (p.proto != IPPROTO_TCP && p.proto != IPPROTO_UDP)
		return XDP_PASS;
	if (p.fragment != FRAGMENT_NONE || p.routed || !whole(&p))
		return XDP_PASS;

	destination_of(&p, &to.addr);
	to.port = p.dport;
	to.proto = p.proto;
	vip = bpf_map_lookup_elem(&vips, &to);
	if (vip)
		return forward(ctx, &p, vip, &to);

	source_of(&p, &from.addr);
	from.port = p.sport;
	from.proto = p.proto;
	origin = bpf_map_lookup_elem(&origins, &from);
	if (origin && is_ip4(&origin->addr) == !!p.ip4)
		rewrite(&p, true, &origin->addr, origin->port);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
