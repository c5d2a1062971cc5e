// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/examples"
	"github.com/xdpd/xdpd/examples/l4lb"
)

func TestInlineStale(t *testing.T) {
	ret := asm.Return()
	pass := func(offset int32) asm.Instructions { // a pointer into the frame to a function
		return asm.Instructions{asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, offset), asm.FnMapLookupElem.Call(), ret}
	}
	put := func(offset int16, size asm.Size) asm.Instruction {
		return asm.Instruction{OpCode: asm.StoreImmOp(size), Dst: asm.R10, Offset: offset}
	}
	get := func(offset int16, size asm.Size) asm.Instruction {
		return asm.LoadMem(asm.R0, asm.R10, offset, size)
	}
	for name, c := range map[string]struct {
		want  inlineSlots
		insns asm.Instructions
	}{
		"nothing":             {0, asm.Instructions{ret}},
		"only written":        {0, asm.Instructions{put(-4, asm.Word), ret}},
		"in part":             {0b1, asm.Instructions{put(-4, asm.Word), get(-4, asm.Word), ret}},
		"as a whole":          {0, asm.Instructions{put(-8, asm.DWord), get(-4, asm.Word), ret}},
		"in two parts":        {0b1, asm.Instructions{put(-8, asm.Word), put(-4, asm.Word), get(-8, asm.DWord), ret}},
		"over two slots":      {0b11, asm.Instructions{put(-12, asm.DWord), get(-12, asm.DWord), ret}},
		"another slot":        {0b100, asm.Instructions{put(-8, asm.DWord), get(-24, asm.DWord), ret}},
		"the lowest":          {1 << 63, asm.Instructions{get(-512, asm.Byte), ret}},
		"handed over":         {0b1, append(asm.Instructions{put(-4, asm.Word)}, pass(-4)...)},
		"handed over, whole":  {0, append(asm.Instructions{put(-8, asm.DWord)}, pass(-8)...)},
		"up to the end":       {0b11, append(asm.Instructions{put(-24, asm.DWord)}, pass(-24)...)},
		"by a pointer":        {0b11, asm.Instructions{asm.Mov.Reg(asm.R2, asm.R10), asm.LoadMem(asm.R0, asm.R2, -12, asm.Word), ret}},
		"anywhere":            {^inlineSlots(0), asm.Instructions{asm.Mov.Reg(asm.R2, asm.R10), asm.Sub.Reg(asm.R2, asm.R0), asm.LoadMem(asm.R0, asm.R2, 0, asm.Word), ret}},
		"on one of two ways":  {0b1, asm.Instructions{asm.JEq.Imm(asm.R1, 0, "read"), put(-8, asm.DWord), get(-8, asm.DWord).WithSymbol("read"), ret}},
		"on both ways":        {0, asm.Instructions{asm.JEq.Imm(asm.R1, 0, "other"), put(-8, asm.DWord), asm.Ja.Label("read"), put(-8, asm.DWord).WithSymbol("other"), get(-8, asm.DWord).WithSymbol("read"), ret}},
		"in the second round": {0b1, asm.Instructions{put(-16, asm.DWord).WithSymbol("again"), asm.JEq.Imm(asm.R1, 0, "out"), get(-8, asm.DWord), put(-8, asm.DWord), asm.Ja.Label("again"), ret.WithSymbol("out")}},
		"not reached":         {0, asm.Instructions{ret, get(-8, asm.DWord), ret}},
		"not in a round back": {0, asm.Instructions{put(-8, asm.DWord), get(-8, asm.DWord).WithSymbol("again"), asm.JEq.Imm(asm.R1, 0, "again"), ret}},
		"atomic":              {0b1, asm.Instructions{asm.StoreXAdd(asm.R10, asm.R1, asm.DWord), ret}},
		"in memory":           {0b11, append(asm.Instructions{asm.Mov.Reg(asm.R3, asm.R10), asm.Add.Imm(asm.R3, -16), asm.StoreMem(asm.R10, -24, asm.R3, asm.DWord)}, pass(-24)...)},
	} {
		if name == "atomic" {
			c.insns[0].Offset = -8
		}
		if got := newInlineFlow(c.insns).stale(); got != c.want {
			t.Errorf("%s: %b, want %b", name, got, c.want)
		}
	}
}

