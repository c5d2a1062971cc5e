// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/xdpd/xdpd/chain"
)

func objectBytes(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "contract", file+".o"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestContractObjectErrors(t *testing.T) {
	step, many := objectBytes(t, "step"), objectBytes(t, "many")
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("int main(void) {}"), "magic only": step[:4], "half": step[:len(step)/2], "header only": step[:64],
	} {
		_, err := ParseObject(data, "")
		t.Run(name, func(t *testing.T) { reason(t, err, chain.ObjectInvalid, "clang -target bpf") })
	}
	members := "broken, cut, deep, mapless, pop, push, tag"
	_, err := ParseObject(many, "")
	e := reason(t, err, chain.FunctionNotFound, members)
	if e.Facts["functions"] != strings.ReplaceAll(members, " ", "") {
		t.Errorf("the facts are %v", e.Facts)
	}
	_, err = ParseObject(many, "nosuch")
	reason(t, err, chain.FunctionNotFound, `"nosuch"`, members)
	_, err = ParseObject(objectBytes(t, "noxdp"), "")
	reason(t, err, chain.FunctionNotFound, "classify")
	_, err = ParseObject(objectBytes(t, "noxdp"), "classify")
	reason(t, err, chain.FunctionUnsuitable, "classify", "tc", "XDP")
	_, err = ParseObject(many, "at_device")
	reason(t, err, chain.FunctionUnsuitable, "at_device", "xdp/devmap", "device map")
	_, err = ParseObject(many, "at_cpu")
	reason(t, err, chain.FunctionUnsuitable, "at_cpu", "xdp/cpumap", "CPU map")
	o, err := ParseObject(step, "")
	if err != nil || o.Function() != "step" {
		t.Errorf("the only program is %v, %v", o, err)
	}
}

// patchSection sets 64 bits of a section's header, at that offset in there.
func patchSection(t *testing.T, data []byte, name string, at, value uint64) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Sections, func(s *elf.Section) bool { return s.Name == name })
	headers := binary.LittleEndian.Uint64(data[40:])
	binary.LittleEndian.PutUint64(data[headers+64*uint64(i)+at:], value)
}

// TestContractObjectSize refuses small objects that would take much memory.
func TestContractObjectSize(t *testing.T) {
	const flags, size = 8, 32 // in an Elf64_Shdr
	parse := func(section string, at, value uint64) error {
		data := objectBytes(t, "step")
		patchSection(t, data, section, at, value)
		_, err := ParseObject(data, "")
		return err
	}
	if err := parse(".bss", size, 32<<20); err != nil {
		t.Errorf("with 32 MiB of zeroes: %v", err)
	}
	reason(t, parse(".bss", size, 64<<20), chain.ObjectInvalid, `".bss"`, "67108864 bytes", "64 MiB")
	reason(t, parse(".bss", size, 1<<62), chain.ObjectInvalid, `".bss"`, "4611686018427387904 bytes", "64 MiB")
	reason(t, parse(".strtab", flags, uint64(elf.SHF_COMPRESSED)), chain.ObjectInvalid, "compressed")

	data := objectBytes(t, "settings")
	patchSection(t, data, ".bss", size, 60<<20)
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	table := f.SectionByType(elf.SHT_SYMTAB).Offset
	for i, s := range symbols {
		if int(s.Section) < len(f.Sections) && f.Sections[s.Section].Name == ".bss" {
			binary.LittleEndian.PutUint64(data[table+24*uint64(i+1)+16:], 40<<20)
		}
	}
	_, err = ParseObject(data, "")
	reason(t, err, chain.ObjectInvalid, "variable", "41943040 bytes", "64 MiB")
}

// TestContractObjectMapNames refuses names of maps that cannot be those of pins, where the program has such a map.
func TestContractObjectMapNames(t *testing.T) {
	for _, name := range []string{"time/s", "time@s"} {
		data := bytes.ReplaceAll(objectBytes(t, "shadow"), []byte("\x00timers\x00"), []byte("\x00"+name+"\x00"))
		_, err := ParseObject(data, "counter")
		if e := reason(t, err, chain.ObjectInvalid, name); e.Facts["map"] != name {
			t.Errorf("the facts are %v", e.Facts)
		}
	}
	o := &Object{spec: &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{".kconfig": {ValueSize: 64<<20 + 1}}}}
	reason(t, o.checkMaps(), chain.ObjectInvalid, ".kconfig", "64 MiB")
	o.spec.Maps = map[string]*ebpf.MapSpec{strings.Repeat("x", 256): {}}
	reason(t, o.checkMaps(), chain.ObjectInvalid, "255 bytes")
}

// TestContractLoadErrors has programs that the kernel refuses. Nothing of them is left, and what is broken in
// one program of an object does not matter to another.
func TestContractLoadErrors(t *testing.T) {
	b := newBench(t)
	before := b.pins()
	load := func(function string) (err error) {
		b.atRest("a Load that fails", func() { _, err = b.plane.Load(Load{ID: 50, Name: "mine", Object: object(t, "many", function)}) })
		if now := b.pins(); !slices.Equal(now, before) {
			t.Errorf("pins %q after Load failed, %q before", now, before)
		}
		return err
	}
	e := reason(t, load("broken"), chain.VerifierRejected, `"mine"`)
	if line := "return *(volatile __u8 *)(long)ctx->data; // nobody checked the length"; !strings.Contains(e.Log, line) {
		t.Errorf("the log has no line %q: %s", line, e.Log)
	}
	if e.Facts["program"] != "mine" {
		t.Errorf("the facts are %v", e.Facts)
	}
	e = reason(t, load("mapless"), chain.MapInvalid, `"empty"`, `"mine"`)
	if e.Facts["map"] != "empty" || e.Facts["program"] != "mine" {
		t.Errorf("the facts are %v", e.Facts)
	}
	b.load("many", "tag")
}

// TestContractStageOfUnloaded has a slot whose program is not loaded, or has lost its maps.
func TestContractStageOfUnloaded(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	b.run(b.plan(p[0].on(passing)))
	b.check(b.plane.Unload(p[1].id))
	b.check(b.plane.Unload(p[1].id))
	if err := b.refused(b.plan(all(passing, p...)...)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stage gives %v", err)
	}
	b.live(1)
	b.revision = 1
	b.follow(frame(), 3, 1)
}

// FuzzParseObject says that no bytes do harm: they are an object, or there is an error with a reason.
func FuzzParseObject(f *testing.F) {
	for _, file := range []string{"step", "tail", "noxdp"} {
		f.Add(objectBytes(f, file), "")
	}
	f.Add(objectBytes(f, "many"), "at_cpu")
	f.Add(deepened(f, objectBytes(f, "step"), 40), "")
	examples, err := filepath.Glob("../examples/*/*.bpf.o") // not there in a VM
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range examples {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "")
	}
	f.Fuzz(func(t *testing.T, data []byte, function string) {
		o, err := ParseObject(data, function)
		if err != nil {
			var e *chain.Error
			if o != nil || !errors.As(err, &e) || e.Reason == "" || e.Error() == "" {
				t.Fatalf("%v, %v", o, err)
			}
			return
		}
		if function != "" && o.Function() != function || o.main() == nil {
			t.Fatalf("asked for %q, got %q", function, o.Function())
		}
		if !slices.IsSorted(o.mapNames()) {
			t.Error("the maps are not sorted")
		}
		o.Frags()
	})
}
