// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// fragsFlag is BPF_F_XDP_HAS_FRAGS: the program can work on packets of more than one buffer (Linux 5.18).
const fragsFlag = 1 << 5

// Object is one XDP program of an ELF object: parsed, not loaded. It does not change: Configure makes another one.
type Object struct {
	function string
	spec     *ebpf.CollectionSpec     // the program, those its tail calls can reach from the start, and their maps
	unused   map[string]*ebpf.MapSpec // maps of the ELF object that those do not need
	set      map[string]bool          // data sections in which Configure has set variables
}

// ParseObject reads an ELF object and picks the XDP program function; none named, the only one that there is.
// It fails with a chain.Error: OBJECT_INVALID, FUNCTION_NOT_FOUND or FUNCTION_UNSUITABLE.
func ParseObject(data []byte, function string) (o *Object, err error) {
	defer func() {
		if r := recover(); r != nil { // the parser is a library's, the bytes are a stranger's
			o, err = nil, chain.Errorf(chain.ObjectInvalid, nil, "read object: the parser failed on it: %v", r)
		}
	}()
	parsing <- struct{}{}
	defer func() { <-parsing }()
	if err := checkSize(data); err != nil {
		return nil, err
	}
	all, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(data))
	if err != nil {
		return nil, chain.Errorf(chain.ObjectInvalid, nil, "read object: %w (is it an ELF file made by clang -target bpf?)", err)
	}
	if function, err = pickFunction(all, function); err != nil {
		return nil, err
	}
	main := all.Programs[function]
	main.Type, main.AttachType = ebpf.XDP, ebpf.AttachXDP
	o = &Object{function: function, spec: reachable(all, function), unused: maps.Clone(all.Maps), set: map[string]bool{}}
	maps.DeleteFunc(o.unused, func(name string, _ *ebpf.MapSpec) bool { return o.spec.Maps[name] != nil })
	if err := o.checkMaps(); err != nil {
		return nil, err
	}
	return o, nil
}

// checkMaps refuses maps whose names cannot be those of pins, and one larger than maxUnpacked that the loader fills.
func (o *Object) checkMaps() error {
	if n := len(o.spec.Maps); n > maxMaps {
		return chain.Errorf(chain.ObjectInvalid, nil, "program %q refers to %d maps, at most %d are taken", o.function, n, maxMaps)
	}
	if n := len(o.spec.Programs); n > maxMaps {
		return chain.Errorf(chain.ObjectInvalid, nil, "program %q can call %d others, at most %d are taken", o.function, n, maxMaps)
	}
	for _, name := range o.mapNames() {
		if strings.ContainsAny(name, "/@\x00") || len(name) > unix.NAME_MAX {
			return chain.Errorf(chain.ObjectInvalid, chain.Facts{"map": name},
				"map %q: a name must not have a slash, an @ or a zero byte, nor more than %d bytes", name, unix.NAME_MAX)
		}
		if size := o.spec.Maps[name].ValueSize; name == ".kconfig" && size > maxUnpacked {
			return chain.Errorf(chain.ObjectInvalid, chain.Facts{"map": name},
				"map %q has a value of %d bytes, more than %d MiB", name, size, maxUnpacked>>20)
		}
	}
	return nil
}

// copy is an object whose maps can be replaced by others; what they and the programs point to belongs to o as well.
func (o *Object) copy() *Object {
	c, spec := *o, *o.spec
	spec.Maps = maps.Clone(o.spec.Maps)
	c.spec, c.set = &spec, maps.Clone(o.set)
	return &c
}

// Function is the C function, in full.
func (o *Object) Function() string { return o.function }

// Frags tells whether the program can work on packets of more than one buffer.
func (o *Object) Frags() bool { return o.main().Flags&fragsFlag != 0 }

