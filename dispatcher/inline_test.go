// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"fmt"
	"math/rand"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// The objects in testdata/inline are built there with
//
//	clang -O2 -g -fdebug-compilation-dir=. -target bpf -mcpu=v2 -I/usr/include/$(uname -m)-linux-gnu -c $n.c -o $n.o && llvm-strip -g $n.o
//
// (-mcpu=v3 for loop, globals and same_b); nobtf.o then loses its BTF to
//
//	llvm-objcopy --remove-section .BTF --remove-section .BTF.ext nobtf.o

// inlinePart is a member with what a test needs of it: its collection, as loaded alone.
type inlinePart struct {
	inlineMember
	coll *ebpf.Collection
}

// set makes a part that is built on step.h return verdict from now on.
func (p inlinePart) set(t *testing.T, verdict uint64) {
	t.Helper()
	if err := p.coll.Variables["verdict"].Set(verdict); err != nil {
		t.Fatal(err)
	}
}

// inlineObject loads a function of an object of testdata/inline alone, which creates its maps, and makes it a
// member after which PASS proceeds. Functions that its maps refer to are to be named too.
func inlineObject(t *testing.T, id uint8, file, function string, others ...string) inlinePart {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec(filepath.Join("testdata", "inline", file+".o"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range spec.Programs {
		if name != function && !slices.Contains(others, name) {
			delete(spec.Programs, name)
		}
	}
	if v := spec.Variables["id"]; v != nil {
		if err := v.Set(id); err != nil {
			t.Fatal(err)
		}
	}
	return inlineAlone(t, fmt.Sprintf("%s-%d", function, id), spec, function)
}

func inlineAlone(t *testing.T, name string, spec *ebpf.CollectionSpec, function string) inlinePart {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("load %s alone: %+v", function, err)
	}
	t.Cleanup(coll.Close)
	return inlinePart{inlineMember{name, spec.Programs[function], coll.Maps, chain.Of(chain.Pass)}, coll}
}

// inlineCode makes a member of instructions without BTF.
func inlineCode(name string, insns ...asm.Instruction) inlineMember {
	return inlineMember{name, &ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: insns}, nil, chain.Of(chain.Pass)}
}

func inlineMembers(parts ...inlinePart) []inlineMember {
	members := make([]inlineMember, len(parts))
	for i, p := range parts {
		members[i] = p.inlineMember
	}
	return members
}

// inlineChain is a linked and loaded chain.
type inlineChain struct {
	prog     *ebpf.Program
	linked   *ebpf.ProgramSpec // also if it could not be loaded
	counters *ebpf.Map
	counted  chain.Exits // what counters should hold
}

func inlineTryLoad(t *testing.T, final chain.Verdict, members ...inlineMember) (*inlineChain, error) {
	t.Helper()
	return inlineTryFrames(t, final, false, members...)
}

// inlineTryFrames links and loads a chain, if need be or always with clean frames.
func inlineTryFrames(t *testing.T, final chain.Verdict, always bool, members ...inlineMember) (*inlineChain, error) {
	t.Helper()
	counters, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.Array, KeySize: 4, ValueSize: (chain.MaxMembers + 1) * chain.Classes * 8,
		MaxEntries: uint32(ebpf.MustPossibleCPU()), Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { counters.Close() })
	prog, linked, err := inlineCreate(func(clean bool) (*ebpf.ProgramSpec, error) {
		return inlineLink("xdpd", members, final, inlineMaps{counters: counters}, clean || always)
	})
	if err == nil {
		t.Cleanup(func() { prog.Close() })
	}
	return &inlineChain{prog: prog, linked: linked, counters: counters}, err
}

func inlineLoad(t *testing.T, final chain.Verdict, members ...inlineMember) *inlineChain {
	t.Helper()
	c, err := inlineTryLoad(t, final, members...)
	if err != nil {
		t.Fatalf("load the chain (blame %q): %+v", inlineBlame(err, members, c.linked), err)
	}
	return c
}

// run sends a packet of 128 zeros through the chain and expects a verdict, a trail, and one packet more in
// the counters at slot and class.
func (c *inlineChain) run(t *testing.T, verdict uint32, trail []byte, slot, class int) {
	t.Helper()
	out := c.packet(t, verdict, make([]byte, 128))
	if got := out[1 : 1+out[0]]; !slices.Equal(got, trail) {
		t.Fatalf("members %v ran, want %v", got, trail)
	}
	c.counted[slot][class]++
	c.check(t)
}

// packet sends a packet through the chain, expects a verdict and returns what came out.
func (c *inlineChain) packet(t *testing.T, verdict uint32, data []byte) []byte {
	t.Helper()
	opts := ebpf.RunOptions{Data: data, DataOut: make([]byte, 512), Repeat: 1}
	ret, err := c.prog.Run(&opts)
	if err != nil {
		t.Fatal(err)
	}
	if ret != verdict {
		t.Fatalf("the chain returned %d, want %d", ret, verdict)
	}
	return opts.DataOut
}

// check compares the counters with what was counted.
func (c *inlineChain) check(t *testing.T) {
	t.Helper()
	var sum chain.Exits
	for cpu := range uint32(ebpf.MustPossibleCPU()) {
		var one chain.Exits
		if err := c.counters.Lookup(cpu, &one); err != nil {
			t.Fatal(err)
		}
		sum.Add(&one)
	}
	if sum != c.counted {
		t.Fatalf("counters %v, want %v", sum, c.counted)
	}
}

