// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/failpoint"
)

// Map is a map of a loaded program.
type Map struct {
	Name, Pin, Type                          string
	KernelID, KeySize, ValueSize, MaxEntries uint32
	Flags                                    uint32 // those of BPF_MAP_CREATE that last
	GID                                      uint32 // the group of the pin
}

// Load makes the maps of a program, or takes those of others as l says, pins them, and loads the program as its linker
// needs it; the kernel verifies it in any case. It says where each map comes from, sorted by name. On an error nothing
// is left, and other programs' maps are as they were. The error is a chain.Error, where the kernel refuses the program
// with the verifier's log.
//
// A map keeps its contents when it is carried or shared, whatever the object puts into it at first. Neither happens
// to sections of constants and arrays of programs, which belong to the code; nor is a map carried that is frozen, or
// a section in which Configure has set a variable.
func (p *Plane) Load(l Load) ([]MapOrigin, error) { return p.LoadContext(context.Background(), l) }

// load is Load of a program whose turn it is.
func (p *Plane) load(l Load) (origins []MapOrigin, err error) {
	// It gets its name when it is whole: what a process that died left half done has another one.
	dir := p.programDir(l.ID) + unfinished
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for program %q: %w", l.Name, err)
	}
	done := false
	defer func() {
		if !done { // an error, or a panic on its way to the server
			origins, err = nil, errors.Join(err, removeTree(dir))
		}
	}()
	if origins, err = p.fill(dir, l); err != nil {
		return nil, err
	}
	if err := failpoint.Err(failpoint.LoadPinned); err != nil {
		return nil, err
	}
	if err := p.install(dir, l); err != nil {
		return nil, err
	}
	done = true
	return origins, nil
}

// install gives the folder of a program that is whole its name, and lets a group pass to it.
func (p *Plane) install(dir string, l Load) error {
	p.way.Lock()
	defer p.way.Unlock()
	if l.GID != 0 {
		for _, folder := range p.wayFolders() {
			if err := os.Chmod(folder, wayOpen); err != nil {
				return errors.Join(fmt.Errorf("let group %d pass to the maps of program %q: %w", l.GID, l.Name, err), p.closeWay())
			}
		}
	}
	p.forget(p.programDir(l.ID))
	if err := os.Rename(dir, p.programDir(l.ID)); err != nil {
		return errors.Join(fmt.Errorf("name the folder of program %q: %w", l.Name, err), p.closeWay())
	}
	return nil
}

// fill loads a program and pins in folder dir what it needs.
func (p *Plane) fill(dir string, l Load) ([]MapOrigin, error) {
	in, err := p.inherit(l)
	if err != nil {
		return nil, err
	}
	defer closeMaps(in.maps)
	maps := filepath.Join(dir, "maps")
	if err := mkdir(maps); err != nil {
		return nil, err
	}
	coll, err := p.linker.load(l.Object.using(in.maps), in.maps)
	if err != nil {
		return nil, loadError(l.Name, l.Object, err)
	}
	defer coll.Close()
	if err := failpoint.Err(failpoint.LoadMaps); err != nil {
		return nil, err
	}
	names := l.Object.mapNames()
	origins := make([]MapOrigin, len(names))
	for i, m := range names {
		if err := coll.Maps[m].Pin(filepath.Join(maps, escape(m))); err != nil {
			return nil, fmt.Errorf("pin map %q of program %q: %w", m, l.Name, err)
		}
		origins[i] = in.origins[m]
	}
	if err := recordDetails(dir, l.Object); err != nil {
		return nil, err
	}
	if err := p.linker.keep(coll.Programs[l.Object.function], dir); err != nil {
		return nil, fmt.Errorf("pin program %q: %w", l.Name, err)
	}
	if l.GID != 0 {
		return origins, openTo(l.GID, dir, names)
	}
	return origins, nil
}

// Unload removes the pins of a program; it stays in the kernel only as long as revisions hold it. With the last program
// whose maps a group may open, nobody but root passes to the pins any more. An absent program is fine.
func (p *Plane) Unload(id uint64) error {
	failpoint.Hit(failpoint.UnloadBefore)
	dir := p.programDir(id)
	p.forget(dir)
	return errors.Join(p.uninstall(dir), removeTree(dir+unfinished))
}

// uninstall takes its name from a program's folder. The way to the maps ends with the last program that a group may
// come to.
func (p *Plane) uninstall(dir string) error {
	p.way.Lock()
	defer p.way.Unlock()
	if err := os.Rename(dir, dir+unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pins: %w", err)
	}
	return p.closeWay()
}

// The modes of the folders on the way to the maps of programs: with wayOpen a group may pass and sees nothing else.
const (
	wayOpen   = 0o711
	wayClosed = 0o700
)

func (p *Plane) wayFolders() []string { return []string{p.root, filepath.Join(p.root, "programs")} }

