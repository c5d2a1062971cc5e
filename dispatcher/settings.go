// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/xdpd/xdpd/chain"
)

// Configure returns the object with the global variables and numbers of map entries that s asks for; o itself stays
// as it is. Where maps come from and who may open them are not the object's: Load takes that. The error is a
// chain.Error: GLOBAL_INVALID, MAP_INVALID, or OBJECT_INVALID for an object whose type information is broken.
func (o *Object) Configure(s chain.Settings) (c *Object, err error) {
	if len(s.Globals) == 0 && len(s.MaxEntries) == 0 {
		return o, nil
	}
	defer func() {
		if r := recover(); r != nil { // the types are a stranger's
			c, err = nil, chain.Errorf(chain.ObjectInvalid, nil, "set globals and sizes of maps: the object's types make no sense: %v", r)
		}
	}()
	c = o.copy()
	for _, name := range slices.Sorted(maps.Keys(s.MaxEntries)) {
		if err := c.setEntries(name, s.MaxEntries[name]); err != nil {
			return nil, err
		}
	}
	if err := c.setGlobals(s.Globals); err != nil {
		return nil, err
	}
	return c, nil
}

// setEntries is for a copy of an object.
func (o *Object) setEntries(name string, n uint32) error {
	facts := chain.Facts{"map": name}
	old, ok := o.spec.Maps[name]
	if _, unused := o.unused[name]; unused {
		return chain.Errorf(chain.MapInvalid, facts, "set max_entries of map %q: function %q does not use it", name, o.function)
	}
	if !ok {
		return chain.Errorf(chain.MapInvalid, facts, "set max_entries of map %q: the program has no such map, it has %s", name, list(o.sizable()))
	}
	refuse := func(format string, args ...any) error {
		return chain.Errorf(chain.MapInvalid, facts, "set max_entries of map %q to %d: %s", name, n, fmt.Sprintf(format, args...))
	}
	switch {
	case isSection(name):
		return refuse("it holds global variables, and has the size of these")
	case n == 0:
		return refuse("it must be at least 1")
	case old.Type == ebpf.ProgramArray && len(old.Contents) > 0:
		return refuse("it is an array of programs that the object fills itself")
	case uint64(len(old.Contents)) > uint64(n):
		return refuse("the object itself puts %d entries in", len(old.Contents))
	}
	for _, kv := range old.Contents {
		if key, ok := kv.Key.(uint32); ok && key >= n {
			return refuse("the object itself puts in an entry %d", key)
		}
	}
	m := *old
	m.MaxEntries = n
	o.spec.Maps[name] = &m
	return nil
}

// sizable are the maps whose number of entries can be set, sorted.
func (o *Object) sizable() []string {
	return slices.DeleteFunc(o.mapNames(), isSection)
}

// isSection tells whether a map is a data section of the object, by its name: that of none in C begins with a dot.
func isSection(name string) bool { return strings.HasPrefix(name, ".") }

// settable tells whether a section has global variables that a client may set.
func settable(section string) bool {
	for _, s := range []string{".data", ".bss", ".rodata"} {
		if section == s || strings.HasPrefix(section, s+".") {
			return true
		}
	}
	return false
}

// global is a variable of a data section.
type global struct {
	section      string
	offset, size uint32
	typ          btf.Type
}

// globalsOf are the variables of data sections, by name: static ones of several functions may share one.
func globalsOf(sections map[string]*ebpf.MapSpec) map[string][]global {
	found := map[string][]global{}
	for section, spec := range sections {
		ds, ok := spec.Value.(*btf.Datasec)
		if !ok || !isSection(section) {
			continue
		}
		for _, v := range ds.Vars {
			if variable, ok := v.Type.(*btf.Var); ok {
				found[variable.Name] = append(found[variable.Name], global{section, v.Offset, v.Size, variable.Type})
			}
		}
	}
	return found
}

