// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <xdpd.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u16);
} port SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2); // dropped, passed
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

static int count(__u32 index, int verdict)
{
	__u64 *n = bpf_map_lookup_elem(&packets, &index);

	if (n)
		(*n)++;
	return verdict;
}

SEC("xdp")
int shield(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 zero = 0;
	__u16 *denied = bpf_map_lookup_elem(&port, &zero);

	if (!denied || !*denied)
		return XDPD_CONTINUE; // not set up: as if it were not there

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return count(1, XDP_PASS);
	if (ip->ihl != 5 || ip->protocol != IPPROTO_UDP || (ip->frag_off & bpf_htons(0x1fff)))
		return count(1, XDP_PASS);
	if (udp->dest == bpf_htons(*denied))
		return count(0, XDP_DROP);
	return count(1, XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