// tailCalls tells whether the program has arrays of programs, which it can call.
func (o *Object) tailCalls() bool {
	for _, m := range o.spec.Maps {
		if m.Type == ebpf.ProgramArray {
			return true
		}
	}
	return false
}

func (o *Object) main() *ebpf.ProgramSpec { return o.spec.Programs[o.function] }

// mapNames are the maps that the program needs, sorted.
func (o *Object) mapNames() []string {
	names := make([]string, 0, len(o.spec.Maps))
	for name := range o.spec.Maps {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// pickFunction finds the program that is meant, and refuses one that cannot be a member.
func pickFunction(all *ebpf.CollectionSpec, function string) (string, error) {
	var members, others []string
	for name, prog := range all.Programs {
		if unsuitable(prog) == "" {
			members = append(members, name)
		} else {
			others = append(others, name)
		}
	}
	slices.Sort(members)
	slices.Sort(others)
	facts := chain.Facts{"functions": strings.Join(members, ",")}
	if function == "" {
		switch {
		case len(members) == 1:
			return members[0], nil
		case len(members) == 0 && len(others) == 0:
			return "", chain.Errorf(chain.FunctionNotFound, facts, "the object has no programs")
		case len(members) == 0:
			return "", chain.Errorf(chain.FunctionNotFound, facts, "the object has no XDP program, only %s", strings.Join(others, ", "))
		}
		return "", chain.Errorf(chain.FunctionNotFound, facts, "the object has %d XDP programs, name one of: %s", len(members), strings.Join(members, ", "))
	}
	prog, ok := all.Programs[function]
	if !ok {
		return "", chain.Errorf(chain.FunctionNotFound, facts, "the object has no program %q; its XDP programs: %s", function, strings.Join(members, ", "))
	}
	// A section whose name says nothing makes the program of no type: whoever names it says that it is XDP.
	if why := unsuitable(prog); why != "" && prog.Type != ebpf.UnspecifiedProgram {
		return "", chain.Errorf(chain.FunctionUnsuitable, chain.Facts{"function": function, "section": prog.SectionName},
			"program %q in section %q cannot be a member of a chain: %s", function, prog.SectionName, why)
	}
	return function, nil
}

// unsuitable says why a program cannot be a member, or nothing.
func unsuitable(prog *ebpf.ProgramSpec) string {
	switch {
	case prog.Type != ebpf.XDP:
		return fmt.Sprintf("it is of type %s, not XDP", prog.Type)
	case prog.AttachType == ebpf.AttachXDPDevMap:
		return "it is made to run at the entry of a device map, not on an interface"
	case prog.AttachType == ebpf.AttachXDPCPUMap:
		return "it is made to run at the entry of a CPU map, not on an interface"
	}
	return ""
}

// reachable is the part of an object that a program needs: itself, the maps that it refers to, the programs
// that these maps hold from the start (tail-call targets) and the maps of those.
func reachable(all *ebpf.CollectionSpec, function string) *ebpf.CollectionSpec {
	part := &ebpf.CollectionSpec{
		Maps:      map[string]*ebpf.MapSpec{},
		Programs:  map[string]*ebpf.ProgramSpec{},
		Types:     all.Types,
		ByteOrder: all.ByteOrder,
	}
	var addMap func(string)
	addProgram := func(name string) {
		prog, ok := all.Programs[name]
		if _, done := part.Programs[name]; !ok || done {
			return
		}
		part.Programs[name] = prog
		for _, ins := range prog.Instructions {
			addMap(ins.Reference())
		}
	}
	addMap = func(name string) {
		m, ok := all.Maps[name]
		if _, done := part.Maps[name]; !ok || done {
			return
		}
		m.Pinning = ebpf.PinNone // pinned in the program's own folder, never where the object says
		part.Maps[name] = m
		for _, kv := range m.Contents {
			if ref, ok := kv.Value.(string); ok {
				addProgram(ref)
				addMap(ref)
			}
		}
	}
	addProgram(function)
	return part
}
