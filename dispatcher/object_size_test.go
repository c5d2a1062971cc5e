// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/xdpd/xdpd/chain"
)

// withContent is an object with other content in a section.
func withContent(t testing.TB, data []byte, section string, content []byte) []byte {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Sections, func(s *elf.Section) bool { return s.Name == section })
	data = slices.Concat(data, make([]byte, -len(data)&7))
	header := data[binary.LittleEndian.Uint64(data[40:])+64*uint64(i):] // an Elf64_Shdr
	binary.LittleEndian.PutUint64(header[24:], uint64(len(data)))
	binary.LittleEndian.PutUint64(header[32:], uint64(len(content)))
	return append(data, content...)
}

// deepened is an object whose functions take a pointer to a pointer to a pointer, and so on.
func deepened(t testing.TB, data []byte, pointers int) []byte {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := f.Section(".BTF").Data()
	if err != nil {
		t.Fatal(err)
	}
	order := binary.LittleEndian
	end := 24 + order.Uint32(raw[12:])
	types, n := bytes.Clone(raw[24:end]), uint32(0)
	var prototypes [][]byte
	for rest := types; len(rest) > 0; n++ {
		if info := order.Uint32(rest[4:]); info>>24 == 13 && info&0xffff > 0 {
			prototypes = append(prototypes, rest)
		}
		rest = rest[typeSize(rest, order):]
	}
	for _, p := range prototypes {
		order.PutUint32(p[typeHeader+4:], n+1) // its first parameter
	}
	for i := range uint32(pointers) {
		pointer := make([]byte, typeHeader)
		order.PutUint32(pointer[4:], 2<<24)
		order.PutUint32(pointer[8:], n+i+2)
		types = append(types, pointer...)
	}
	order.PutUint32(types[len(types)-4:], 0) // the last is one to void
	out := slices.Concat(raw[:24], types, raw[end:])
	order.PutUint32(out[12:], uint32(len(types)))
	order.PutUint32(out[16:], uint32(len(types)))
	return withContent(t, data, ".BTF", out)
}

// TestObjectsAreBounded has objects with more of something than the daemon can work with. Without bounds the first
// would end the process, by the depth of its stack.
func TestObjectsAreBounded(t *testing.T) {
	step := objectBytes(t, "step")
	_, err := ParseObject(deepened(t, step, 1<<20), "")
	reason(t, err, chain.ObjectInvalid, "32768 types")
	_, err = ParseObject(deepened(t, step, maxTypes+1), "")
	reason(t, err, chain.ObjectInvalid, "32768 types")
	if _, err = ParseObject(deepened(t, step, maxTypes/2), ""); err != nil {
		t.Errorf("a type of half the depth: %v", err)
	}
	many := &Object{function: "f", spec: &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{}}}
	for i := range maxMaps + 1 {
		many.spec.Maps[fmt.Sprint("m", i)] = &ebpf.MapSpec{}
	}
	reason(t, many.checkMaps(), chain.ObjectInvalid, `"f" refers to 1025 maps`)
	calls := &Object{function: "f", spec: &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{}}}
	for i := range maxMaps + 1 {
		calls.spec.Programs[fmt.Sprint("p", i)] = &ebpf.ProgramSpec{}
	}
	reason(t, calls.checkMaps(), chain.ObjectInvalid, `"f" can call 1025 others`)
}

// TestCountTypes counts the types of a real object, and of what is none.
func TestCountTypes(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(objectBytes(t, "many")))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := f.Section(".BTF").Data()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(objectBytes(t, "many")))
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for range spec.Types.All() {
		want++
	}
	if got := countTypes(raw, binary.LittleEndian, maxTypes); got != want-1 && got != want { // with or without void
		t.Errorf("%d types, want %d", got, want)
	}
	if got := countTypes(raw, binary.LittleEndian, 5); got != 5 {
		t.Errorf("%d types, want 5 to be enough", got)
	}
	for _, bad := range [][]byte{nil, raw[:23], raw[:100], bytes.Repeat([]byte{0xff}, 100)} {
		if got := countTypes(bad, binary.LittleEndian, maxTypes); got != 0 {
			t.Errorf("%d bytes have %d types", len(bad), got)
		}
	}
}

