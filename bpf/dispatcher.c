//go:build ignore
// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The dispatcher: one XDP program with 64 slots, each a function that the kernel can replace by a user's
// program (BPF_PROG_TYPE_EXT, Linux 5.10 or later for more than one attachment of a program).
//
// It is compiled once. What differs between revisions are constants in its instructions, written by the
// loader in place of the marks below before it is loaded; the kernel's verifier then follows only the
// branches that can be taken and removes the others, so that slots that are not used cost nothing.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define SLOTS 64
#define CLASSES 8 /* verdicts 0 to 4, 5 for all others, two that are not used */
#define XDPD_CONTINUE 31

/* Marks: `w = mark` is an instruction whose constant the loader replaces. */
#define MARK_PROCEED 0x5d0d0000 /* + slot: its proceed-on mask with bit 31 set, or 0 from the end of the chain on */
#define MARK_FINAL 0x5d0e0000 /* the final verdict */

#define constant(mark)                                            \
	({                                                        \
		__u32 value;                                      \
		asm volatile("%0 = %1" : "=w"(value) : "i"(mark)); \
		value;                                            \
	})

/* Where packets left the chain, and with which verdict. Row SLOTS of the table is not special: in a chain of
 * n members, row n counts the packets that passed all of them. */
struct exits {
	__u64 packets[SLOTS + 1][CLASSES];
};

/* A shadow revision (dispatcher/shadow.go) is compiled with TRACE: it notes what each member returned, for one
 * packet after the other. */
#ifdef TRACE
struct {
	__u32 ran, verdict;
} volatile trace[SLOTS];

#define NOTE(t, n) (trace[NUMBER(t, n)].ran = 1, trace[NUMBER(t, n)].verdict = verdict)
#else
#define NOTE(t, n) ((void)0)
#endif

/* One element for each CPU: an XDP program is not preempted by another one on the same CPU, so a plain
 * increment is exact. The loader sets max_entries to the number of possible CPUs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exits);
} counters SEC(".maps");

/* A slot function is global and not inlined, so that it can be replaced. It returns a volatile value, so that
 * the compiler assumes nothing of its verdict; and it calls bpf_xdp_adjust_tail, a no-op with 0, because Linux
 * from 6.12 on refuses a replacement that changes the packet, or makes tail calls, where the function it
 * replaces does not change the packet. */
#define STUB(t, n)                                                            \
	__attribute__((noinline)) int slot_##t##n(struct xdp_md *ctx)         \
	{                                                                     \
		volatile int verdict = XDPD_CONTINUE;                         \
                                                                              \
		if (!ctx)                                                     \
			return XDP_ABORTED;                                   \
		bpf_xdp_adjust_tail(ctx, 0);                                  \
		return verdict;                                               \
	}

#define NUMBER(t, n) (1##t##n - 100) /* 08 alone would be a bad octal */

#define RUN(t, n)                                                       \
	{                                                               \
		__u32 proceed = constant(MARK_PROCEED + NUMBER(t, n));  \
                                                                        \
		slot = NUMBER(t, n);                                    \
		if (!proceed)                                           \
			goto end;                                       \
		verdict = slot_##t##n(ctx);                             \
		NOTE(t, n);                                             \
		if (verdict > 31 || !(proceed >> verdict & 1))          \
			goto leave;                                     \
	}

#define EACH_SLOT(X)                                                                     \
	X(0, 0) X(0, 1) X(0, 2) X(0, 3) X(0, 4) X(0, 5) X(0, 6) X(0, 7) X(0, 8) X(0, 9) \
	X(1, 0) X(1, 1) X(1, 2) X(1, 3) X(1, 4) X(1, 5) X(1, 6) X(1, 7) X(1, 8) X(1, 9) \
	X(2, 0) X(2, 1) X(2, 2) X(2, 3) X(2, 4) X(2, 5) X(2, 6) X(2, 7) X(2, 8) X(2, 9) \
	X(3, 0) X(3, 1) X(3, 2) X(3, 3) X(3, 4) X(3, 5) X(3, 6) X(3, 7) X(3, 8) X(3, 9) \
	X(4, 0) X(4, 1) X(4, 2) X(4, 3) X(4, 4) X(4, 5) X(4, 6) X(4, 7) X(4, 8) X(4, 9) \
	X(5, 0) X(5, 1) X(5, 2) X(5, 3) X(5, 4) X(5, 5) X(5, 6) X(5, 7) X(5, 8) X(5, 9) \
	X(6, 0) X(6, 1) X(6, 2) X(6, 3)

EACH_SLOT(STUB)

SEC("xdp")
int xdpd_dispatcher(struct xdp_md *ctx)
{
	struct exits *row;
	__u32 verdict, slot, cpu, class;

	EACH_SLOT(RUN)
	slot = SLOTS;
end:
	verdict = constant(MARK_FINAL);
leave:
	cpu = bpf_get_smp_processor_id();
	row = bpf_map_lookup_elem(&counters, &cpu);
	if (!row)
		return verdict;
	class = verdict;
	asm volatile("" : "+w"(class)); /* else the bound is checked on another register than the one used */
	if (class > XDP_REDIRECT)
		class = XDP_REDIRECT + 1;
	row->packets[slot][class]++;
	return verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