// setGlobals is for a copy of an object.
func (o *Object) setGlobals(values map[string]string) error {
	globals, contents := globalsOf(o.spec.Maps), map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		v, err := o.findGlobal(globals, name)
		if err != nil {
			return err
		}
		facts := chain.Facts{"global": name, "type": typeName(v.typ)}
		data, ok := contents[v.section]
		if !ok {
			if data, err = initialData(o.spec.Maps[v.section]); err != nil {
				return chain.Errorf(chain.GlobalInvalid, facts, "set global %q: section %s: %w", name, v.section, err)
			}
			contents[v.section] = data
		}
		size, err := btf.Sizeof(v.typ)
		if err != nil || int64(size) != int64(v.size) || uint64(v.offset)+uint64(v.size) > uint64(len(data)) {
			return chain.Errorf(chain.GlobalInvalid, facts, "set global %q: the object's type information has no sound place for it in %s", name, v.section)
		}
		value := make([]byte, size)
		if err := encodeValue(value, o.spec.ByteOrder, v.typ, values[name]); err != nil {
			return chain.Errorf(chain.GlobalInvalid, facts, "set global %q of type %s: %w", name, typeName(v.typ), err)
		}
		copy(data[v.offset:], value)
	}
	for section, data := range contents {
		m := *o.spec.Maps[section]
		m.Contents = []ebpf.MapKV{{Key: uint32(0), Value: data}}
		o.spec.Maps[section] = &m
		o.set[section] = true
	}
	return nil
}

// findGlobal finds the one variable of a name that can be set.
func (o *Object) findGlobal(globals map[string][]global, name string) (global, error) {
	facts := chain.Facts{"global": name, "type": ""}
	refuse := func(format string, args ...any) error {
		return chain.Errorf(chain.GlobalInvalid, facts, "set global %q: %s", name, fmt.Sprintf(format, args...))
	}
	found := globals[name]
	if len(found) == 0 {
		if unused := globalsOf(o.unused)[name]; len(unused) > 0 {
			facts["type"] = typeName(unused[0].typ)
			return global{}, refuse("it is in section %s, which function %q does not use", unused[0].section, o.function)
		}
		if untyped := o.untyped(); len(untyped) > 0 {
			return global{}, refuse("the object has no type information for %s (compile it with -g)", list(untyped))
		}
		var names []string
		for other, vs := range globals {
			if len(vs) == 1 && settable(vs[0].section) {
				names = append(names, other)
			}
		}
		slices.Sort(names)
		return global{}, refuse("the program has no such variable, it has %s", list(names))
	}
	facts["type"] = typeName(found[0].typ)
	if len(found) > 1 {
		return global{}, refuse("the program has %d static variables of that name", len(found))
	}
	if !settable(found[0].section) {
		return global{}, refuse("the kernel's configuration gives it its value")
	}
	return found[0], nil
}

// untyped are the program's sections of variables that nothing is known of, sorted.
func (o *Object) untyped() []string {
	return slices.DeleteFunc(o.mapNames(), func(name string) bool {
		_, typed := o.spec.Maps[name].Value.(*btf.Datasec)
		// Sections of constants that the compiler makes itself, such as .rodata.str1.1, have no variables.
		return typed || !settable(name) || strings.HasPrefix(name, ".rodata.str") || strings.HasPrefix(name, ".rodata.cst")
	})
}

// initialData is a copy of what a data section has at first.
func initialData(m *ebpf.MapSpec) ([]byte, error) {
	if len(m.Contents) == 1 {
		if data, ok := m.Contents[0].Value.([]byte); ok {
			return slices.Clone(data), nil
		}
	}
	return nil, fmt.Errorf("its contents are not known")
}

// listed bounds how many names an error lists.
const listed = 32

// list writes names for a sentence.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	text := strings.Join(names[:min(len(names), listed)], ", ")
	if more := len(names) - listed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return strings.ToValidUTF8(text, "?")
}

// typeName writes a type as in C, without its qualifiers.
func typeName(t btf.Type) string {
	dims := ""
	for range maxNesting {
		switch u := btf.QualifiedType(t).(type) {
		case *btf.Array:
			dims += fmt.Sprintf("[%d]", u.Nelems)
			t = u.Type
			continue
		case *btf.Pointer:
			return "pointer" + dims
		case *btf.Struct:
			return "struct " + printable(u.Name) + dims
		case *btf.Union:
			return "union " + printable(u.Name) + dims
		case *btf.Enum:
			return "enum " + printable(u.Name) + dims
		case *btf.Int:
			if u.Encoding&btf.Bool != 0 {
				return "bool" + dims // whichever of its names the compiler takes
			}
			return printable(u.Name) + dims
		default:
			return printable(u.TypeName()) + dims
		}
	}
	return "too deep" + dims
}

// printable is a name of an object for people.
func printable(name string) string {
	if name == "" {
		return "(anonymous)"
	}
	return strings.ToValidUTF8(name, "?")
}

// intRange are the smallest and the largest integer of so many bytes, 1 to 8.
func intRange(size uint32, signed bool) (lowest int64, highest uint64) {
	bits := 8 * size
	if signed {
		return math.MinInt64 >> (64 - bits), math.MaxInt64 >> (64 - bits)
	}
	return 0, math.MaxUint64 >> (64 - bits)
}