// TestInlineAlwaysClean has frames of all kinds, with what registers and the stack keep for the next member.
func TestInlineAlwaysClean(t *testing.T) {
	load := func(id uint8, file, function, other string) inlineMember {
		return inlineObject(t, id, file, function, other).inlineMember
	}
	members := []inlineMember{
		load(1, "step", "step", ""), load(2, "deep", "deep_256", ""), load(3, "deep", "below_448", ""),
		load(4, "tail", "caller", "target"), load(5, "deep", "indexed", ""),
		load(6, "same_a", "main_same", ""), load(7, "globals", "globals", ""), load(8, "step", "step", ""),
	}
	for range 2 {
		c, err := inlineTryFrames(t, chain.Drop, true, members...)
		if err != nil {
			t.Fatalf("%+v", err)
		}
		var trail []byte
		for _, m := range members {
			trail = append(trail, m.name[len(m.name)-1]-'0')
		}
		c.run(t, 1, trail, len(members), 1)
		slices.Reverse(members)
	}
}

// inlineExamples are eight members of the examples, each twice and configured to drop, send or change a packet.
func inlineExamples(t *testing.T) []inlinePart {
	t.Helper()
	var parts []inlinePart
	for i := range 8 {
		names := []string{"l4lb", "sampler", "ratelimit", "blocklist"}
		objects := [][]byte{examples.L4LB, examples.Sampler, examples.Ratelimit, examples.Blocklist}
		spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(objects[i%4]))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, inlineAlone(t, names[i%4]+"-"+strconv.Itoa(i), spec, names[i%4]))
	}
	put := func(i int, name string, key, value any) {
		t.Helper()
		if err := parts[i].coll.Maps[name].Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
	table := make([]uint32, l4lb.TableSize)
	for i := range table {
		table[i] = 1
	}
	for i, service := range map[int]l4lb.VIP{0: {}, 4: {Flags: l4lb.Encapsulate}} {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 80)
		put(i, "vips", l4lb.NewService(at, 17), service)
		put(i, "tables", uint32(0), table)
		put(i, "backends", uint32(1), l4lb.NewBackend(netip.MustParseAddrPort("10.0.0.1:8080"), []byte{2, 0, 0, 0, 1, 1}))
		put(i, "self", uint32(0), l4lb.Self{Addr4: netip.MustParseAddr("192.0.2.250").As16()})
		put(i+1, "config", uint32(0), [2]uint32{2, 0})
		put(i+2, "config", uint32(0), [2]uint32{1_000_000, 0})
	}
	parts[0].proceedOn = chain.Of(chain.Pass, chain.Tx)
	put(6, "buckets", netip.MustParseAddr("10.9.9.9").As16(), uint64(1)<<62) // no token for ages
	put(3, "denied4", [8]byte{16, 0, 0, 0, 10, 1, 0, 0}, uint32(1))
	put(7, "denied_ports", [4]byte{17, 0, 7777 >> 8, 7777 & 0xff}, uint32(0))
	return parts
}

// inlineUDP is a packet of UDP over IPv4, checksums left out.
func inlineUDP(src, dst string, port uint16) []byte {
	b := make([]byte, 64)
	copy(b[12:], []byte{8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17})
	copy(b[26:], netip.MustParseAddr(src).AsSlice())
	copy(b[30:], netip.MustParseAddr(dst).AsSlice())
	binary.BigEndian.PutUint16(b[36:], port)
	b[39] = 30
	return b
}

// TestInlineTooComplex links examples that are too complex together for some kernels but for clean frames.
func TestInlineTooComplex(t *testing.T) {
	members := inlineExamples(t)
	c, err := inlineTryLoad(t, chain.Aborted, inlineMembers(members...)...)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	plain, err := inlineLink("", inlineMembers(members...), chain.Aborted, inlineMaps{counters: c.counters}, false)
	if err != nil {
		t.Fatal(err)
	}
	n, err := inlineProcessed(t, plain)
	t.Logf("as they are: %d instructions processed, %v", n, err)
	if added := len(c.linked.Instructions) - len(plain.Instructions); (added > 0) != inlineTooComplex(err) {
		t.Errorf("%d stores were added to a chain that loaded with %v", added, err)
	}
	c.sameAsOneByOne(t, inlineExamples(t))

	members = inlineExamples(t)
	if c, err = inlineTryFrames(t, chain.Aborted, true, inlineMembers(members...)...); err != nil {
		t.Fatalf("%+v", err)
	}
	if n, err = inlineProcessed(t, c.linked); err != nil {
		t.Fatal(err)
	}
	t.Logf("with clean frames: %d, by %d stores", n, len(c.linked.Instructions)-len(plain.Instructions))
	c.sameAsOneByOne(t, inlineExamples(t))
}

