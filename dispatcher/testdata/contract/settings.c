// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Global variables of all kinds, in all sections, and maps of sizes to set.
#include <stdbool.h>
#include "contract.h"

enum small { NONE, SOME = 7, NEGATIVE = -3 };
typedef __u16 port;

const volatile enum xdp_action code = XDP_PASS;
const volatile bool strict;
const volatile __s8 s8 = -1;
const volatile __u8 u8 = 1;
volatile __s16 s16 = -2;
volatile port u16 = 2;
volatile __s32 s32;
volatile __u32 u32;
volatile __s64 s64 = -4;
volatile __u64 u64;
volatile enum small level = SOME;
const volatile port ports[4] = { 1, 2, 3, 4 };
volatile __s32 grid[2][3];
volatile bool flags[3];
volatile char name[8] = "default";
volatile char lines[2][4];
volatile __u8 mac[6];
volatile struct pair {
	int a, b;
} pair;
void *volatile pointer;
const volatile __u32 in_rodata SEC(".rodata.limits") = 4;
volatile __u32 in_data SEC(".data.limits") = 5;
volatile __u32 elsewhere SEC(".data.other") = 6;
static volatile __u32 only_static = 8;
volatile __int128 huge;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u32);
} unsized SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} other SEC(".maps");

int settings(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__array(values, int(struct xdp_md *));
} filled SEC(".maps") = { .values = { [1] = settings } };

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { [2] = &inner } };

// settings ends with the verdict that it is set to, and refers to everything.
SEC("xdp") int settings(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	__u64 sum = u8 + s8 + s16 + u16 + s32 + u32 + s64 + u64 + level + flags[key & 1] + name[key & 7] + mac[key & 3];

	observe(ctx);
	next_code(ctx);
	sum += ports[key & 3] + grid[1][key & 1] + lines[1][key & 3] + pair.a + (long)pointer + in_rodata + in_data + only_static;
	sum += (__u64)huge;
	bpf_map_update_elem(&unsized, &key, &key, BPF_ANY);
	if (bpf_map_lookup_elem(&outer, &key))
		sum++;
	s64 = sum;
	return strict && u32 != 32 ? XDP_ABORTED : code;
}

// recursive has what settings has not.
SEC("xdp") int recursive(struct xdp_md *ctx)
{
	__u32 key = elsewhere;

	observe(ctx);
	next_code(ctx);
	bpf_map_lookup_elem(&other, &key);
	bpf_tail_call(ctx, &filled, 0);
	return XDP_PASS;
}
