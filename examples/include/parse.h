// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Reads a packet's headers from Ethernet up to the ports, and trusts no length in them.
// VLAN tags that the network card took off are not in the packet and not missed. Tunnels are not looked into.
#ifndef XDPD_EXAMPLES_PARSE_H
#define XDPD_EXAMPLES_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_TAGS 2         // 802.1Q inside 802.1ad; a packet with more is not taken for IP
#define MAX_EXT 8          // IPv6 extension headers; with more the ports count as hidden
#define MAX_HEADERS 0x5000 // bytes before the ports: more than MAX_EXT headers can have

enum fragment {
	FRAGMENT_NONE,
	FRAGMENT_FIRST,
	FRAGMENT_LATER,
};

// ports says what parse_ports found.
enum ports {
	PORTS_NONE,   // a protocol without ports, a later fragment, or a packet that ends too early
	PORTS_FOUND,  // sport and dport are valid
	PORTS_HIDDEN, // IPv6 headers arranged so that no filter can see the ports; no honest sender does this
};

// packet holds what has been read. The pointers are into the packet and no longer valid after
// bpf_xdp_adjust_head and its like.
struct packet {
	void *end;
	struct ethhdr *eth;
	struct iphdr *ip4;   // NULL if not IPv4
	struct ipv6hdr *ip6; // NULL if not IPv6
	void *l4;            // the four bytes of ports and more, after PORTS_FOUND
	enum fragment fragment;
	bool routed; // has an IPv6 routing header: the destination may not be the final one
	__u8 tags;   // VLAN tags
	__u8 proto;  // behind IPv6 extension headers
	__be16 sport;
	__be16 dport;
};

// address is an IPv6 address, or an IPv4 one as ::ffff:a.b.c.d.
struct address {
	__be32 word[4];
};

struct vlan_tag {
	__be16 tci;
	__be16 type;
};

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset; // in units of 8 bytes, in the upper 13 bits
	__be32 id;
};

// parse_ip reads the Ethernet header, the VLAN tags and the fixed part of the IP header.
// It returns false if there is no whole one.
static __always_inline bool parse_ip(struct xdp_md *ctx, struct packet *p)
{
	void *at = (void *)(long)ctx->data;
	__be16 type;

	p->end = (void *)(long)ctx->data_end;
	p->eth = at;
	if (at + sizeof(*p->eth) > p->end)
		return false;
	type = p->eth->h_proto;
	at += sizeof(*p->eth);

#pragma unroll
	for (int i = 0; i < MAX_TAGS; i++) {
		struct vlan_tag *tag = at;

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if (at + sizeof(*tag) > p->end)
			return false;
		type = tag->type;
		at += sizeof(*tag);
		p->tags++;
	}

	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = at;

		if (at + sizeof(*ip) > p->end || ip->version != 4 || ip->ihl < 5)
			return false;
		p->ip4 = ip;
		return true;
	}
	if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = at;

		if (at + sizeof(*ip) > p->end || ip->version != 6)
			return false;
		p->ip6 = ip;
		return true;
	}
	return false;
}

static __always_inline void read_address4(__be32 from, struct address *to)
{
	to->word[0] = 0;
	to->word[1] = 0;
	to->word[2] = bpf_htonl(0xffff);
	to->word[3] = from;
}

static __always_inline void read_address6(const struct in6_addr *from, struct address *to)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		to->word[i] = from->s6_addr32[i];
}

static __always_inline void source_of(const struct packet *p, struct address *to)
{
	if (p->ip4)
		read_address4(p->ip4->saddr, to);
	else if (p->ip6)
		read_address6(&p->ip6->saddr, to);
}

static __always_inline void destination_of(const struct packet *p, struct address *to)
{
	if (p->ip4)
		read_address4(p->ip4->daddr, to);
	else if (p->ip6)
		read_address6(&p->ip6->daddr, to);
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

// anywhere returns at, of which the verifier then knows only that it is in the packet: otherwise it checks all
// that follows once for each arrangement of headers that can lead there, and large programs are too much for it.
static __always_inline void *anywhere(const struct packet *p, void *at)
{
	__u64 offset = at - (void *)p->eth;

	asm volatile("" : "+r"(offset)); // or the compiler would see that this changes nothing
	if (offset > MAX_HEADERS)
		return NULL;
	return (void *)p->eth + offset;
}

// skip_ip4 finds what is behind an IPv4 header and its options. It returns NULL in a later fragment.
static __always_inline void *skip_ip4(struct packet *p)
{
	struct iphdr *ip = p->ip4;

	p->proto = ip->protocol;
	if (ip->frag_off & bpf_htons(0x1fff)) {
		p->fragment = FRAGMENT_LATER;
		return NULL;
	}
	if (ip->frag_off & bpf_htons(0x2000))
		p->fragment = FRAGMENT_FIRST;
	return anywhere(p, (void *)ip + ip->ihl * 4);
}

// skip_ip6 finds what is behind the extension headers. It returns NULL in a later fragment, and where
// the headers do not end; hidden is then true if that was no accident.
static __always_inline void *skip_ip6(struct packet *p, bool *hidden)
{
	void *at = (void *)(p->ip6 + 1);
	__u8 next = p->ip6->nexthdr;

	for (int i = 0; i <= MAX_EXT; i++) {
		struct fragment_header *fragment;
		struct ipv6_opt_hdr *ext;

		fragment = at = anywhere(p, at);
		ext = at;
		if (!at)
			break;
		p->proto = next;
		switch (next) {
		case IPPROTO_ROUTING:
			p->routed = true;
			break;
		case IPPROTO_HOPOPTS:
		case IPPROTO_DSTOPTS:
		case IPPROTO_MH:
		case IPPROTO_AH:
		case IPPROTO_FRAGMENT:
			break;
		default:
			return at;
		}
		if (at + 8 > p->end) { // all of them have at least 8 bytes
			*hidden = p->fragment == FRAGMENT_FIRST;
			return NULL;
		}
		if (next == IPPROTO_FRAGMENT) {
			p->proto = fragment->next;
			if (fragment->offset & bpf_htons(0xfff8)) {
				p->fragment = FRAGMENT_LATER;
				return NULL;
			}
			if (fragment->offset & bpf_htons(1))
				p->fragment = FRAGMENT_FIRST;
			at += 8;
		} else if (next == IPPROTO_AH) {
			at += (ext->hdrlen + 2) * 4;
		} else {
			at += (ext->hdrlen + 1) * 8;
		}
		next = ext->nexthdr;
	}
	*hidden = true;
	return NULL;
}

// parse_ports reads on from what parse_ip found, to the ports.
static __always_inline enum ports parse_ports(struct packet *p)
{
	bool hidden = false;
	__be16 *port;

	if (p->ip4)
		port = skip_ip4(p);
	else
		port = skip_ip6(p, &hidden);
	if (!port)
		return hidden ? PORTS_HIDDEN : PORTS_NONE;
	if (!has_ports(p->proto))
		return PORTS_NONE;
	if ((void *)(port + 2) > p->end)
		return p->ip6 && p->fragment == FRAGMENT_FIRST ? PORTS_HIDDEN : PORTS_NONE;
	p->l4 = port;
	p->sport = port[0];
	p->dport = port[1];
	return PORTS_FOUND;
}

#endif
