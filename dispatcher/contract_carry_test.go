// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// origins fails the test unless the maps come from where want says, in words: "carried", "shared" or what is in the
// reason of a new one, after "new" where there is one.
func (b *bench) origins(got []MapOrigin, want map[string]string) {
	b.Helper()
	for i, o := range got {
		if i > 0 && got[i-1].Map >= o.Map {
			b.Errorf("the maps are not sorted: %v", got)
		}
		text := string(o.Origin)
		if o.Reason != "" {
			text += ": " + o.Reason
		}
		expected, ok := want[o.Map]
		if !ok || text != expected && (!strings.HasSuffix(expected, "…") || !strings.HasPrefix(text, strings.TrimSuffix(expected, "…"))) {
			b.Errorf("map %s is %q, want %q", o.Map, text, expected)
		}
	}
	if len(got) != len(want) {
		b.Errorf("%d maps, want %d: %v", len(got), len(want), got)
	}
}

// ids are the kernel's ids of the program's maps.
func (p *program) ids() map[string]uint32 {
	p.b.Helper()
	ids := map[string]uint32{}
	for _, m := range p.maps() {
		ids[m.Name] = m.KernelID
	}
	return ids
}

// TestContractCarry replaces a program by its next version between packets.
func TestContractCarry(t *testing.T) {
	b := newBench(t)
	p := b.load("carry", "")
	b.run(b.plan(p.on(passing)))
	b.follow(frame(), 3, byte(p.id))
	b.freeze(p, "frozen")
	put := b.putInner(p, "outer", 0)

	later := object(t, "carry_later", "")
	q, origins := b.loadAs(Load{Object: later, Carry: p.id})
	b.origins(origins, map[string]string{
		"hash": "carried", "array": "carried", "lru": "carried", "lru_each": "carried", "percpu": "carried", "percpu_hash": "carried",
		"events": "carried", "inner": "carried", "outer": "carried", ".bss": "carried", ".data": "carried",
		"after": "new", "frozen": "new: it is frozen", "jumps": "new: it holds code", ".rodata": "new: constants come with the object",
		"wider": "new: value size 16, was 8", "larger": "new: max_entries 8, was 4", "flagged": "new: flags 0x1, was 0x0",
		"kind": "new: type LRUHash, was Hash", "outer_changed": "new: it takes maps of max_entries 2, took those of max_entries 1",
		".data.changed": "new: value size 8, was 4", ".data.swapped": "new: its variables differ: swapped",
	})
	b.run(b.plan(q.on(passing)))
	b.check(b.plane.Unload(p.id))
	b.follow(frame(), 2, byte(q.id))
	for name, want := range map[string]uint64{
		"hash": 5, "array": 5, "lru": 5, "lru_each": 5, "percpu": 5, "percpu_hash": 5, "frozen": 2, "wider": 2, "larger": 2, "flagged": 2, "kind": 2, "after": 2,
	} {
		key := uint32(7)
		if name == "array" || name == "percpu" || name == "frozen" {
			key = 1
		}
		if n := q.count(name, key); n != want {
			t.Errorf("map %s has %d, want %d", name, n, want)
		}
	}
	if s := q.state(); s.Seen != 5 {
		t.Errorf(".bss says %d packets, want 5", s.Seen)
	}
	for name, want := range map[string]uint64{"initial": 105, "changed": 102, "version": 2} {
		if n := q.variable(name); n != want {
			t.Errorf("variable %s is %d, want %d", name, n, want)
		}
	}
	if now := b.inner(q, "outer", 0); now != put {
		t.Errorf("the map in the map is %d, want %d", now, put)
	}
	if n := q.count("inner", 0); n != 3 {
		t.Errorf("the inner map that was replaced in the outer one has %d, want 3", n)
	}
}

// freeze freezes a map of a program.
func (b *bench) freeze(p *program, name string) {
	b.Helper()
	m, err := b.plane.openMap(p.id, name)
	b.check(err)
	defer m.Close()
	b.check(m.Freeze())
}

// putInner puts a new map into a map of maps, and returns its id.
func (b *bench) putInner(p *program, name string, key uint32) uint32 {
	b.Helper()
	outer, err := b.plane.openMap(p.id, name)
	b.check(err)
	defer outer.Close()
	m, err := ebpf.NewMap(p.object.spec.Maps[name].InnerMap)
	b.check(err)
	defer m.Close()
	b.check(outer.Put(key, m))
	return b.inner(p, name, key)
}

// inner is the id of the map in a map.
func (b *bench) inner(p *program, name string, key uint32) (id uint32) {
	b.Helper()
	m, err := b.plane.openMap(p.id, name)
	b.check(err)
	defer m.Close()
	b.check(m.Lookup(key, &id))
	return id
}

