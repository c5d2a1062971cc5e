// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// shape is what must be the same of two maps for one to take the other's place.
type shape struct {
	Type                ebpf.MapType
	Key, Value, Entries uint32
	Flags               uint32
	Extra               uint64
}

// descriptorFlags are of the descriptor that creation returns: the kernel does not keep them with the map.
const descriptorFlags = unix.BPF_F_RDONLY | unix.BPF_F_WRONLY

// declaredShape is the shape that a map of an object will have in the kernel: it and the library complete or correct
// some numbers.
func declaredShape(name string, m *ebpf.MapSpec) (shape, error) {
	s := shape{m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags &^ descriptorFlags, m.MapExtra}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return s, fmt.Errorf("count CPUs: %w", err)
	}
	switch m.Type {
	case ebpf.ArrayOfMaps, ebpf.HashOfMaps:
		s.Value = 4
	case ebpf.PerfEventArray:
		s.Key, s.Value = 4, 4
		fallthrough
	case ebpf.CPUMap:
		if n := uint32(cpus); s.Entries == 0 || s.Entries > n {
			s.Entries = n
		}
	case ebpf.LRUHash, ebpf.LRUCPUHash:
		if m.Flags&unix.BPF_F_NO_COMMON_LRU != 0 { // the same number for each CPU
			s.Entries = forEachCPU(s.Entries, uint32(cpus))
		}
	}
	return s.normal(name), nil
}

// forEachCPU is n rounded as the kernel does: up to a multiple of cpus, or down where that overflows.
func forEachCPU(n, cpus uint32) uint32 {
	up := (uint64(n) + uint64(cpus) - 1) / uint64(cpus) * uint64(cpus)
	if up > 1<<32-1 {
		return n / cpus * cpus
	}
	return uint32(up)
}

// loadedShape is the shape of a map in the kernel.
func loadedShape(name string, m *ebpf.Map) (shape, error) {
	info, err := m.Info()
	if err != nil {
		return shape{}, fmt.Errorf("look at map %q: %w", name, err)
	}
	extra, _ := info.MapExtra()
	return shape{m.Type(), m.KeySize(), m.ValueSize(), m.MaxEntries(), m.Flags(), extra}.normal(name), nil
}

// normal leaves out what the kernel or the library sets by itself.
func (s shape) normal(name string) shape {
	if isSection(name) {
		s.Flags &^= unix.BPF_F_MMAPABLE
	}
	if s.Type == ebpf.DevMap || s.Type == ebpf.DevMapHash { // since Linux 5.8
		s.Flags &^= unix.BPF_F_RDONLY_PROG
	}
	return s
}

// differs says what of s is different from what was before; nothing if they are the same.
func (s shape) differs(was shape) string {
	if s.Type != was.Type {
		return fmt.Sprintf("type %v, was %v", s.Type, was.Type)
	}
	var parts []string
	for _, v := range []struct {
		what     string
		now, was uint64
		format   string
	}{
		{"key size", uint64(s.Key), uint64(was.Key), "%d"},
		{"value size", uint64(s.Value), uint64(was.Value), "%d"},
		{"max_entries", uint64(s.Entries), uint64(was.Entries), "%d"},
		{"flags", uint64(s.Flags), uint64(was.Flags), "%#x"},
		{"map_extra", s.Extra, was.Extra, "%#x"},
	} {
		if v.now != v.was {
			parts = append(parts, fmt.Sprintf("%s "+v.format+", was "+v.format, v.what, v.now, v.was))
		}
	}
	return strings.Join(parts, ", ")
}

// --- what the kernel does not tell of a map to everybody ---

// The variables in a data section are told only to CAP_SYS_ADMIN, and what maps a map of maps takes to nobody. So it
// is recorded where the program is loaded: as targets of symbolic links, since BPF FS has no files.

// maxDetails bounds the target of a symbolic link, which is a page at most.
const maxDetails = 3 << 10

func (p *Plane) detailsPath(id uint64, name string) string {
	return filepath.Join(p.programDir(id), "shapes", escape(name))
}

// hasDetails tells whether there is more to know of a map than its shape.
func hasDetails(name string, m *ebpf.MapSpec) bool {
	return isSection(name) && !strings.HasPrefix(name, ".rodata") || m.Type == ebpf.ArrayOfMaps || m.Type == ebpf.HashOfMaps
}

// detailsOf are the details of a map, in lines, or for too many of these a hash.
func detailsOf(name string, m *ebpf.MapSpec) (text string, known bool) {
	if !hasDetails(name, m) {
		return "", false
	}
	if isSection(name) {
		ds, ok := m.Value.(*btf.Datasec)
		if !ok {
			return "", false
		}
		text, known = layout(ds)
	} else if m.InnerMap != nil {
		text, known = innerShape(m.InnerMap), true
	}
	if len(text) > maxDetails {
		text = fmt.Sprintf("sha256 %x", sha256.Sum256([]byte(text)))
	}
	return text, known && text != ""
}

