// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/pin"
	"golang.org/x/sys/unix"
)

// pinned is an entry of a folder: a pin, a symbolic link or a folder.
type pinned struct {
	kind kind
	id   uint32      // the kernel's; 0: it is no pin
	like string      // what the object is like besides; of a symbolic link, where it points
	mode fs.FileMode // with the group, what is made again with it
	gid  int

	ifindex int  // of an XDP link
	expires bool // what is in it goes with its last pin, even if the object stays
}

type kind string

const (
	aProgram kind = "program"
	aMap     kind = "map"
	aLink    kind = "link"
	aFolder  kind = "folder"
	aSymlink kind = "symbolic link"
)

// same tells whether an entry is what it was. Its mode and group do not matter, nor does the index of an interface, which
// changes where that moves.
func (was pinned) same(is pinned) bool {
	return was.kind == is.kind && was.id == is.id && was.like == is.like
}

// describe looks at an entry of a folder.
func describe(path string) (pinned, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return pinned{}, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return pinned{}, err
	}
	is := pinned{kind: aFolder, mode: info.Mode().Perm(), gid: int(st.Gid)}
	switch {
	case info.IsDir():
		return is, nil
	case info.Mode().Type() == fs.ModeSymlink:
		is.kind = aSymlink
		is.like, err = os.Readlink(path)
		return is, err
	}
	object, err := pin.Load(path, nil)
	if err != nil {
		return is, err
	}
	defer object.Close()
	return is, is.of(object)
}

// of notes which object it is.
func (is *pinned) of(object pin.Pinner) error {
	switch o := object.(type) {
	case *ebpf.Program:
		info, err := o.Info()
		if err != nil {
			return err
		}
		id, _ := info.ID()
		loaded, _ := info.LoadTime() // its name depends on the privilege to read its types
		is.kind, is.id, is.like = aProgram, uint32(id), fmt.Sprintf("%v %s %v", info.Type, info.Tag, loaded)
	case *ebpf.Map:
		info, err := o.Info()
		if err != nil {
			return err
		}
		id, _ := info.ID()
		is.kind, is.id = aMap, uint32(id)
		is.like = fmt.Sprintf("%v %d %d %d %#x", info.Type, info.KeySize, info.ValueSize, info.MaxEntries, info.Flags)
		is.expires = info.Type == ebpf.ProgramArray
	case link.Link:
		info, err := o.Info()
		if err != nil {
			return err
		}
		is.kind, is.id = aLink, uint32(info.ID)
		if xdp := info.XDP(); xdp != nil { // its program changes with each revision
			is.like, is.ifindex = "xdp", int(xdp.Ifindex)
			break
		}
		is.like = fmt.Sprintf("type %d program %d", info.Type, info.Program)
	default:
		return fmt.Errorf("it is of a kind that is not known, %T", object)
	}
	return nil
}

// Restore makes the pins again that Damage misses, with their folders, of the objects that they were of, where the kernel
// still has them: traffic does not change. The way to an object without a pin is by its id, which needs CAP_SYS_ADMIN. A pin
// that is of something else now makes room. It returns what it made, and goes on over errors; with ErrLost, which names
// them, some objects are gone, and those stay missing. These are gone with their pin: a link that nobody else holds, which
// takes its program from the device or out of its slot; and an array of programs, which the kernel empties. A folder that
// would have nothing in it is not made.
//
// What was not learned is found by what the kernel knows of it: a link without a pin by the revision that it runs, a
// dispatcher by its counters, and the other way round.
func (p *Plane) Restore(d Device) (restored []string, err error) {
	return p.restore(p.chainDir(d), p.lacking(d),
		func(path string) (pinned, error) { return p.trace(d, path) })
}

// RestoreProgram is Restore for a loaded program. Of one that was not learned there is nothing to restore.
func (p *Plane) RestoreProgram(id uint64) (restored []string, err error) {
	dir := p.programDir(id)
	return p.restore(dir, p.lackingProgram(dir),
		func(string) (pinned, error) { return pinned{}, ErrLost })
}

