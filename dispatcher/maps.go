// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// inherited are maps of loaded programs that a new one is going to use.
type inherited struct {
	maps    map[string]*ebpf.Map
	origins map[string]MapOrigin // of all maps of the new program
}

func (in *inherited) take(name string, m *ebpf.Map, from Origin, reason string) {
	in.maps[name] = m
	in.origins[name] = MapOrigin{Map: name, Origin: from, Reason: reason}
}

// inherit finds the maps that l.Object takes over from other programs. The caller closes them.
func (p *Plane) inherit(l Load) (_ *inherited, err error) {
	in := &inherited{map[string]*ebpf.Map{}, map[string]MapOrigin{}}
	defer func() {
		if err != nil {
			closeMaps(in.maps)
		}
	}()
	for _, name := range l.Object.mapNames() {
		in.origins[name] = MapOrigin{Map: name, Origin: OriginNew}
	}
	if l.Share != 0 {
		if err := p.share(in, l); err != nil {
			return nil, err
		}
	}
	if l.Carry != 0 {
		if err := p.carry(in, l); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// share takes every map of l.Share whose name the object has too. One of another shape is an error, and so is it
// if there is none.
func (p *Plane) share(in *inherited, l Load) error {
	theirs, err := p.loadedMaps(l.Share)
	if err != nil {
		return fmt.Errorf("look at the maps of program %q: %w", l.Shared, err)
	}
	facts := chain.Facts{"program": l.Name, "shared_from": l.Shared}
	for _, name := range l.Object.mapNames() {
		spec := l.Object.spec.Maps[name]
		if isSection(name) || spec.Type == ebpf.ProgramArray || !theirs[name] {
			continue
		}
		m, err := p.openMap(l.Share, name)
		if err != nil {
			return err
		}
		differs, err := p.differs(l.Share, name, m, l.Object)
		if err == nil && differs != "" {
			err = chain.Errorf(chain.MapInvalid, with(facts, "map", name),
				"share map %q of program %q with program %q: they are not of the same shape: %s", name, l.Shared, l.Name, differs)
		}
		if err != nil {
			m.Close()
			return err
		}
		in.take(name, m, OriginShared, "")
	}
	if len(in.maps) == 0 {
		return chain.Errorf(chain.MapInvalid, facts, "share maps of program %q with program %q: no map is in both; those that can be shared are %s in the one, %s in the other",
			l.Shared, l.Name, list(shareable(theirs)), list(l.Object.sizable()))
	}
	return nil
}

// carry takes every map of l.Carry that fits, and says of the others why not.
func (p *Plane) carry(in *inherited, l Load) error {
	theirs, err := p.loadedMaps(l.Carry)
	if _, there := os.Stat(p.programDir(l.Carry)); errors.Is(err, fs.ErrNotExist) && there == nil {
		return nil // somebody removed them
	}
	if err != nil {
		return fmt.Errorf("look at the maps that program %q had: %w", l.Name, err)
	}
	for _, name := range l.Object.mapNames() {
		if !theirs[name] {
			continue
		}
		m, err := p.openMap(l.Carry, name)
		if err != nil {
			return err
		}
		if shared := in.maps[name]; shared != nil {
			same, err := sameMap(shared, m)
			if err := errors.Join(err, m.Close()); err != nil {
				return err
			}
			if !same {
				in.origins[name] = MapOrigin{name, OriginShared, fmt.Sprintf("that of program %q is used in place of its own", l.Shared)}
			}
			continue
		}
		why, err := p.uncarried(l.Carry, name, m, l.Object)
		if err == nil && why == "" {
			in.take(name, m, OriginCarried, "")
			continue
		}
		if err := errors.Join(err, m.Close()); err != nil {
			return err
		}
		in.origins[name] = MapOrigin{name, OriginNew, why}
	}
	return nil
}

// uncarried says why a map of a program is not carried over to o, or nothing.
func (p *Plane) uncarried(id uint64, name string, m *ebpf.Map, o *Object) (string, error) {
	info, err := m.Info()
	if err != nil {
		return "", fmt.Errorf("look at map %q: %w", name, err)
	}
	switch {
	case strings.HasPrefix(name, ".rodata"):
		return "constants come with the object", nil
	case isSection(name) && !settable(name):
		return "it has what the kernel's configuration says", nil
	case o.set[name]:
		return "variables in it are set", nil
	case m.Type() == ebpf.ProgramArray && o.spec.Maps[name].Type == ebpf.ProgramArray:
		return "it holds code", nil
	case info.Frozen():
		return "it is frozen", nil
	}
	return p.differs(id, name, m, o)
}

// differs says what is different between map m of a loaded program and the one of its name that o declares; nothing
// if they are of the same shape.
func (p *Plane) differs(id uint64, name string, m *ebpf.Map, o *Object) (string, error) {
	spec := o.spec.Maps[name]
	want, err := declaredShape(name, spec)
	if err != nil {
		return "", chain.Errorf(chain.MapInvalid, chain.Facts{"map": name}, "map %q: %w", name, err)
	}
	have, err := loadedShape(name, m)
	if err != nil {
		return "", err
	}
	if text := want.differs(have); text != "" {
		return text, nil
	}
	details, known := detailsOf(name, spec)
	if !hasDetails(name, spec) {
		return "", nil
	}
	recorded, err := os.Readlink(p.detailsPath(id, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look at map %q: %w", name, err)
	}
	if !known || err != nil {
		return "what is in it is not known, for want of type information", nil
	}
	return detailsDiffer(name, details, recorded), nil
}

// loadedMaps are the names of a loaded program's maps.
func (p *Plane) loadedMaps(id uint64) (map[string]bool, error) {
	entries, err := os.ReadDir(filepath.Join(p.programDir(id), "maps"))
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[unescape(e.Name())] = true
	}
	return names, nil
}

// shareable are those of loaded maps that can be shared as far as their names tell, sorted.
func shareable(loaded map[string]bool) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(loaded)), isSection)
}

