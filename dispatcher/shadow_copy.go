// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// shadowMaps are the maps of a shadow's members.
type shadowMaps struct {
	live []string // what members can change for real, as "program/map", sorted
	mute bool     // buffers for events were made anew

	opened []map[string]*ebpf.Map // of each member, its own
	copies map[ebpf.MapID]*ebpf.Map
	tied   map[ebpf.MapID]bool // to what is not copied
	room   int                 // bytes that copies may still take
}

// maxCopied is how many bytes the copies of maps may take, as copyCost adds them up: some millions of entries.
const maxCopied = 512 << 20

// mapUse says how a shadow's member gets at a map.
type mapUse int

const (
	useLive  mapUse = iota // its own, which it can change or change something through
	useSame                // its own, which no program writes to
	useCopy                // one like it, with the same entries
	useFresh               // one like it, empty
)

// useOf says how a member would get at a map of its own that is to be copied if that is possible. value is the
// type of the map's values.
func useOf(m *ebpf.Map, value btf.Type) mapUse {
	if m.Flags()&unix.BPF_F_RDONLY_PROG != 0 {
		return useSame
	}
	switch m.Type() {
	case ebpf.DevMap, ebpf.DevMapHash, ebpf.CPUMap, ebpf.XSKMap:
		return useSame
	case ebpf.RingBuf, ebpf.PerfEventArray:
		return useFresh
	case ebpf.Hash, ebpf.LRUHash, ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.Array, ebpf.PerCPUArray, ebpf.LPMTrie:
		if holdsObjects(value) {
			return useLive
		}
		return useCopy
	}
	return useLive
}

// holdsObjects tells whether values of type t hold what is the kernel's and cannot be copied. Locks are not
// such: a copy has them open.
func holdsObjects(t btf.Type) bool { return holdsUnseen(t, map[btf.Type]bool{}) }

// holdsUnseen is holdsObjects but for the types in seen, to which it adds.
func holdsUnseen(t btf.Type, seen map[btf.Type]bool) bool {
	if t == nil || seen[t] {
		return false
	}
	seen[t] = true
	member := func(m btf.Member) bool { return holdsUnseen(m.Type, seen) }
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Datasec:
		return slices.ContainsFunc(t.Vars, func(v btf.VarSecinfo) bool { return holdsUnseen(v.Type, seen) })
	case *btf.Var:
		return holdsUnseen(t.Type, seen)
	case *btf.Array:
		return holdsUnseen(t.Type, seen)
	case *btf.Union:
		return slices.ContainsFunc(t.Members, member)
	case *btf.Struct:
		kinds := []string{"bpf_timer", "bpf_wq", "bpf_task_work", "bpf_list_head", "bpf_rb_root"}
		return slices.Contains(kinds, t.Name) || slices.ContainsFunc(t.Members, member)
	case *btf.Pointer:
		tag, ok := t.Target.(*btf.TypeTag)
		return ok && slices.Contains([]string{"kptr", "kptr_untrusted", "percpu_kptr", "uptr"}, tag.Value)
	}
	return false
}

// open opens the maps of members and, with copies, has the members work on copies of them. They are open until
// close.
func (s *shadowMaps) open(members []member, copies bool) error {
	s.copies, s.tied, s.room = map[ebpf.MapID]*ebpf.Map{}, map[ebpf.MapID]bool{}, maxCopied
	for _, m := range members {
		own, err := openMaps(m.dir, m.object)
		if err != nil {
			return err
		}
		s.opened = append(s.opened, own)
		if copies {
			if err := s.tie(m, own); err != nil {
				return err
			}
		}
	}
	for i := range members {
		if err := s.give(&members[i], s.opened[i], copies); err != nil {
			return err
		}
	}
	slices.Sort(s.live)
	s.live = slices.Compact(s.live)
	return nil
}

func (s *shadowMaps) close() {
	for _, own := range s.opened {
		closeMaps(own)
	}
	for _, m := range s.copies {
		m.Close()
	}
	s.opened, s.copies = nil, nil
}

// tie notes which maps must not be copied because what works on them is not: the programs that a member can
// call by tail calls, which may be none of its object and work on any of its maps, and maps of maps.
func (s *shadowMaps) tie(m member, own map[string]*ebpf.Map) error {
	for name, outer := range own {
		switch {
		case m.object.tailCalls():
			id, err := mapID(outer)
			if err != nil {
				return fmt.Errorf("look at map %q of program %q: %w", name, m.name, err)
			}
			s.tied[id] = true
		case outer.Type() == ebpf.ArrayOfMaps || outer.Type() == ebpf.HashOfMaps:
			var key []byte
			var inner ebpf.MapID
			entries := outer.Iterate()
			for entries.Next(&key, &inner) {
				s.tied[inner] = true
			}
			if err := entries.Err(); err != nil {
				return fmt.Errorf("look into map %q of program %q: %w", name, m.name, err)
			}
		}
	}
	return nil
}

