// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// inventory is what is known of the pins of devices and programs, so that it is noticed when somebody removes one. It is in
// memory only: what was removed while no daemon ran is found as far as the kernel tells of it.
//
// Whoever changes pins by this package need not tell: what it removes or makes anew is forgotten. Learn is for what a change
// left behind, after it.
type inventory struct {
	mu     sync.Mutex        // protects the rest; it is locked after that of a stock
	stocks map[string]*stock // by folder, relative to the root: chains/7-5, programs/3
	owners map[uint32]Device // of dispatchers that were learned, by their ids
}

// stock is what is known of one folder and all below.
type stock struct {
	mu      sync.Mutex        // protects the rest
	known   map[string]pinned // by path, relative to the root; empty: nothing was learned
	stamps  map[string]stamp  // of the folders at the last look; nil: the next look has to be a thorough one
	missing []string          // at the last look

	dispatcher uint32 // whose slots were counted
	slots      int    // of that
}

// stamp changes when an entry of a folder comes, goes or is replaced.
type stamp struct {
	device, inode uint64
	changed       unix.Timespec // also by the folder's own mode, but nobody can set it back
}

// settling is how long after a change another one can leave a folder with the same stamp, with a margin: a tick of the
// kernel's clock has up to 10 ms.
const settling = 50 * time.Millisecond

// Learn notes what pins a device has, to be compared by Damage from now on, and to be made again by Restore. It is to be
// called when a change of the device is through. A device without pins gives fs.ErrNotExist, and so does one that lacks some that
// it needs: what was known stays.
func (p *Plane) Learn(d Device) error {
	return p.learn(p.chainDir(d), p.lacking(d))
}

// LearnProgram is Learn for a loaded program.
func (p *Plane) LearnProgram(id uint64) error {
	dir := p.programDir(id)
	return p.learn(dir, p.lackingProgram(dir))
}

// Damage tells which pins of a device are gone, or are not of what they were when they were learned, as sorted paths
// relative to Root. It is always told what the live revision cannot be without, learned or not: the link, the dispatcher,
// the counters, and with the freplace linker the slots. Where nobody touched the folders since the last look, that takes
// one lstat for each. Nobody needs to hold back changes meanwhile, but then what it tells may be of no moment.
func (p *Plane) Damage(d Device) (missing []string, err error) {
	return p.damage(p.chainDir(d), p.lacking(d))
}

// DamageProgram is Damage for a loaded program. Of one that was not learned only its folders must be there.
func (p *Plane) DamageProgram(id uint64) (missing []string, err error) {
	dir := p.programDir(id)
	return p.damage(dir, p.lackingProgram(dir))
}

// needs finds what must be in a folder and is not. The caller holds the mutex of the stock.
type needs func(*stock, view) ([]string, error)

