// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"bytes"
	_ "embed" // for the slot
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

//go:embed testdata/slot.bpf.o
var slotObject []byte

// extend loads an example as BPF_PROG_TYPE_EXT in place of the function slot of a small XDP program, and
// returns that program with the maps of the example.
func extend(t *testing.T, name string) loaded {
	t.Helper()
	slotSpec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(slotObject))
	if err != nil {
		t.Fatal(err)
	}
	target, err := ebpf.NewCollection(slotSpec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(target.Close)

	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(all[name].object))
	if err != nil {
		t.Fatal(err)
	}
	p := spec.Programs[name]
	p.Type, p.AttachType = ebpf.Extension, ebpf.AttachNone
	p.AttachTarget, p.AttachTo = target.Programs["entry"], "slot"
	coll, err := ebpf.NewCollection(spec)
	var refused *ebpf.VerifierError
	if errors.Is(err, unix.EPERM) && !errors.As(err, &refused) {
		t.Skipf("this kernel allows no BPF_PROG_TYPE_EXT, not even to root: %v", err)
	}
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(coll.Close)
	l, err := link.AttachFreplace(nil, "", coll.Programs[name])
	if err != nil {
		t.Fatalf("attach %s to the slot: %v", name, err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return loaded{t, target.Programs["entry"], coll.Maps}
}

// TestExtension: an example in a slot does to packets what it does alone.
func TestExtension(t *testing.T) {
	for name := range all {
		t.Run(name, func(t *testing.T) {
			slot, alone := extend(t, name), load(t, name)
			configure(slot, name)
			configure(alone, name)
			seen := map[uint32]int{}
			eachShape(func(shape string, p packet) {
				want, wantOut := alone.run(p.bytes())
				got, gotOut := slot.run(p.bytes())
				if got != want || !bytes.Equal(gotOut, wantOut) {
					t.Errorf("%s: verdict %d with % x, alone %d with % x", shape, got, gotOut, want, wantOut)
				}
				seen[got]++
			})
			if seen[aborted] != 0 {
				t.Errorf("the slot's own verdict was seen: %v", seen)
			}
		})
	}
}
