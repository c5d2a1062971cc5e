// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// --- programs ---

// state is struct state of testdata/contract/contract.h.
type state struct {
	Mark, Size, Meta, Hits uint32
	Seen                   uint64
}

// program is one that is loaded into a bench's plane.
type program struct {
	b      *bench
	id     uint64
	object *Object
}

func object(t testing.TB, file, function string) *Object {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "contract", file+".o"))
	if err != nil {
		t.Fatal(err)
	}
	o, err := ParseObject(data, function)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// load loads a program. Its mark is the low byte of its id, if it leaves marks.
func (b *bench) load(file, function string) *program {
	b.Helper()
	p, _ := b.loadAs(Load{Object: object(b, file, function)})
	return p
}

// loadAs loads a program as l says, which has no id and name yet.
func (b *bench) loadAs(l Load) (*program, []MapOrigin) {
	b.Helper()
	b.programs++
	p := &program{b, b.programs, l.Object}
	l.ID, l.Name = p.id, p.name()
	var origins []MapOrigin
	b.atRest("Load", func() {
		var err error
		origins, err = b.plane.Load(l)
		b.check(err)
	})
	if slices.Contains(p.object.mapNames(), ".bss") {
		s := p.state()
		s.Mark = uint32(p.id)
		p.set(s)
	}
	return p, origins
}

// asLoad is what loads the program with maps of its own.
func (p *program) asLoad() Load { return Load{ID: p.id, Name: p.name(), Object: p.object} }

func (b *bench) steps(n int) []*program {
	b.Helper()
	all := make([]*program, n)
	for i := range all {
		all[i] = b.load("step", "")
	}
	return all
}

func (p *program) name() string { return fmt.Sprintf("%s-%d", p.object.Function(), p.id) }

func (p *program) on(on chain.ProceedOn) Slot { return Slot{p.id, p.name(), p.object, on} }

func (p *program) bss() *ebpf.Map {
	p.b.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.b.plane.programDir(p.id), "maps", escape(".bss")), nil)
	p.b.check(err)
	return m
}

// stateAt is where in .bss the state is.
func (p *program) stateAt() uint32 { return globalsOf(p.object.spec.Maps)["state"][0].offset }

func (p *program) state() (s state) {
	p.b.Helper()
	m := p.bss()
	defer m.Close()
	value, err := m.LookupBytes(uint32(0))
	p.b.check(err)
	p.b.check(binary.Read(bytes.NewReader(value[p.stateAt():]), binary.NativeEndian, &s))
	return s
}

func (p *program) set(s state) {
	p.b.Helper()
	m := p.bss()
	defer m.Close()
	value, err := m.LookupBytes(uint32(0))
	p.b.check(err)
	_, err = binary.Encode(value[p.stateAt():], binary.NativeEndian, s)
	p.b.check(err)
	p.b.check(m.Put(uint32(0), value))
}

// --- revisions ---

func (b *bench) plan(slots ...Slot) Plan {
	b.revision++
	return Plan{Revision: b.revision, Slots: slots, Final: chain.Pass, Mode: chain.Native}
}

// all makes slots of programs that proceed on the same.
func all(on chain.ProceedOn, programs ...*program) []Slot {
	slots := make([]Slot, len(programs))
	for i, p := range programs {
		slots[i] = p.on(on)
	}
	return slots
}

// run makes a plan the live revision of the device, and removes the others.
func (b *bench) run(plan Plan) {
	b.Helper()
	b.runOn(b.dev, plan)
}

func (b *bench) runOn(d Device, plan Plan) {
	b.Helper()
	b.atRest("Stage, Commit and Discard", func() {
		staged, err := b.stage(d, plan)
		b.check(err)
		b.check(errors.Join(staged.Commit(), staged.Discard()))
	})
	b.collect()
	b.atRest("Prune", func() { b.check(b.plane.Prune(d, plan.Revision, nil)) })
}

// stage calls Stage in the namespace of the interfaces.
func (b *bench) stage(d Device, plan Plan) (staged *Staged, err error) {
	nettest.RunIn(b.ns, func() { staged, err = b.plane.Stage(b.Context(), d, plan) })
	return staged, err
}

// live fails the test unless this revision is live.
func (b *bench) live(want uint64) Live {
	b.Helper()
	var live Live
	b.atRest("Live", func() {
		var err error
		live, err = b.plane.Live(b.dev)
		b.check(err)
	})
	if live.Revision != want || live.KernelID == 0 || live.LinkID == 0 || live.Ifindex != b.dev.Ifindex {
		b.Fatalf("live is %+v, want revision %d on interface %d", live, want, b.dev.Ifindex)
	}
	return live
}

// --- packets ---

const (
	trailAt   = 16
	codesAt   = trailAt + 64
	frameSize = codesAt + 64*4 + 44
)

// frame makes a packet that has the n-th step return the n-th of the codes, and those after it PASS.
func frame(codes ...uint32) []byte {
	f := nettest.Frame(frameSize)
	for i := range 64 {
		code := uint32(chain.Pass)
		if i < len(codes) {
			code = codes[i]
		}
		binary.NativeEndian.PutUint32(f[codesAt+4*i:], code)
	}
	return f
}

// trail are the marks in a packet.
func trail(f []byte) []byte {
	if len(f) < codesAt || f[14] > 64 {
		return nil
	}
	return f[trailAt : trailAt+int(f[14])]
}

// exits waits until n packets left the chain, and returns where they did. More than n fail the test.
func (b *bench) exits(slots int, n uint64) chain.Exits {
	b.Helper()
	var e chain.Exits
	for end := time.Now().Add(nettest.Patience); ; time.Sleep(time.Millisecond) {
		b.atRest("Counters", func() {
			var err error
			e, err = b.plane.Counters(b.dev, b.revision)
			b.check(err)
		})
		if got := e.Packets(slots); got == n {
			return e
		} else if got > n || time.Now().After(end) {
			b.Fatalf("%d packets left the chain, want %d: %v", got, n, e)
		}
	}
}

// follow sends packets that must all pass, and fails the test unless the last has these marks.
func (b *bench) follow(f []byte, count int, marks ...byte) []byte {
	b.Helper()
	want := b.got.Count() + uint64(count)
	b.send.Send(f, count)
	b.got.Wait(want)
	last := b.got.Last()
	if !bytes.Equal(trail(last), marks) {
		b.Fatalf("the packet has marks %v, want %v", trail(last), marks)
	}
	return last
}