// innerShape is what the kernel compares of a map that is put into a map of maps.
func innerShape(m *ebpf.MapSpec) string {
	s, err := declaredShape("", m)
	if err != nil {
		return ""
	}
	lines := []string{
		fmt.Sprintf("type %v", s.Type), fmt.Sprintf("key size %d", s.Key), fmt.Sprintf("value size %d", s.Value),
		fmt.Sprintf("flags %#x", s.Flags), fmt.Sprintf("map_extra %#x", s.Extra),
	}
	if (s.Type == ebpf.Array || s.Type == ebpf.XSKMap) && s.Flags&unix.BPF_F_INNER_MAP == 0 {
		lines = append(lines, fmt.Sprintf("max_entries %d", s.Entries))
	}
	return strings.Join(lines, "\n")
}

// detailsDiffer says what is different, or nothing.
func detailsDiffer(name, now, was string) string {
	if now == was {
		return ""
	}
	lines := func(a, b string) (only []string) {
		had := strings.Split(b, "\n")
		for _, line := range strings.Split(a, "\n") {
			if !slices.Contains(had, line) && !strings.HasPrefix(line, "sha256 ") {
				only = append(only, line)
			}
		}
		return only
	}
	if !isSection(name) {
		return fmt.Sprintf("it takes maps of %s, took those of %s", list(lines(now, was)), list(lines(was, now)))
	}
	var names []string
	for _, line := range append(lines(now, was), lines(was, now)...) {
		variable, _, _ := strings.Cut(line, " ")
		names = append(names, variable)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 0 {
		return "its variables differ"
	}
	return "its variables differ: " + list(names)
}

// recordDetails makes the symbolic links of maps in dir, a program's folder, where there is something to record.
func recordDetails(dir string, o *Object) error {
	shapes := filepath.Join(dir, "shapes")
	for _, name := range o.mapNames() {
		details, known := detailsOf(name, o.spec.Maps[name])
		if !known {
			continue
		}
		if err := mkdir(shapes); err != nil {
			return err
		}
		if err := os.Symlink(details, filepath.Join(shapes, escape(name))); err != nil {
			return fmt.Errorf("record the shape of map %q: %w", name, err)
		}
	}
	return nil
}

// layout describes the variables of a data section, a line for each; false, if that is not possible.
func layout(ds *btf.Datasec) (string, bool) {
	w := layoutWriter{left: 1 << 14}
	vars := slices.Clone(ds.Vars)
	slices.SortStableFunc(vars, func(a, b btf.VarSecinfo) int { return int(int64(a.Offset) - int64(b.Offset)) })
	for i, v := range vars {
		variable, ok := v.Type.(*btf.Var)
		if !ok || strings.ContainsAny(variable.Name, " \n") {
			return "", false
		}
		if i > 0 {
			w.WriteString("\n")
		}
		fmt.Fprintf(&w, "%s at %d, %d bytes: ", printable(variable.Name), v.Offset, v.Size)
		if !w.write(variable.Type, 32) {
			return "", false
		}
	}
	return w.String(), true
}

// layoutWriter writes types as what matters of them for the meaning of bytes. It ends on types that a stranger made
// to have no end.
type layoutWriter struct {
	strings.Builder
	left int // of types to write
}

func (w *layoutWriter) write(t btf.Type, nesting int) bool {
	if w.left--; w.left < 0 || nesting == 0 {
		return false
	}
	switch u := btf.UnderlyingType(t).(type) {
	case *btf.Int:
		fmt.Fprintf(w, "i%d", u.Size)
	case *btf.Enum:
		fmt.Fprintf(w, "i%d", u.Size)
	case *btf.Float:
		fmt.Fprintf(w, "f%d", u.Size)
	case *btf.Pointer:
		w.WriteString("p")
	case *btf.Array:
		fmt.Fprintf(w, "[%d]", u.Nelems)
		return w.write(u.Type, nesting-1)
	case *btf.Struct:
		return w.members(u.Name, u.Size, u.Members, nesting-1)
	case *btf.Union:
		return w.members(u.Name, u.Size, u.Members, nesting-1)
	default:
		return false
	}
	return true
}

func (w *layoutWriter) members(name string, size uint32, members []btf.Member, nesting int) bool {
	if strings.HasPrefix(name, "bpf_") { // such as bpf_spin_lock: the kernel gives it a meaning
		fmt.Fprintf(w, "%q", name)
	}
	fmt.Fprintf(w, "{%d", size)
	for _, m := range members {
		fmt.Fprintf(w, " %q@%d:%d ", m.Name, m.Offset, m.BitfieldSize)
		if !w.write(m.Type, nesting) {
			return false
		}
	}
	w.WriteString("}")
	return true
}