// circling is a program that runs in a circle n times, of three instructions that the verifier looks at each time.
func circling(n uint32) []byte {
	return slices.Concat(
		[]byte{0xb7, 6, 0, 0, 0, 0, 0, 0},                                // r6 = 0
		[]byte{0x07, 6, 0, 0, 1, 0, 0, 0},                                // r6 += 1
		[]byte{0x85, 0, 0, 0, 7, 0, 0, 0},                                // call bpf_get_prandom_u32
		binary.LittleEndian.AppendUint32([]byte{0xa5, 6, 0xfd, 0xff}, n), // if r6 < n goto -3
		[]byte{0xb7, 0, 0, 0, 2, 0, 0, 0},                                // r0 = XDP_PASS
		[]byte{0x95, 0, 0, 0, 0, 0, 0, 0},                                // exit
	)
}

// stepping is the object step with other instructions, and as many of them.
func stepping(t testing.TB, code []byte) *Object {
	t.Helper()
	data := objectBytes(t, "step")
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	size := int(f.Section("xdp").Size)
	nothing := bytes.Repeat([]byte{0xb7, 0, 0, 0, 0, 0, 0, 0}, size/8) // r0 = 0
	data = withContent(t, withContent(t, data, ".relxdp", nil), "xdp", append(nothing[:size-len(code)], code...))
	o, err := ParseObject(data, "")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestContractEndlessProgram has a program that is too much for the verifier. The refusal says so, and its log is no longer
// than it has to be: with each instruction it would be of hundreds of megabytes.
func TestContractEndlessProgram(t *testing.T) {
	b := newBench(t)
	refused := func(n uint32, wrong bool) *chain.Error {
		code := circling(n)
		if wrong {
			copy(code[4*8:], []byte{0xbf, 0x70, 0, 0, 0}) // r0 = r7, which was never set
		}
		_, err := b.plane.Load(Load{ID: 50, Name: "mine", Object: stepping(t, code)})
		return reason(t, err, chain.VerifierRejected, `"mine"`)
	}
	if e := refused(100, true); !strings.Contains(e.Log, "r7") || len(e.Log) < 1000 {
		t.Errorf("the refusal of a short program is %v, with a log of %d bytes", e, len(e.Log))
	}
	if testing.Short() { // a VM without hardware help needs minutes for the rest
		return
	}
	if e := refused(1_000_000, false); !strings.Contains(e.Error(), "too large") || len(e.Log) > 4096 {
		t.Errorf("the refusal is %v, with a log of %d bytes", e, len(e.Log))
	}
	if e := refused(60_000, true); !strings.Contains(e.Error(), "!read_ok") || len(e.Log) > 4096 {
		t.Errorf("the refusal of a long program is %v, with a log of %d bytes", e, len(e.Log))
	}
}

// TestComplaint picks the reason from logs of the verifier.
func TestComplaint(t *testing.T) {
	work := []string{"verification time 741760 usec", "stack depth 16", "processed 1000001 insns (limit 1000000) max_states_per_insn 4 total_states 7 peak_states 8 mark_read 0"}
	for _, c := range []struct {
		log       []string
		want      string
		processed int
	}{
		{append([]string{"BPF program is too large. Processed 1000001 insn"}, work...), "BPF program is too large. Processed 1000001 insn", 1000001},
		{append([]string{"Validating step() func#0...", "R7 !read_ok"}, work...), "R7 !read_ok", 1000001},
		{work, "the verifier does not say why", 1000001},
		{[]string{"last insn is not an exit or jmp"}, "last insn is not an exit or jmp", 0},
	} {
		if got := complaint(c.log); got != c.want || processed(c.log) != c.processed {
			t.Errorf("%q: %q, %d instructions", c.log, got, processed(c.log))
		}
	}
}

// TestContractLoadTakesTurns has as many programs verified as there may be. The next one waits, as long as it likes to.
func TestContractLoadTakesTurns(t *testing.T) {
	b := newBench(t)
	b.check(b.plane.loads.Acquire(t.Context(), loadsAtOnce))
	load := Load{ID: 50, Name: "mine", Object: object(t, "step", "")}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errors.New("no more patience"))
	defer cancel()
	if _, err := b.plane.LoadContext(ctx, load); err == nil || !strings.Contains(err.Error(), "no more patience") {
		t.Errorf("out of turn: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := b.plane.Load(load)
		done <- err
	}()
	b.plane.loads.Release(loadsAtOnce)
	b.check(<-done)
	b.check(b.plane.Unload(50))
}