func (p *Plane) learn(dir string, lacking needs) error {
	s := p.stock(dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	before, err := stampOf(dir)
	if err != nil {
		return fmt.Errorf("list pins in %s: %w", dir, err)
	}
	now, err := p.look(dir)
	if err != nil {
		return err
	}
	missing, err := lacking(s, now)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("learn the pins in %s: %s: %w", dir, missing[0], fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	if after, err := stampOf(dir); err != nil || after.inode != before.inode { // moved away while it was looked at
		return fmt.Errorf("learn the pins in %s: %w", dir, fs.ErrNotExist)
	}
	s.known, s.stamps, s.missing = now.found, now.stamps, nil
	if d, ok := parseDevice(filepath.Base(dir)); ok {
		p.inventory.owns(d, now.found)
	}
	return nil
}

func (p *Plane) damage(dir string, lacking needs) ([]string, error) {
	s := p.stock(dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.untouched(p.root) {
		return slices.Clone(s.missing), nil
	}
	return p.compare(s, dir, lacking)
}

// compare is a thorough look. The caller holds s.mu.
func (p *Plane) compare(s *stock, dir string, lacking needs) ([]string, error) {
	now, err := p.look(dir)
	if err != nil {
		return nil, err
	}
	missing, err := lacking(s, now)
	if err != nil {
		return nil, err
	}
	for path, was := range s.known {
		if is, ok := now.found[path]; !ok || !was.same(is) {
			missing = append(missing, path)
		}
	}
	slices.Sort(missing)
	s.missing, s.stamps = slices.Compact(missing), now.stamps
	return slices.Clone(s.missing), nil
}

// untouched tells whether all folders are as at the last look.
func (s *stock) untouched(root string) bool {
	for path, was := range s.stamps {
		if now, err := stampOf(filepath.Join(root, path)); err != nil || now != was {
			return false
		}
	}
	return len(s.stamps) > 0
}

func stampOf(path string) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return stamp{}, err
	}
	return stamp{st.Dev, st.Ino, st.Ctim}, nil
}

// settled tells whether a change from the moment now on leaves another stamp.
func (s stamp) settled(now unix.Timespec) bool {
	return (time.Duration(now.Nano()) - time.Duration(s.changed.Nano())).Abs() > settling
}

// view is what is in a folder and below.
type view struct {
	found  map[string]pinned // by path, relative to the root, the folder itself included
	stamps map[string]stamp  // of the folders; nil if one has changed a moment ago
}

// look opens every pin in a folder. An absent folder has none, and no stamp either. What goes meanwhile is not there.
func (p *Plane) look(dir string) (view, error) {
	v := view{map[string]pinned{}, map[string]stamp{}}
	var now unix.Timespec // before anything is read: what changes later has another stamp
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
		return v, fmt.Errorf("ask for the time: %w", err)
	}
	settled := true
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		is, err := describe(path)
		if err == nil && entry.IsDir() {
			var mark stamp
			mark, err = stampOf(path)
			v.stamps[p.rel(path)] = mark
			settled = settled && mark.settled(now)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		v.found[p.rel(path)] = is
		return err
	})
	if err != nil {
		return v, fmt.Errorf("look at pins in %s: %w", dir, err)
	}
	if !settled {
		v.stamps = nil
	}
	return v, nil
}

// lacking finds the pins that the live revision of a device cannot be without and that are not there. What else can be
// wrong with the link, Live tells.
func (p *Plane) lacking(d Device) needs {
	return func(s *stock, now view) ([]string, error) {
		pin := filepath.Join(p.rel(p.chainDir(d)), "link")
		if is, ok := now.found[pin]; !ok || is.kind != aLink || is.like != "xdp" {
			return []string{pin}, nil
		}
		held, info, err := p.openLink(d)
		if errors.Is(err, ErrGone) || held == nil && err == nil {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer held.Close()
		revision, err := p.pinnedRevision(d, info.program)
		if errors.Is(err, ErrForeign) {
			revision, err = p.revisionByCounters(d, info.program)
			if errors.Is(err, ErrLost) || errors.Is(err, unix.EPERM) {
				return nil, nil
			}
		}
		if err != nil || revision == 0 {
			return nil, err
		}
		dir := p.revisionDir(d, revision)
		needed := []string{"counters", "dispatcher"}
		if _, ok := now.found[filepath.Join(p.rel(dir), "dispatcher")]; ok && s.dispatcher != info.program {
			if s.slots, err = slotsOf(dir); err != nil {
				if errors.Is(err, fs.ErrNotExist) { // it went this moment, and the next look finds that
					err = nil
				}
				return nil, err
			}
			s.dispatcher = info.program
		}
		if s.dispatcher == info.program {
			for i := range s.slots {
				needed = append(needed, slotPin(i))
			}
		}
		return now.without(p.rel(dir), needed), nil
	}
}

// without are those of some entries of a folder that are not there.
func (v view) without(dir string, names []string) (missing []string) {
	for _, name := range names {
		path := filepath.Join(dir, name)
		if _, ok := v.found[path]; !ok {
			missing = append(missing, path)
		}
	}
	return missing
}

// Unpinned are the maps of an object that have no pin, though it is loaded as that program: somebody removed them, maybe while
// no daemon ran. It is for programs that were not learned.
func (p *Plane) Unpinned(id uint64, o *Object) (names []string, err error) {
	have, err := p.loadedMaps(id)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(o.mapNames(), func(name string) bool { return have[name] }), nil
}

// lackingProgram finds the folders that a loaded program cannot be without.
func (p *Plane) lackingProgram(dir string) needs {
	return func(_ *stock, now view) ([]string, error) {
		return now.without(p.rel(dir), []string{"", "maps"}), nil
	}
}

// slotsOf is how many slots the dispatcher in a folder has for extensions. It is 0 where that cannot be known, without
// CAP_SYS_ADMIN.
func slotsOf(dir string) (slots int, err error) {
	prog, err := openDispatcher(dir)
	if err != nil {
		return 0, err
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return 0, fmt.Errorf("look at dispatcher: %w", err)
	}
	instructions, err := info.Instructions()
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, ebpf.ErrRestrictedKernel) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at the instructions of dispatcher: %w", err)
	}
	if btf.FuncMetadata(&instructions[0]) == nil {
		return 0, nil
	}
	for i := range instructions {
		if f := btf.FuncMetadata(&instructions[i]); f != nil && f.Name != dispatcherName && !isSlotFunction(f.Name) {
			return 0, nil // the inline linker's
		}
		// The verifier removed the calls of slots that cannot be reached; since Linux 6.8 also their functions.
		if instructions[i].IsFunctionCall() {
			slots++
		}
	}
	return slots, nil
}

