// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/xdpd/xdpd/chain"
)

// initial is what a global variable of an object has at first, by way of the library's own reading of the ELF file.
func initial(t testing.TB, o *Object, name string) []byte {
	t.Helper()
	found := globalsOf(o.spec.Maps)[name]
	if len(found) != 1 {
		t.Fatalf("there are %d variables %q", len(found), name)
	}
	data, err := initialData(o.spec.Maps[found[0].section])
	if err != nil {
		t.Fatal(err)
	}
	return data[found[0].offset:][:found[0].size]
}

// le are integers of so many bytes each, as the objects of the tests have them.
func le(size int, values ...int64) (out []byte) {
	for _, v := range values {
		out = append(out, binary.LittleEndian.AppendUint64(nil, uint64(v))[:size]...)
	}
	return out
}

func TestConfigureGlobals(t *testing.T) {
	o := object(t, "settings", "settings")
	for _, c := range []struct {
		name, value string
		want        []byte
	}{
		{"code", `1`, le(4, 1)},
		{"code", `"XDP_TX"`, le(4, 3)},
		{"code", ` "0x4" `, le(4, 4)},
		{"level", `"NEGATIVE"`, le(4, -3)},
		{"level", `-1`, le(4, -1)},
		{"level", `4294967295`, le(4, -1)},
		{"strict", `true`, le(1, 1)},
		{"strict", `false`, le(1, 0)},
		{"s8", `-128`, le(1, -128)},
		{"u8", `255`, le(1, 255)},
		{"s16", `32767`, le(2, 32767)},
		{"u16", `"0177"`, le(2, 127)},
		{"s32", `"-0x80000000"`, le(4, -1<<31)},
		{"u32", `4294967295`, le(4, 1<<32-1)},
		{"s64", `-9223372036854775808`, le(8, -1<<63)},
		{"u64", `18446744073709551615`, le(8, -1)},
		{"u64", `"0b101"`, le(8, 5)},
		{"ports", `[80, "0x1bb"]`, le(2, 80, 443, 0, 0)},
		{"ports", `[1,2,3,65535]`, le(2, 1, 2, 3, 65535)},
		{"ports", `[]`, le(2, 0, 0, 0, 0)},
		{"grid", `[[1,2,3],[-4]]`, le(4, 1, 2, 3, -4, 0, 0)},
		{"flags", `[true,false,true]`, []byte{1, 0, 1}},
		{"name", `"eth0"`, []byte("eth0\x00\x00\x00\x00")},
		{"name", `"\u00e9t\u00e9"`, []byte("été\x00\x00\x00")},
		{"name", `[97, 98]`, []byte("ab\x00\x00\x00\x00\x00\x00")},
		{"lines", `["abc", "d"]`, []byte("abc\x00d\x00\x00\x00")},
		{"mac", `["0xde", "0xad", 1, 2, 3, 255]`, []byte{0xde, 0xad, 1, 2, 3, 255}},
		{"in_rodata", `9`, le(4, 9)},
		{"in_data", `9`, le(4, 9)},
		{"only_static", `9`, le(4, 9)},
	} {
		before := slices.Clone(initial(t, o, c.name))
		got, err := o.Configure(chain.Settings{Globals: map[string]string{c.name: c.value}})
		if err != nil {
			t.Errorf("%s = %s: %v", c.name, c.value, err)
			continue
		}
		if now := initial(t, got, c.name); !slices.Equal(now, c.want) {
			t.Errorf("%s = %s is % x, want % x", c.name, c.value, now, c.want)
		}
		if now := initial(t, o, c.name); !slices.Equal(now, before) {
			t.Errorf("%s = %s changed the object it was asked of: % x, was % x", c.name, c.value, now, before)
		}
	}
}

