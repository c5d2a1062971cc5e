// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// TestHoldsObjectsOfMany has a type that 2^40 ways lead to.
func TestHoldsObjectsOfMany(t *testing.T) {
	timer, number := &btf.Struct{Name: "bpf_timer"}, &btf.Int{Name: "u64", Size: 8}
	for innermost, want := range map[btf.Type]bool{number: false, timer: true} {
		ty := btf.Type(&btf.Struct{Members: []btf.Member{{Type: number}, {Type: innermost}}})
		for range 40 {
			ty = &btf.Struct{Members: []btf.Member{{Type: ty}, {Type: &btf.Typedef{Type: ty}}}}
		}
		if got := holdsObjects(ty); got != want {
			t.Errorf("with %v in it: %v, want %v", innermost, got, want)
		}
	}
}

// TestCopyWhileFull copies to maps that are full, and a full map of which entries go and others come.
func TestCopyWhileFull(t *testing.T) {
	const room, copies = 2000, 20
	for _, spec := range []ebpf.MapSpec{
		{Type: ebpf.Hash, KeySize: 4, ValueSize: 1024, MaxEntries: room},
		{Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 1024, MaxEntries: room, Flags: unix.BPF_F_NO_PREALLOC},
	} {
		from := newMap(t, spec)
		c := mapCopy{from: from, cpus: 1, came: func(int) error { return nil }}
		key := func(i uint32) []byte {
			k := make([]byte, spec.KeySize)
			binary.NativeEndian.PutUint32(k, 32) // of a prefix
			binary.NativeEndian.PutUint32(k[spec.KeySize-4:], i)
			return k
		}
		value := make([]byte, spec.ValueSize)
		put := func(m *ebpf.Map, i uint32) error { return m.Put(key(i), value) }
		for i := range uint32(room) {
			if err := put(from, i); err != nil {
				t.Fatal(err)
			}
		}
		// A copy that is full already is what a copy of a map in use comes to in the end.
		for name, run := range map[string]func(mapCopy) error{"batches": mapCopy.run, "singly": mapCopy.runSingly} {
			c.to = newMap(t, spec)
			for i := range uint32(room) {
				if err := put(c.to, room+i); err != nil {
					t.Fatal(err)
				}
			}
			if err := run(c); err != nil {
				t.Errorf("%s, %s, to a map that is full: %v", spec.Type, name, err)
			}
		}
		if spec.Type == ebpf.LPMTrie { // some kernels can read those key by key only, and begin again at each that went
			continue
		}
		var stop atomic.Bool
		stopped := make(chan error)
		go func() {
			for i := uint32(0); !stop.Load(); i++ {
				if err := from.Delete(key(i)); err != nil {
					stopped <- err
					return
				}
				if err := put(from, room+i); err != nil {
					stopped <- err
					return
				}
			}
			stopped <- nil
		}()
		for range copies {
			c.to = newMap(t, spec)
			if err := c.run(); err != nil {
				t.Errorf("%s in use: %v", spec.Type, err)
			}
		}
		stop.Store(true)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}
}