func isSlotFunction(name string) bool {
	var n int
	_, err := fmt.Sscanf(name, "slot_%02d", &n)
	return err == nil && name == slotFunction(n)
}

// learned are the devices and programs of which pins are known.
func (p *Plane) learned() (devices []Device, programs []uint64) {
	in := &p.inventory
	in.mu.Lock()
	stocks := maps.Clone(in.stocks)
	in.mu.Unlock()
	for key, s := range stocks {
		s.mu.Lock()
		known := len(s.known)
		s.mu.Unlock()
		if known == 0 {
			continue
		}
		if d, ok := parseDevice(filepath.Base(key)); ok {
			devices = append(devices, d)
		} else if id, err := strconv.ParseUint(filepath.Base(key), 10, 64); err == nil {
			programs = append(programs, id)
		}
	}
	return devices, programs
}

// stock is what is known of a folder.
func (p *Plane) stock(dir string) *stock {
	in := &p.inventory
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stocks == nil {
		in.stocks = map[string]*stock{}
	}
	key := p.rel(dir)
	if in.stocks[key] == nil {
		in.stocks[key] = &stock{}
	}
	return in.stocks[key]
}

// forget makes a path and all below unknown, before this package changes it.
func (p *Plane) forget(path string) {
	path = p.rel(path)
	parts := strings.SplitN(path, "/", 3)
	if len(parts) < 2 {
		return
	}
	key := filepath.Join(parts[:2]...)
	s := p.stock(filepath.Join(p.root, key))
	s.mu.Lock()
	maps.DeleteFunc(s.known, func(known string, _ pinned) bool { return known == path || strings.HasPrefix(known, path+"/") })
	s.stamps, s.missing = nil, nil
	s.mu.Unlock()
	if path == key {
		if d, ok := parseDevice(filepath.Base(key)); ok {
			p.inventory.owns(d, nil)
		}
		p.inventory.mu.Lock()
		delete(p.inventory.stocks, key)
		p.inventory.mu.Unlock()
	}
}

// remove removes pins of ours, so that nobody takes that for damage.
func (p *Plane) remove(path string) error {
	p.forget(path)
	return removeTree(path)
}

// rel is a path relative to the root.
func (p *Plane) rel(path string) string { return strings.TrimPrefix(path, p.root+"/") }