// TestConfigureTogether sets several variables of one section and leaves their neighbours, in two steps.
func TestConfigureTogether(t *testing.T) {
	o := object(t, "settings", "settings")
	one, err := o.Configure(chain.Settings{Globals: map[string]string{"s16": "5", "name": `"one"`, "u8": "9"}})
	if err != nil {
		t.Fatal(err)
	}
	two, err := one.Configure(chain.Settings{Globals: map[string]string{"u16": "6"}, MaxEntries: map[string]uint32{"unsized": 3}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		"s16": le(2, 5), "u16": le(2, 6), "s64": le(8, -4), "level": le(4, 7), "name": []byte("one\x00\x00\x00\x00\x00"), "u8": {9}, "s8": le(1, -1),
	} {
		if got := initial(t, two, name); !slices.Equal(got, want) {
			t.Errorf("%s is % x, want % x", name, got, want)
		}
	}
	if one.spec.Maps["unsized"].MaxEntries != 0 || two.spec.Maps["unsized"].MaxEntries != 3 {
		t.Error("max_entries is not where it was set")
	}
	if !two.set[".data"] || !two.set[".rodata"] || two.set[".bss"] || len(o.set) != 0 {
		t.Errorf("sections with set variables: %v, of the first object %v", two.set, o.set)
	}
	if same, err := o.Configure(chain.Settings{ShareMapsFrom: "other", MapGroup: "users"}); err != nil || same != o {
		t.Errorf("settings of nothing in the object give another one, %v", err)
	}
}

func TestConfigureRefusesGlobals(t *testing.T) {
	for _, c := range []struct{ function, name, value, typ, words string }{
		{"settings", "nosuch", "1", "", "no such variable|code, flags|u8"},
		{"settings", "elsewhere", "1", "__u32", `.data.other|"settings" does not use`},
		{"settings", "u8", "256", "__u8", "256 is out of range|0 to 255|__u8"},
		{"settings", "u8", "-1", "__u8", "-1 is out of range"},
		{"settings", "s8", `"0x80"`, "__s8", "-128 to 127"},
		{"settings", "u16", "65536", "port", "out of range|port"},
		{"settings", "s64", "9223372036854775808", "__s64", "out of range"},
		{"settings", "u64", "18446744073709551616", "__u64", "out of range, which is 0 to 18446744073709551615"},
		{"settings", "u64", "1e3", "__u64", "not an integer"},
		{"settings", "u64", "1.0", "__u64", "not an integer"},
		{"settings", "u64", `"1_000"`, "__u64", "not an integer"},
		{"settings", "u64", `"+1"`, "__u64", "not an integer"},
		{"settings", "u64", `"08"`, "__u64", "not an integer"},
		{"settings", "u64", `""`, "__u64", "not an integer"},
		{"settings", "u64", `true`, "__u64", "true is given"},
		{"settings", "u64", `null`, "__u64", "null is given"},
		{"settings", "u64", `[1]`, "__u64", "a list is given"},
		{"settings", "u64", `{}`, "__u64", "an object is given"},
		{"settings", "u64", `1 2`, "__u64", "not JSON"},
		{"settings", "u64", `0x10`, "__u64", "not JSON"},
		{"settings", "u64", ``, "__u64", "not JSON"},
		{"settings", "name", "\"\xff\"", "char[8]", "not JSON"},
		{"settings", "strict", "1", "bool", "true or false"},
		{"settings", "code", `"XDP_NOSUCH"`, "enum xdp_action", "XDP_ABORTED, XDP_DROP"},
		{"settings", "code", `-1`, "enum xdp_action", "out of range"},
		{"settings", "name", `"eight888"`, "char[8]", "too long|7 and a NUL"},
		{"settings", "name", `"a\u0000b"`, "char[8]", "NUL"},
		{"settings", "name", `7`, "char[8]", "text or a list"},
		{"settings", "ports", `[1,2,3,4,5]`, "port[4]", "too long|4"},
		{"settings", "ports", `[1,65536]`, "port[4]", "element 1: 65536"},
		{"settings", "ports", `"text"`, "port[4]", "a list is needed"},
		{"settings", "ports", `[1,[2]]`, "port[4]", "element 1: a list"},
		{"settings", "grid", `[[1,2,3,4]]`, "__s32[2][3]", "element 0|too long"},
		{"settings", "flags", `["true"]`, "bool[3]", "element 0: a text"},
		{"settings", "lines", `["abcd"]`, "char[2][4]", "element 0: |3 and a NUL"},
		{"settings", "pair", `{"a":1}`, "struct pair", "only integers"},
		{"settings", "pointer", `1`, "pointer", "only integers"},
		{"settings", "huge", `1`, "__int128", "16 bytes"},
	} {
		o := object(t, "settings", c.function)
		got, err := o.Configure(chain.Settings{Globals: map[string]string{c.name: c.value}})
		if got != nil {
			t.Errorf("%s = %s is taken", c.name, c.value)
			continue
		}
		e := reason(t, err, chain.GlobalInvalid, append(strings.Split(c.words, "|"), fmt.Sprintf("%q", c.name))...)
		if e.Facts["global"] != c.name || e.Facts["type"] != c.typ {
			t.Errorf("%s = %s: the facts are %v, want type %q", c.name, c.value, e.Facts, c.typ)
		}
	}
}

func TestConfigureRefusesSizes(t *testing.T) {
	for _, c := range []struct {
		function, name string
		entries        uint32
		words          string
	}{
		{"settings", "nosuch", 1, "no such map|inner, outer, unsized"},
		{"settings", "other", 1, `"settings" does not use`},
		{"settings", "unsized", 0, "at least 1"},
		{"settings", ".rodata", 1, "global variables"},
		{"settings", ".bss", 2, "global variables"},
		{"settings", "outer", 2, "entry 2"},
		{"recursive", "filled", 8, "array of programs"},
	} {
		got, err := object(t, "settings", c.function).Configure(chain.Settings{MaxEntries: map[string]uint32{c.name: c.entries}})
		if got != nil {
			t.Errorf("%s of %d is taken", c.name, c.entries)
			continue
		}
		if e := reason(t, err, chain.MapInvalid, append(strings.Split(c.words, "|"), fmt.Sprintf("%q", c.name))...); e.Facts["map"] != c.name {
			t.Errorf("the facts are %v", e.Facts)
		}
	}
}

// TestConfigureUntyped has an object that was compiled without type information.
func TestConfigureUntyped(t *testing.T) {
	o := object(t, "settings", "settings")
	bare := o.copy()
	for name, m := range bare.spec.Maps {
		spec := *m
		spec.Key, spec.Value = nil, nil
		bare.spec.Maps[name] = &spec
	}
	_, err := bare.Configure(chain.Settings{Globals: map[string]string{"u8": "1"}})
	reason(t, err, chain.GlobalInvalid, `"u8"`, ".rodata", "-g")
}

// TestConfigureFloat is apart: kernels before 5.13 refuse objects with such types.
func TestConfigureFloat(t *testing.T) {
	err := encodeValue(make([]byte, 8), binary.LittleEndian, &btf.Const{Type: &btf.Float{Name: "double", Size: 8}}, "1.5")
	if err == nil || !strings.Contains(err.Error(), "floating-point") {
		t.Errorf("the error is %v", err)
	}
}

// TestConfigureBrokenTypes has types that no compiler makes: there is an error, and nothing worse.
func TestConfigureBrokenTypes(t *testing.T) {
	loop := &btf.Typedef{Name: "loop"}
	loop.Type = loop
	turtles := &btf.Array{Index: &btf.Int{Size: 4}, Nelems: 1}
	turtles.Type = turtles
	word := &btf.Int{Name: "word", Size: 4}
	deep := btf.Type(word)
	for range 20 {
		deep = &btf.Array{Index: word, Type: deep, Nelems: 1}
	}
	for name, c := range map[string]struct {
		v     btf.VarSecinfo
		value string
	}{
		"beyond the end":    {btf.VarSecinfo{Type: &btf.Var{Name: "x", Type: word}, Offset: 6, Size: 4}, "1"},
		"offset overflows":  {btf.VarSecinfo{Type: &btf.Var{Name: "x", Type: word}, Offset: 1<<32 - 2, Size: 4}, "1"},
		"another size":      {btf.VarSecinfo{Type: &btf.Var{Name: "x", Type: word}, Size: 8}, "1"},
		"no end":            {btf.VarSecinfo{Type: &btf.Var{Name: "x", Type: loop}, Size: 4}, "1"},
		"arrays for ever":   {btf.VarSecinfo{Type: &btf.Var{Name: "x", Type: turtles}, Size: 4}, "[1]"},
		"too deep":          {btf.VarSecinfo{Type: &btf.Var{Name: "x", Type: deep}, Size: 4}, strings.Repeat("[", 20) + "1" + strings.Repeat("]", 20)},
		"more than it says": {btf.VarSecinfo{Type: &btf.Var{Name: "x", Type: &btf.Array{Index: word, Type: &btf.Array{Index: word, Type: word}, Nelems: 9}}}, "[[1]]"},
		"a function":        {btf.VarSecinfo{Type: &btf.Var{Name: "x", Type: &btf.FuncProto{Return: word}}, Size: 4}, "1"},
		"nothing at all":    {btf.VarSecinfo{Type: &btf.Var{Name: "x"}, Size: 4}, "1"},
		"no variable":       {btf.VarSecinfo{Type: word, Size: 4}, "1"},
	} {
		o := &Object{function: "f", set: map[string]bool{}, spec: &ebpf.CollectionSpec{ByteOrder: binary.LittleEndian, Maps: map[string]*ebpf.MapSpec{
			".data": {Contents: []ebpf.MapKV{{Key: uint32(0), Value: make([]byte, 8)}}, Value: &btf.Datasec{Name: ".data", Size: 8, Vars: []btf.VarSecinfo{c.v}}},
		}}}
		got, err := o.Configure(chain.Settings{Globals: map[string]string{"x": c.value}})
		var e *chain.Error
		if got != nil || !errors.As(err, &e) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if text, known := detailsOf(".data", o.spec.Maps[".data"]); known && len(text) > maxDetails {
			t.Errorf("%s: the layout has %d bytes", name, len(text))
		}
	}
}

// FuzzConfigure says that no text does harm: it is a value of the variable's type, or there is an error with its
// facts; and what is not of the variable stays.
func FuzzConfigure(f *testing.F) {
	o := object(f, "settings", "settings")
	names := []string{"code", "strict", "s8", "u16", "s64", "level", "ports", "grid", "name", "lines", "mac", "pair", "huge"}
	for i, value := range []string{`1`, `true`, `"0x10"`, `"XDP_DROP"`, `[1,2]`, `[[1],[2]]`, `"text"`, `["a"]`, `{"a":[]}`, `-1e5`, `null`, strings.Repeat("[", 99)} {
		f.Add(uint8(i), value)
	}
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		name := names[int(which)%len(names)]
		got, err := o.Configure(chain.Settings{Globals: map[string]string{name: value}})
		if err != nil {
			var e *chain.Error
			if got != nil || !errors.As(err, &e) || e.Reason != chain.GlobalInvalid || e.Facts["global"] != name || e.Facts["type"] == "" {
				t.Fatalf("%s = %q: %v, %v", name, value, err, got)
			}
			return
		}
		section := globalsOf(o.spec.Maps)[name][0].section
		was, _ := initialData(o.spec.Maps[section])
		now, _ := initialData(got.spec.Maps[section])
		v := globalsOf(o.spec.Maps)[name][0]
		copy(now[v.offset:v.offset+v.size], was[v.offset:])
		if !slices.Equal(now, was) {
			t.Fatalf("%s = %q changed its neighbours", name, value)
		}
	})
}

// FuzzConfigureObject says that no object does harm.
func FuzzConfigureObject(f *testing.F) {
	for _, name := range []string{"code", "ports", "name", "lines", "nosuch"} {
		f.Add(objectBytes(f, "settings"), name, `[1]`, "unsized")
	}
	f.Fuzz(func(t *testing.T, data []byte, name, value, sized string) {
		o, err := ParseObject(data, "settings")
		if err != nil {
			return
		}
		for _, s := range []chain.Settings{{Globals: map[string]string{name: value}}, {MaxEntries: map[string]uint32{sized: 7}}} {
			got, err := o.Configure(s)
			var e *chain.Error
			if (got == nil) != errors.As(err, &e) {
				t.Fatalf("%v, %v", got, err)
			}
		}
		for _, m := range o.mapNames() {
			detailsOf(m, o.spec.Maps[m])
		}
	})
}