// openMap opens a map of a loaded program. The caller closes it.
func (p *Plane) openMap(id uint64, name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.programDir(id), "maps", escape(name)), nil)
	if err != nil {
		return nil, fmt.Errorf("open map %q: %w", name, err)
	}
	return m, nil
}

func sameMap(a, b *ebpf.Map) (bool, error) {
	var ids [2]ebpf.MapID
	for i, m := range []*ebpf.Map{a, b} {
		info, err := m.Info()
		if err != nil {
			return false, fmt.Errorf("look at map: %w", err)
		}
		ids[i], _ = info.ID()
	}
	return ids[0] == ids[1], nil
}

// using is the object for a load with maps that exist: it declares them as they are, and puts nothing into them.
func (o *Object) using(have map[string]*ebpf.Map) *Object {
	c := o.copy()
	for name, m := range have {
		spec := *c.spec.Maps[name]
		spec.KeySize, spec.ValueSize, spec.MaxEntries, spec.Flags = m.KeySize(), m.ValueSize(), m.MaxEntries(), m.Flags()
		spec.Contents = nil
		c.spec.Maps[name] = &spec
	}
	return c
}

// openTo gives the pins of the maps in dir, a program's folder, to a group, and lets it come as far as there.
func openTo(gid int, dir string, names []string) error {
	maps := filepath.Join(dir, "maps")
	errs := []error{os.Chown(maps, -1, gid), os.Chmod(maps, 0o750)}
	for _, name := range names {
		pin := filepath.Join(maps, escape(name))
		errs = append(errs, os.Chown(pin, -1, gid), os.Chmod(pin, 0o660))
	}
	err := errors.Join(append(errs, os.Chmod(dir, 0o711))...)
	if errors.Is(err, unix.EPERM) {
		return chain.Errorf(chain.Kernel, chain.Facts{"error": unix.EPERM.Error()}, "give the pins of maps to group %d: operation not permitted (does xdpd have CAP_CHOWN?)", gid)
	}
	if err != nil {
		return fmt.Errorf("give the pins of maps to group %d: %w", gid, err)
	}
	return nil
}