// closeWay lets nobody pass to the programs unless one has maps that a group may open. The caller holds p.way, or is
// alone.
func (p *Plane) closeWay() error {
	info, err := os.Stat(p.root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the folder for pins: %w", err)
	case info.Mode().Perm() == wayClosed:
		return nil
	}
	ids, err := p.Programs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		info, err := os.Stat(p.programDir(id))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look at the folder of program %d: %w", id, err)
		}
		if err == nil && info.Mode().Perm() == wayOpen {
			return nil
		}
	}
	for _, folder := range p.wayFolders() {
		if err := os.Chmod(folder, wayClosed); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("close the way to the maps of programs: %w", err)
		}
	}
	return nil
}

// unfinished ends the name of a program's folder that is being filled or emptied.
const unfinished = "-unfinished"

// sweepUnfinished removes what a process that died was about to load or unload.
func (p *Plane) sweepUnfinished() error {
	dir := filepath.Join(p.root, "programs")
	names, err := readDir(dir)
	errs := []error{err}
	for _, name := range names {
		if strings.HasSuffix(name, unfinished) {
			errs = append(errs, removeTree(filepath.Join(dir, name)))
		}
	}
	return errors.Join(append(errs, p.closeWay())...)
}

// Programs are the ids that have pins.
func (p *Plane) Programs() ([]uint64, error) {
	names, err := readDir(filepath.Join(p.root, "programs"))
	var ids []uint64
	for _, name := range names {
		if id, err := strconv.ParseUint(name, 10, 64); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// Program tells the kernel's id of a loaded program (0 with the inline linker) and its maps, sorted by name.
func (p *Plane) Program(id uint64) (kernelID uint32, maps []Map, err error) {
	dir := p.programDir(id)
	prog, err := ebpf.LoadPinnedProgram(filepath.Join(dir, "prog"), nil)
	if err == nil {
		kernelID, err = programID(prog)
		prog.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, fmt.Errorf("look at program %d: %w", id, err)
	}
	names, err := readDir(filepath.Join(dir, "maps"))
	if err != nil {
		return 0, nil, err
	}
	for _, name := range names {
		m, err := describeMap(filepath.Join(dir, "maps", name))
		if err != nil {
			return 0, nil, err
		}
		maps = append(maps, m)
	}
	slices.SortFunc(maps, func(a, b Map) int { return strings.Compare(a.Name, b.Name) })
	return kernelID, maps, nil
}

// ProgramName is the kernel's name of any program, cut to 15 characters. It needs CAP_SYS_ADMIN.
func ProgramName(id uint32) (string, error) {
	prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return "", fmt.Errorf("look at program %d: %w", id, err)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return "", fmt.Errorf("look at program %d: %w", id, err)
	}
	return info.Name, nil
}

func describeMap(pin string) (Map, error) {
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return Map{}, fmt.Errorf("look at map: %w", err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return Map{}, fmt.Errorf("look at map %s: %w", pin, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(pin, &st); err != nil {
		return Map{}, fmt.Errorf("look at the pin of map %s: %w", pin, err)
	}
	id, _ := info.ID()
	return Map{
		Name: unescape(filepath.Base(pin)), Pin: pin, Type: m.Type().String(), KernelID: uint32(id),
		KeySize: m.KeySize(), ValueSize: m.ValueSize(), MaxEntries: m.MaxEntries(),
		Flags: m.Flags(), GID: st.Gid,
	}, nil
}

// openMaps opens the pinned maps of a program. The caller closes them.
func openMaps(dir string, o *Object) (map[string]*ebpf.Map, error) {
	maps := map[string]*ebpf.Map{}
	for _, name := range o.mapNames() {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "maps", escape(name)), nil)
		if err != nil {
			closeMaps(maps)
			return nil, fmt.Errorf("open map %q: %w", name, err)
		}
		maps[name] = m
	}
	return maps, nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

func programID(prog *ebpf.Program) (uint32, error) {
	info, err := prog.Info()
	if err != nil {
		return 0, err
	}
	id, _ := info.ID()
	return uint32(id), nil
}

// loadError says which part of a program the kernel refused.
func loadError(name string, o *Object, err error) error {
	facts := chain.Facts{"program": name}
	for _, m := range o.mapNames() {
		text := err.Error()
		if strings.HasPrefix(text, "map "+m+":") || strings.HasPrefix(text, "finalizing map "+m+":") || strings.HasPrefix(text, "populating map "+m+":") {
			return refused(chain.MapInvalid, with(facts, "map", m), fmt.Sprintf("create map %q of program %q", m, name), err)
		}
	}
	var ve *ebpf.VerifierError
	if !errors.As(err, &ve) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.E2BIG) {
		return refused(chain.Kernel, facts, fmt.Sprintf("load program %q", name), err)
	}
	return refused(chain.VerifierRejected, facts, fmt.Sprintf("load program %q", name), err)
}

// escape writes a map's name as one for BPF FS, which refuses dots; no C identifier has an @.
func escape(name string) string   { return strings.ReplaceAll(name, ".", "@") }
func unescape(name string) string { return strings.ReplaceAll(name, "@", ".") }