// sameAsOneByOne compares a chain of inlineExamples with others of these run one by one.
func (c *inlineChain) sameAsOneByOne(t *testing.T, alone []inlinePart) {
	t.Helper()
	slots := map[int]bool{}
	for _, data := range [][]byte{
		make([]byte, 64),
		inlineUDP("10.5.0.1", "192.0.2.9", 53),
		inlineUDP("10.1.2.3", "192.0.2.9", 53),
		inlineUDP("10.5.0.1", "192.0.2.9", 7777),
		inlineUDP("10.9.9.9", "192.0.2.9", 53),
		inlineUDP("10.5.0.1", "192.0.2.0", 80), // the first balancer's
		inlineUDP("10.9.9.9", "192.0.2.0", 80),
		inlineUDP("10.5.0.1", "192.0.2.4", 80), // the second one's
		inlineUDP("10.1.2.3", "192.0.2.4", 80),
	} {
		verdict, slot, want := inlineOneByOne(t, alone, data)
		if got := c.packet(t, verdict, data); !bytes.Equal(got, want) {
			t.Errorf("% x became % x, want % x", data, got, want)
		}
		c.counted[slot][verdict]++
		c.check(t)
		slots[slot] = true
	}
	if len(slots) != 5 {
		t.Errorf("packets left at %v, want at 5 slots", slots)
	}
}

// inlineOneByOne is what a chain of parts with the final verdict ABORTED should do with a packet.
func inlineOneByOne(t *testing.T, parts []inlinePart, data []byte) (verdict uint32, slot int, out []byte) {
	t.Helper()
	for i, p := range parts {
		opts := ebpf.RunOptions{Data: data, DataOut: make([]byte, 512)}
		ret, err := p.coll.Programs[p.spec.Name].Run(&opts)
		if err != nil {
			t.Fatal(err)
		}
		data = opts.DataOut
		if ret != uint32(chain.Continue) && !p.proceedOn.Has(chain.Verdict(ret)) {
			return ret, i, data
		}
	}
	return uint32(chain.Aborted), len(parts), data
}

// inlineProcessed is how many instructions the verifier goes through.
func inlineProcessed(t *testing.T, spec *ebpf.ProgramSpec) (int, error) {
	t.Helper()
	prog, err := ebpf.NewProgramWithOptions(spec, ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats})
	if err != nil {
		return 0, err
	}
	defer prog.Close()
	m := regexp.MustCompile(`processed (\d+) insns`).FindStringSubmatch(prog.VerifierLog)
	if m == nil {
		t.Fatalf("no number in %q", prog.VerifierLog)
	}
	return strconv.Atoi(m[1])
}

// TestInlineNeedsNoCleaning has a chain that would be cleaned if it had to be.
func TestInlineNeedsNoCleaning(t *testing.T) {
	members := inlineMembers(inlineExamples(t)[:4]...)
	c := inlineLoad(t, chain.Pass, members...)
	plain, err := inlineLink("", members, chain.Pass, inlineMaps{counters: c.counters}, false)
	if err != nil {
		t.Fatal(err)
	}
	clean, err := inlineLink("", members, chain.Pass, inlineMaps{counters: c.counters}, true)
	if err != nil {
		t.Fatal(err)
	}
	if got, least, most := len(c.linked.Instructions), len(plain.Instructions), len(clean.Instructions); got != least || most <= least {
		t.Errorf("%d instructions, want %d, with clean frames %d", got, least, most)
	}
	n, err := inlineProcessed(t, c.linked)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("4 members: %d instructions processed", n)
}

// TestInlineTooComplexForGood has members that no linking makes simpler: the error is of the second try.
func TestInlineTooComplexForGood(t *testing.T) {
	member := func(name string) inlineMember { // more than half of the 8192 jumps that the verifier can have open
		insns := asm.Instructions{
			asm.StoreImm(asm.R10, -4, 1, asm.Word),
			asm.LoadMem(asm.R0, asm.R10, -4, asm.Word),
			asm.LoadMem(asm.R6, asm.R1, 16, asm.Word),
		}
		for i := range 5000 {
			insns = append(insns, asm.JEq.Imm(asm.R6, int32(i), "out"))
		}
		return inlineCode(name, append(insns, asm.Mov.Imm(asm.R0, 2).WithSymbol("out"), asm.Return())...)
	}
	members := []inlineMember{member("one"), member("two")}
	inlineLoad(t, chain.Pass, members[0])
	c, err := inlineTryLoad(t, chain.Pass, members...)
	if !inlineTooComplex(err) {
		t.Fatalf("two of them: %+v", err)
	}
	zero := func(ins asm.Instruction) bool { return ins.OpCode == asm.StoreImmOp(asm.DWord) }
	if !slices.ContainsFunc(c.linked.Instructions, zero) {
		t.Error("the last try was without clean frames")
	}
	if blame := inlineBlame(err, members, c.linked); blame != "two" && !errors.Is(err, unix.EFAULT) { // which comes without a log
		t.Errorf("blame %q for %v", blame, err)
	}
	t.Log(err)
}