// TestContractCarryAgain replaces a program by itself, so that all carries but what never does; then with variables
// set, which count more than what is there.
func TestContractCarryAgain(t *testing.T) {
	b := newBench(t)
	o := object(t, "carry", "")
	p := b.load("carry", "")
	never := []string{".rodata", "jumps"}
	for i := range 3 {
		before := p.ids()
		q, origins := b.loadAs(Load{Object: o, Carry: p.id})
		after := q.ids()
		for _, from := range origins {
			carried := !slices.Contains(never, from.Map)
			if carried != (from.Origin == OriginCarried) || carried != (after[from.Map] == before[from.Map]) {
				t.Errorf("map %s is %v, and has id %d after %d", from.Map, from, after[from.Map], before[from.Map])
			}
		}
		b.check(b.plane.Unload(p.id))
		b.run(b.plan(q.on(passing)))
		b.follow(frame(), 2, byte(q.id))
		if n := q.count("hash", 7); n != uint64(2*i+2) {
			t.Errorf("the hash has %d after replace %d", n, i)
		}
		p = q
	}
	set := configured(t, o, chain.Settings{Globals: map[string]string{"initial": "7"}, MaxEntries: map[string]uint32{"lru": 32}})
	q, origins := b.loadAs(Load{Object: set, Carry: p.id})
	for _, from := range origins {
		switch from.Map {
		case ".data":
			if from.Origin != OriginNew || from.Reason != "variables in it are set" {
				t.Errorf("%v", from)
			}
		case "lru":
			if from.Origin != OriginNew || from.Reason != "max_entries 32, was 16" {
				t.Errorf("%v", from)
			}
		case "hash", ".bss", ".data.changed":
			if from.Origin != OriginCarried {
				t.Errorf("%v", from)
			}
		}
	}
	b.run(b.plan(q.on(passing)))
	b.follow(frame(), 2, byte(q.id))
	if n := q.variable("initial"); n != 9 {
		t.Errorf("the variable that was set is %d, want 9", n)
	}
}

// TestContractCarryUnknown has a program that an xdpd loaded which did not record layouts.
func TestContractCarryUnknown(t *testing.T) {
	b := newBench(t)
	p := b.load("carry", "")
	b.check(removeTree(b.plane.programDir(p.id) + "/shapes"))
	_, origins := b.loadAs(Load{Object: p.object, Carry: p.id})
	for _, from := range origins {
		unknown := slices.Contains([]string{".bss", ".data", ".data.changed", ".data.swapped", "outer", "outer_changed"}, from.Map)
		if unknown != strings.Contains(from.Reason, "not known") || unknown && from.Origin != OriginNew {
			t.Errorf("%v", from)
		}
	}
	_, err := b.plane.Load(Load{ID: 50, Name: "mine", Object: p.object, Share: p.id, Shared: "theirs"})
	reason(t, err, chain.MapInvalid, `"outer"`, "not known")
}

// TestContractCarryFails has a next version that the kernel refuses: the old one has all its maps, and goes on.
func TestContractCarryFails(t *testing.T) {
	b := newBench(t)
	p := b.load("carry", "")
	b.run(b.plan(p.on(passing)))
	b.follow(frame(), 3, byte(p.id))
	before, ids := b.pins(), p.ids()
	later := object(t, "carry_later", "").copy()
	wrong := *later.spec.Maps["after"]
	wrong.KeySize = 0
	later.spec.Maps["after"] = &wrong
	b.atRest("a Load that fails", func() {
		_, err := b.plane.Load(Load{ID: 50, Name: "mine", Object: later, Carry: p.id, GID: appID})
		reason(t, err, chain.MapInvalid, `"after"`)
	})
	if now := b.pins(); !slices.Equal(now, before) || fmt.Sprint(p.ids()) != fmt.Sprint(ids) {
		t.Errorf("pins %q after Load failed, %q before; maps %v and %v", now, before, p.ids(), ids)
	}
	b.follow(frame(), 2, byte(p.id))
	if n := p.count("hash", 7); n != 5 {
		t.Errorf("the hash has %d, want 5", n)
	}
}