// give makes a member work on copies of its maps, if any is to be copied.
func (s *shadowMaps) give(m *member, own map[string]*ebpf.Map, copies bool) error {
	given, copied := map[string]*ebpf.Map{}, false
	for name, from := range own {
		given[name] = from
		spec := m.object.spec.Maps[name]
		use := useOf(from, spec.Value)
		id, err := mapID(from)
		if err != nil {
			return fmt.Errorf("look at map %q of program %q: %w", name, m.name, err)
		}
		switch {
		case use == useSame:
		case !copies, use == useLive, s.tied[id]:
			s.live = append(s.live, m.name+"/"+name)
		default:
			if s.copies[id] == nil {
				to, err := s.copy(from, spec, use)
				if err != nil {
					return untestable(fmt.Sprintf("copy map %q of program %q", name, m.name), err)
				}
				s.copies[id] = to
			}
			given[name], copied = s.copies[id], true
			s.mute = s.mute || use == useFresh
		}
	}
	if copied {
		m.maps = given
	}
	return nil
}

func mapID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, _ := info.ID()
	return id, nil
}

// copy makes a map like from, with its entries if that is its use. The caller closes it.
func (s *shadowMaps) copy(from *ebpf.Map, spec *ebpf.MapSpec, use mapUse) (_ *ebpf.Map, err error) {
	grows := from.Flags()&unix.BPF_F_NO_PREALLOC != 0 // entries take memory when they come
	if use == useFresh {
		err = s.take(int(from.MaxEntries()), 1)
	} else if !grows {
		err = s.take(int(from.MaxEntries()), copyCost(from))
	}
	if err != nil {
		return nil, err
	}
	spec = spec.Copy()
	spec.Type, spec.KeySize, spec.ValueSize = from.Type(), from.KeySize(), from.ValueSize()
	spec.MaxEntries, spec.Flags = from.MaxEntries(), from.Flags()
	spec.Contents, spec.Extra = nil, nil
	to, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, err
	}
	if use == useCopy {
		c := mapCopy{from: from, to: to, cpus: valuesOf(from), came: func(n int) error {
			if grows {
				return s.take(n, copyCost(from))
			}
			return nil
		}}
		if err := c.run(); err != nil {
			return nil, errors.Join(err, to.Close())
		}
	}
	return to, nil
}

// take takes n times size bytes from what copies may take.
func (s *shadowMaps) take(n, size int) error {
	if n > s.room/size {
		return fmt.Errorf("the copies of all maps would take more than %d MiB (run the packets without copies of maps)", maxCopied>>20)
	}
	s.room -= n * size
	return nil
}

// copyCost is about what an entry of a map takes, with what the kernel needs beside it.
func copyCost(m *ebpf.Map) int {
	return 64 + int(m.KeySize()) + (int(m.ValueSize())+7)/8*8*valuesOf(m)
}

// valuesOf is how many values an entry of a map has.
func valuesOf(m *ebpf.Map) int {
	switch m.Type() {
	case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash:
		return ebpf.MustPossibleCPU()
	}
	return 1
}

// mapCopy copies the entries of one map to another. Entries that come and go meanwhile may be missed; and the copy
// of an LRU map that is nearly full may lack some, as the kernel makes room in it before there is none.
type mapCopy struct {
	from, to *ebpf.Map
	cpus     int
	came     func(n int) error // told of entries before they are written
}

// run copies all entries, in batches where the kernel can do that for maps of this type.
func (c mapCopy) run() error {
	const bytes = 1 << 20 // of a batch, about
	size := min(max(bytes/(int(c.from.KeySize())+int(c.from.ValueSize())*c.cpus), 1), int(c.from.MaxEntries()))
	cursor := new(ebpf.MapBatchCursor)
	for first := true; ; first = false {
		keys, values := c.buffers(size)
		n, err := c.from.BatchLookup(cursor, keys.Interface(), values.Interface(), nil)
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		switch {
		case first && errors.Is(err, ebpf.ErrNotSupported):
			return c.runSingly()
		case errors.Is(err, unix.ENOSPC) && size < int(c.from.MaxEntries()): // many keys of one hash
			size = min(2*size, int(c.from.MaxEntries()))
			continue
		case err != nil && !done:
			return err
		}
		if err := c.came(n); err != nil {
			return err
		}
		if n > 0 {
			_, err := c.to.BatchUpdate(keys.Slice(0, n).Interface(), values.Slice(0, n*c.cpus).Interface(), nil)
			if err != nil && !isFull(err) {
				return err
			}
		}
		if done {
			return nil
		}
	}
}

// runSingly copies one entry after the other.
func (c mapCopy) runSingly() error {
	_, values := c.buffers(1)
	var at any // key
	// A key that was removed makes the kernel begin again.
	for range 2*int(c.from.MaxEntries()) + 1 {
		key, err := c.from.NextKeyBytes(at)
		if err != nil || key == nil {
			return err
		}
		at = key
		err = c.from.Lookup(key, values.Interface())
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err == nil {
			err = c.came(1)
		}
		if err != nil {
			return err
		}
		if err := c.to.Put(key, values.Interface()); err != nil && !isFull(err) {
			return err
		}
	}
	return errors.New("its entries come and go faster than they can be read")
}

// isFull tells whether an entry was not written because the map has as many as it can: of a full map that is in use
// more may be read than there ever were at once.
func isFull(err error) bool { return errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) }

// buffers makes slices for n keys and their values.
func (c mapCopy) buffers(n int) (keys, values reflect.Value) {
	of := func(size uint32, n int) reflect.Value {
		return reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]())), n, n)
	}
	return of(c.from.KeySize(), n), of(c.from.ValueSize(), n*c.cpus)
}