// inlineModel says what a chain does: the verdict, how many members run, and where it is counted.
func inlineModel(returns []uint64, on []chain.ProceedOn, final chain.Verdict) (verdict uint32, ran, slot, class int) {
	for i, r := range returns {
		switch ret := uint32(r); {
		case ret == 31, ret <= 4 && on[i]&(1<<ret) != 0:
		default:
			return ret, i + 1, i, min(int(ret), chain.ClassOther)
		}
	}
	return uint32(final), len(returns), len(returns), int(final)
}

func inlineTrail(n int) []byte {
	trail := make([]byte, n)
	for i := range trail {
		trail[i] = byte(i + 1)
	}
	return trail
}

// inlineReturns are what members return in the tests: each verdict, and what is none.
var inlineReturns = []uint64{
	0, 1, 2, 3, 4, 5, 6, 7, 8, 30, 31, 32, 33, 34, 36, 63, 64, 95,
	0x7fffffff, 0x80000002, 0xffffffff, 0x100000002, 0x10000001f, 0x200000000, 0xffffffff00000001, 1 << 63,
}

func TestInlineEachVerdict(t *testing.T) {
	parts := []inlinePart{inlineObject(t, 1, "step", "step"), inlineObject(t, 2, "step", "step")}
	for set := range chain.ProceedOn(32) {
		parts[0].proceedOn, parts[1].proceedOn = set, ^set&31
		final := chain.Verdict(set % 5)
		c := inlineLoad(t, final, inlineMembers(parts...)...)
		for _, first := range inlineReturns {
			for _, second := range inlineReturns {
				parts[0].set(t, first)
				parts[1].set(t, second)
				verdict, ran, slot, class := inlineModel([]uint64{first, second}, []chain.ProceedOn{set, ^set & 31}, final)
				c.run(t, verdict, inlineTrail(ran), slot, class)
			}
		}
	}
}

// inlineSteps are n members that do what those of step.c do. What they return is all in one map: a program
// cannot have more than 64.
func inlineSteps(t *testing.T, n int) (members []inlineMember, returns *ebpf.Map) {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	returns, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8 * chain.MaxMembers, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { returns.Close() })
	for i := range n {
		m := inlineCode(fmt.Sprintf("step-%d", i+1),
			asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
			asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, 1),
			asm.JGT.Reg(asm.R4, asm.R3, "return"),
			asm.LoadMem(asm.R6, asm.R2, 0, asm.Byte),
			asm.Add.Reg(asm.R4, asm.R6),
			asm.Mov.Reg(asm.R5, asm.R4),
			asm.Add.Imm(asm.R5, 1),
			asm.JGT.Reg(asm.R5, asm.R3, "return"),
			asm.StoreImm(asm.R4, 0, int64(i+1), asm.Byte),
			asm.Add.Imm(asm.R6, 1),
			asm.StoreMem(asm.R2, 0, asm.R6, asm.Byte),
			asm.LoadMapValue(asm.R1, 0, uint32(8*i)).WithReference("returns").WithSymbol("return"),
			asm.LoadMem(asm.R0, asm.R1, 0, asm.DWord),
			asm.Return(),
		)
		m.maps = map[string]*ebpf.Map{"returns": returns}
		members = append(members, m)
	}
	return members, returns
}

func TestInlineLengths(t *testing.T) {
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	members, returnsMap := inlineSteps(t, chain.MaxMembers)
	for _, n := range []int{0, 1, 2, 3, 10, 63, 64} {
		for final := range chain.Verdict(5) {
			on := make([]chain.ProceedOn, n)
			for i := range on {
				on[i] = chain.ProceedOn(random.Intn(32))
				members[i].proceedOn = on[i]
			}
			c := inlineLoad(t, final, members[:n]...)
			for range 50 {
				returns := inlineRandomReturns(random, on)
				var all [chain.MaxMembers]uint64
				copy(all[:], returns)
				if err := returnsMap.Put(uint32(0), all); err != nil {
					t.Fatal(err)
				}
				verdict, ran, slot, class := inlineModel(returns, on, final)
				c.run(t, verdict, inlineTrail(ran), slot, class)
			}
		}
	}
	if _, err := inlineLink("", make([]inlineMember, chain.MaxMembers+1), chain.Pass, inlineMaps{}, false); err == nil {
		t.Error("65 members were linked")
	}
}

// inlineRandomReturns are return values with which a random number of members proceed at least.
func inlineRandomReturns(random *rand.Rand, on []chain.ProceedOn) []uint64 {
	returns := make([]uint64, len(on))
	stop := random.Intn(len(on) + 1)
	for i := range returns {
		returns[i] = inlineReturns[random.Intn(len(inlineReturns))]
		if i < stop {
			verdicts := append(on[i].Verdicts(), chain.Continue)
			returns[i] = uint64(verdicts[random.Intn(len(verdicts))])
		}
	}
	return returns
}

func TestInlinePacketChanges(t *testing.T) {
	part := func(name string) inlineMember { return inlineObject(t, 1, "adjust", name).inlineMember }
	c := inlineLoad(t, chain.Pass, part("push"), part("push"), part("drop_tail"), part("length"), part("pull"))
	out := c.packet(t, 2, make([]byte, 100))
	// Two pushes and the tail make 104 bytes, their length is written over the second 4 and pull takes the first.
	if want := append([]byte{104, 0, 0, 0}, make([]byte, 96)...); !slices.Equal(out, want) {
		t.Errorf("the packet is % x, want % x", out, want)
	}
}

// inlineNeeds ends a test on kernels older than major.minor.
func inlineNeeds(t *testing.T, major, minor uint32) {
	t.Helper()
	code, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	if code < major<<16|minor<<8 {
		t.Skipf("needs Linux %d.%d", major, minor)
	}
}