func (p *Plane) restore(dir string, lacking needs, trace func(string) (pinned, error)) (restored []string, err error) {
	s := p.stock(dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	missing, err := p.compare(s, dir, lacking)
	if err != nil {
		return nil, err
	}
	s.stamps = nil
	if s.known[p.rel(dir)].mode == wayOpen && len(missing) > 0 {
		if err := p.openWay(); err != nil {
			return nil, err
		}
	}
	var lost []string
	var errs []error
	for _, path := range missing { // folders come before what is in them
		was, known := s.known[path]
		if !known {
			was, err = trace(path)
		}
		if err == nil {
			err = p.remake(path, was, func(program uint32) bool { return !known || s.runs(program) })
		}
		switch {
		case errors.Is(err, ErrLost):
			lost = append(lost, path)
			if !known || was.kind != aFolder { // what somebody put in its place is in the way of what is made anew
				inTheWay := filepath.Join(p.root, path)
				err := p.preserve(inTheWay)
				if err == nil {
					err = removeTree(inTheWay)
				}
				errs = append(errs, err)
			}
		case err != nil:
			errs = append(errs, fmt.Errorf("pin %s again: %w", path, err))
		default:
			restored = append(restored, path)
		}
		err = nil
	}
	if len(lost) > 0 {
		if slices.Contains(missing, p.rel(dir)) && !slices.ContainsFunc(restored, func(path string) bool { return s.known[path].id != 0 }) {
			err := p.preserve(filepath.Join(dir, "link"))
			if err == nil {
				err = removeTree(dir) // of what it was nothing is left
			}
			errs = append(errs, err)
			restored, lost = nil, missing
		}
		errs = append(errs, fmt.Errorf("%s: %w", strings.Join(lost, ", "), ErrLost))
	}
	return restored, errors.Join(errs...)
}

// openWay lets groups pass to the maps of programs.
func (p *Plane) openWay() error {
	p.way.Lock()
	defer p.way.Unlock()
	for _, folder := range p.wayFolders() {
		if err := os.Chmod(folder, wayOpen); err != nil {
			return fmt.Errorf("let groups pass to the maps of programs: %w", err)
		}
	}
	return nil
}

// runs tells whether a program was a dispatcher of the device when its pins were learned.
func (s *stock) runs(program uint32) bool {
	for path, was := range s.known {
		if filepath.Base(path) == "dispatcher" && was.id == program {
			return true
		}
	}
	return false
}

// remake makes an entry again as it was. An XDP link must be on the interface on which it was, and run a program that ours
// knows.
func (p *Plane) remake(rel string, was pinned, ours func(program uint32) bool) error {
	path := filepath.Join(p.root, rel)
	switch was.kind {
	case aFolder:
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		return was.dress(path)
	case aSymlink:
		return p.place(path, func(at string) error { return os.Symlink(was.like, at) })
	}
	object, err := was.open()
	if err != nil {
		return err
	}
	defer object.Close()
	if l, ok := object.(xdpLink); ok && was.ifindex != 0 {
		info, err := infoOf(l)
		if err != nil {
			return err
		}
		if info.ifindex != was.ifindex || !ours(info.program) {
			return fmt.Errorf("%w: link %d is on interface %d now, and runs program %d", ErrLost, was.id, info.ifindex, info.program)
		}
	}
	if err := p.place(path, object.Pin); err != nil {
		return err
	}
	return was.dress(path)
}

// dress gives an entry its mode and group.
func (was pinned) dress(path string) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err == nil && int(st.Gid) != was.gid {
		err = os.Lchown(path, -1, was.gid)
	}
	if err == nil && fs.FileMode(st.Mode).Perm() != was.mode {
		err = os.Chmod(path, was.mode)
	}
	return err
}

// open opens the object by its id. The caller closes it. ErrLost: there is none, or it is another one.
func (was pinned) open() (object pin.Pinner, err error) {
	if was.expires {
		return nil, fmt.Errorf("%w: what was in %s %d went with its pin", ErrLost, was.kind, was.id)
	}
	switch was.kind {
	case aProgram:
		object, err = ebpf.NewProgramFromID(ebpf.ProgramID(was.id))
	case aMap:
		object, err = ebpf.NewMapFromID(ebpf.MapID(was.id))
	default:
		object, err = link.NewFromID(link.ID(was.id))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %v", ErrLost, byID(string(was.kind), was.id, err))
	}
	if err != nil {
		return nil, byID(string(was.kind), was.id, err)
	}
	var is pinned
	if err = is.of(object); err == nil && !was.same(is) {
		err = fmt.Errorf("%w: %s %d is another one", ErrLost, was.kind, was.id)
	}
	if err != nil {
		return nil, errors.Join(err, object.Close())
	}
	return object, nil
}
