// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The maps of l4lb. The types are in maps.go once more, for user space.
#ifndef XDPD_EXAMPLES_L4LB_MAPS_H
#define XDPD_EXAMPLES_L4LB_MAPS_H

#include "parse.h"

#define TABLE_SIZE 16381 // a prime
#define MAX_VIPS 32
#define MAX_BACKENDS 1024

#define VIP_ENCAPSULATE 1

// service is an address and port that clients or backends know.
struct service {
	struct address addr;
	__be16 port;
	__u8 proto;
	__u8 zero;
};

struct vip {
	__u32 index; // into tables and counters
	__u32 flags; // VIP_ENCAPSULATE or 0: rewrite
};

struct table {
	__u32 backend[TABLE_SIZE]; // indexes into backends; 0: none
};

struct backend {
	struct address addr; // of the service's family
	__be16 port;         // 0: the service's; not used when encapsulating
	__u8 mac[6];         // of the backend or the router on the way to it
};

struct origin {
	struct address addr;
	__be16 port;
	__u16 zero;
};

// self is what the outer headers have as source.
struct self {
	struct address addr4;
	struct address addr6;
};

struct counter {
	__u64 packets; // sent to a backend
	__u64 bytes;   // of these, as they came in
	__u64 dropped; // no backend, or no room to encapsulate
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIPS);
	__type(key, struct service);
	__type(value, struct vip);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VIPS);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

// origins has, for the address and port that a backend answers from, what the client knows it as.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, struct service);
	__type(value, struct origin);
} origins SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct self);
} self SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_VIPS);
	__type(key, __u32);
	__type(value, struct counter);
} counters SEC(".maps");

#endif
