// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// sampler copies the start of one in every N packets to a ring buffer and never decides about a packet.
//
// It returns XDPD_CONTINUE, so the next member of a chain runs whatever proceed-on set the sampler has. It is
// for chains only: attached to an interface without xdpd it would drop all packets, because the kernel does
// not know that return code.
#include "parse.h"
#include "xdpd.h"

#define HEADER 128

// sample is a record of the ring buffer.
struct sample {
	__u64 time;     // CLOCK_MONOTONIC, in ns
	__u32 ifindex;  // that it came in on
	__u32 queue;    // that it came in on
	__u32 length;   // of the packet, from the Ethernet header on
	__u32 captured; // bytes of header that are the packet's; the others are zero
	__u8 header[HEADER];
};

struct config {
	__u32 every; // N; 0: no packet, which is what a new map says
	__u32 zero;
};

struct stats {
	__u64 packets; // seen since N was first set
	__u64 sampled; // in the ring buffer
	__u64 lost;    // not, because it was full
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct stats);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18); // in bytes
} samples SEC(".maps");

// capture copies up to HEADER bytes to a place that is zero. It returns how many it copied.
static __always_inline __u32 capture(void *from, void *end, __u8 *to)
{
	__u32 n;

	for (n = 0; n < HEADER; n += 8) {
		if (from + n + 8 > end)
			break;
		*(__u64 *)(to + n) = *(__u64 *)(from + n);
	}
	for (; n < HEADER; n++) {
		if (from + n + 1 > end)
			break;
		to[n] = *(__u8 *)(from + n);
	}
	return n;
}

SEC("xdp")
int sampler(struct xdp_md *ctx)
{
	struct sample *sample;
	void *data, *end;
	struct config *c;
	struct stats *s;
	__u32 zero = 0, every;

	c = bpf_map_lookup_elem(&config, &zero);
	s = bpf_map_lookup_elem(&stats, &zero);
	if (!c || !s)
		return XDPD_CONTINUE;
	every = c->every;
	if (!every)
		return XDPD_CONTINUE;
	if (s->packets++ % every)
		return XDPD_CONTINUE;

	sample = bpf_ringbuf_reserve(&samples, sizeof(*sample), 0);
	if (!sample) {
		s->lost++;
		return XDPD_CONTINUE;
	}
	sample->time = bpf_ktime_get_ns();
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	sample->ifindex = ctx->ingress_ifindex;
	sample->queue = ctx->rx_queue_index;
	sample->length = end - data;
	__builtin_memset(sample->header, 0, HEADER);
	sample->captured = capture(data, end, sample->header);
	bpf_ringbuf_submit(sample, 0);
	s->sampled++;
	return XDPD_CONTINUE;
}

char _license[] SEC("license") = "Dual BSD/GPL";