// TestContractShare has two programs on one interface, and a third version of one, that count in the same maps.
func TestContractShare(t *testing.T) {
	b := newBench(t)
	p := b.load("carry", "")
	q, origins := b.loadAs(Load{Object: object(t, "carry", ""), Share: p.id, Shared: p.name()})
	mine, theirs := q.ids(), p.ids()
	for _, from := range origins {
		shared := !isSection(from.Map) && from.Map != "jumps"
		if shared != (from.Origin == OriginShared) || shared != (mine[from.Map] == theirs[from.Map]) || from.Reason != "" {
			t.Errorf("map %s is %v, and has id %d, there %d", from.Map, from, mine[from.Map], theirs[from.Map])
		}
	}
	b.run(b.plan(all(passing, p, q)...))
	b.follow(frame(), 3, byte(p.id), byte(q.id))
	if p.count("hash", 7) != 6 || q.count("percpu_hash", 7) != 6 || q.count("inner", 0) != 6 {
		t.Errorf("the maps have %d, %d and %d, want 6 of 3 packets", p.count("hash", 7), q.count("percpu_hash", 7), q.count("inner", 0))
	}
	if p.state().Seen != 3 || q.state().Seen != 3 || q.variable("initial") != 103 {
		t.Error("variables are shared")
	}

	// Its next version shares as well, and keeps what is its own.
	next, origins := b.loadAs(Load{Object: q.object, Carry: q.id, Share: p.id, Shared: p.name()})
	for _, from := range origins {
		want := MapOrigin{from.Map, OriginShared, ""}
		switch {
		case from.Map == "jumps":
			want = MapOrigin{from.Map, OriginNew, "it holds code"}
		case from.Map == ".rodata":
			want = MapOrigin{from.Map, OriginNew, "constants come with the object"}
		case isSection(from.Map):
			want.Origin = OriginCarried
		}
		if from != want {
			t.Errorf("%v, want %v", from, want)
		}
	}
	b.check(b.plane.Unload(q.id))
	b.run(b.plan(all(passing, p, next)...))
	b.follow(frame(), 3, byte(p.id), byte(next.id))
	if p.count("hash", 7) != 12 || next.state().Seen != 6 {
		t.Errorf("the hash has %d, .bss %d packets; want 12 and 6", p.count("hash", 7), next.state().Seen)
	}

	// One with maps of its own comes to share: what it had is left behind.
	own := b.load("carry", "")
	_, origins = b.loadAs(Load{Object: own.object, Carry: own.id, Share: p.id, Shared: p.name()})
	for _, from := range origins {
		if from.Origin == OriginShared != strings.Contains(from.Reason, fmt.Sprintf("%q", p.name())) {
			t.Errorf("%v", from)
		}
	}
}

func TestContractShareErrors(t *testing.T) {
	b := newBench(t)
	p := b.load("carry", "")
	before := b.pins()
	refused := func(o *Object, words ...string) *chain.Error {
		t.Helper()
		var err error
		b.atRest("a Load that fails", func() {
			_, err = b.plane.Load(Load{ID: 50, Name: "mine", Object: o, Share: p.id, Shared: "theirs"})
		})
		if now := b.pins(); !slices.Equal(now, before) {
			t.Errorf("pins %q after Load failed, %q before", now, before)
		}
		return reason(t, err, chain.MapInvalid, words...)
	}
	e := refused(object(t, "carry_later", ""), `"flagged"`, `"mine"`, `"theirs"`, "flags 0x1, was 0x0")
	if e.Facts["map"] != "flagged" || e.Facts["program"] != "mine" || e.Facts["shared_from"] != "theirs" {
		t.Errorf("the facts are %v", e.Facts)
	}
	refused(object(t, "step", ""), "no map is in both", "array, ", "percpu_hash", "none")
	same := configured(t, p.object, chain.Settings{MaxEntries: map[string]uint32{"hash": 17}})
	refused(same, `"hash"`, "max_entries 17, was 16")
}

// TestContractLinkerChangeKeepsMaps has a program that the inline linker loaded in a chain of the other one, which
// loads it anew: with its maps as they are.
func TestContractLinkerChangeKeepsMaps(t *testing.T) {
	b := newBench(t)
	reopen := func(linker string) {
		t.Helper()
		b.check(b.plane.Close())
		var err error
		b.plane, err = Open(b.plane.Root(), linker)
		b.check(err)
	}
	reopen(Inline)
	o := configured(t, object(t, "settings", "settings"), chain.Settings{MaxEntries: map[string]uint32{"unsized": 3}}).copy()
	// The kernel rounds this number to the CPUs'.
	each := *o.spec.Maps["unsized"]
	each.Type, each.Flags, each.MaxEntries = ebpf.LRUHash, unix.BPF_F_NO_COMMON_LRU, 131
	o.spec.Maps["unsized"] = &each
	p, _ := b.loadAs(Load{Object: o})
	put, ids := b.putInner(p, "outer", 2), p.ids()
	for _, linker := range b.plane.Probes() {
		if !linker.Works {
			continue
		}
		reopen(linker.Name)
		b.run(b.plan(p.on(passing)))
		b.follow(frame(), 2, byte(p.id))
		if now := b.inner(p, "outer", 2); now != put || !maps.Equal(p.ids(), ids) {
			t.Errorf("with linker %s, the map in the map is %d, was %d; the maps are %v, were %v", linker.Name, now, put, p.ids(), ids)
		}
	}
}
