// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

const allKeys = `# everything that a file can have
programs:
  blocklist:
    object: sha256:5F0C1D7E9AA2b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3
    function: block_sources
    lifetime: persistent
    globals: {limit: 10, name: "x", ports: [80, 443], on: on, big: 18446744073709551615, low: -9223372036854775808}
    max_entries: {table: 4096}
    share_maps_from: other
    map_group: monitor
  "1e3": {}
chains:
  eth0:
    mode: auto
    final: drop
    members:
      - program: blocklist
        priority: -10
        proceed_on: [tx, pass, tx]
        enabled: false
      - ratelimit
      - {program: 08, proceed_on: none}
      - program: "~"
        proceed_on: []
  eth1: {members: []}
  blue:eth1: {members: []}
`

// request puts what a file says into the form of a request, as apply does when no object is a path.
func (f *chainFile) request() *xdpdv1.SetChainsRequest {
	req := &xdpdv1.SetChainsRequest{Chains: f.chains}
	for _, p := range f.programs {
		req.Programs = append(req.Programs, p.spec)
	}
	return req
}

func allKeysRequest() *xdpdv1.SetChainsRequest {
	return &xdpdv1.SetChainsRequest{
		Programs: []*xdpdv1.ProgramSpec{{
			Name: "blocklist", ObjectSha256: "5f0c1d7e9aa2" + strings.Repeat("b3", 26), Function: "block_sources",
			Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT,
			Settings: &xdpdv1.ProgramSettings{
				Globals: map[string]string{
					"limit": "10", "name": `"x"`, "ports": "[80,443]", "on": `"on"`,
					"big": "18446744073709551615", "low": "-9223372036854775808",
				},
				MaxEntries: map[string]uint32{"table": 4096}, ShareMapsFrom: "other", MapGroup: "monitor",
			},
		}, {Name: "1e3"}},
		Chains: []*xdpdv1.ChainSpec{
			{
				Interface: "eth0", Mode: xdpdv1.Mode_MODE_AUTO, FinalVerdict: drop,
				Members: []*xdpdv1.MemberSpec{
					{Program: "blocklist", Priority: ptr[int32](-10), ProceedOn: set(pass, tx), Enabled: ptr(false)},
					{Program: "ratelimit"},
					{Program: "08", ProceedOn: set()},
					{Program: "~", ProceedOn: set()},
				},
			},
			{Interface: "eth1"},
			{Interface: "blue:eth1"},
		},
	}
}

func TestParseChains(t *testing.T) {
	f, err := parseChains([]byte(allKeys))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.request(); !proto.Equal(got, allKeysRequest()) {
		t.Errorf("got %s", prototext.Format(got))
	}
}

// JSON is read by the same parser; its numbers and escapes must be what they are in JSON.
func TestParseChainsJSON(t *testing.T) {
	const text = `{"programs": {"a\u0062\/": {"globals": {"e": 1e3, "f": -0.5E+2, "s": "\ud83d\ude00\n\t\"", "n": "1", "b": true}}},
		"chains": {"eth0": {"members": ["x", {"program": "y", "priority": 5}]}}}`
	f, err := parseChains([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := &xdpdv1.SetChainsRequest{
		Programs: []*xdpdv1.ProgramSpec{{Name: "ab/", Settings: &xdpdv1.ProgramSettings{Globals: map[string]string{
			"e": "1e3", "f": "-0.5E+2", "s": `"` + "\U0001f600" + `\n\t\""`, "n": `"1"`, "b": "true",
		}}}},
		Chains: []*xdpdv1.ChainSpec{{Interface: "eth0", Members: []*xdpdv1.MemberSpec{
			{Program: "x"}, {Program: "y", Priority: ptr[int32](5)},
		}}},
	}
	if got := f.request(); !proto.Equal(got, want) {
		t.Errorf("got %s", prototext.Format(got))
	}
}

func TestGlobals(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0", "-0": "-0", "0x10": "16", "-0x10": "-16", "0o17": "15", "0b101": "5", "1.50": "1.50", "1e3": "1e3",
		"18446744073709551616": "18446744073709551616", "true": "true", "'true'": `"true"`, "'5'": `"5"`, `"a\tb"`: `"a\tb"`,
		"yes": `"yes"`, "1:30": `"1:30"`, "2026-01-01": `"2026-01-01"`, "[[1, a], []]": `[[1,"a"],[]]`, "a b": `"a b"`, "''": `""`,
		"<&>": `"<&>"`, "|\n        two\n        lines\n": `"two\nlines\n"`,
	} {
		f, err := parseChains([]byte("programs:\n  p:\n    globals:\n      g: " + text + "\nchains: {eth0: {members: []}}"))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := f.programs[0].spec.GetSettings().GetGlobals()["g"]; got != want {
			t.Errorf("%q became %s, want %s", text, got, want)
		}
	}
}

func TestParseChainsErrors(t *testing.T) {
	const chains = "chains: {eth0: {members: []}}\n"
	for _, c := range []struct{ text, says string }{
		{"", "1:1: there is nothing in it"},
		{"# only this", "1:1: there is nothing in it"},
		{"---\n...\n", "1:1: there is nothing in it"},
		{"~", "1:1: there is nothing in it"},
		{"\xff", "1:1: it is not text in UTF-8"},
		{"5", `1:1: the file: want a mapping, here is "5"`},
		{"[]", "1:1: the file: want a mapping, here is a list"},
		{"{}", "1:1: there are no chains"},
		{"programs: {}", "1:1: there are no chains"},
		{chains + "---\n" + chains, "3:1: a second document begins here"},
		{chains + "extra: 1", `2:1: the file has no key "extra"; its keys are chains, programs`},
		{chains + chains, `2:1: mapping key "chains" already defined`},
		{"chains:\n  eth0: {members: []}\n  'eth0': {members: []}", "3:3: mapping key"},
		{"chains: {eth0: {members: [}}", "1:"},
		{"\tchains: 1", "tab character"},
		{"chains:\n  eth0:\n", "2:9: chains.eth0: want a mapping, here is nothing"},
		{"chains:\n  eth0: {mode: auto}", "2:3: chains.eth0 has no members; to take the chain from the interface write members: []"},
		{"chains:\n  eth0:\n    members:\n", "3:14: chains.eth0.members: want a list, here is nothing"},
		{"chains: {eth0: {members: x}}", `1:26: chains.eth0.members: want a list, here is "x"`},
		{"chains: {eth0: {members: [], final: all}}", `chains.eth0.final: it is one of aborted, drop, pass, tx, redirect, not "all"`},
		{"chains: {eth0: {members: [], mode: Auto}}", `chains.eth0.mode: it is one of auto, native, generic, not "Auto"`},
		{"chains: {eth0: {members: [], mode: }}", "chains.eth0.mode: want text, here is nothing"},
		{"chains: {eth0: {members: [~]}}", "chains.eth0.members[0]: want text, here is nothing"},
		{"chains: {eth0: {members: [[a]]}}", "chains.eth0.members[0]: want text, here is a list"},
		{"chains: {eth0: {members: [a, {priority: 1}]}}", "1:31: chains.eth0.members[1] has no program"},
		{"chains: {eth0: {members: [{program: a, prio: 1}]}}", `chains.eth0.members[0] has no key "prio"`},
		{"chains: {eth0: {members: [{program: a, priority: 1.5}]}}", "1:50: chains.eth0.members[0].priority: want a whole number from -2147483648"},
		{"chains: {eth0: {members: [{program: a, priority: 2147483648}]}}", "want a whole number"},
		{"chains: {eth0: {members: [{program: a, priority: '1'}]}}", "want a whole number"},
		{"chains: {eth0: {members: [{program: a, priority: 010}]}}", "010 is not the same number to all readers of YAML"},
		{"chains: {eth0: {members: [{program: a, priority: 1_0}]}}", "1_0 is not the same number"},
		{"chains: {eth0: {members: [{program: a, enabled: on}]}}", `members[0].enabled: want true or false, here is "on"`},
		{"chains: {eth0: {members: [{program: a, enabled: 'true'}]}}", "want true or false"},
		{"chains: {eth0: {members: [{program: a, proceed_on: pass}]}}", `members[0].proceed_on: it is one of none, not "pass"`},
		{"chains: {eth0: {members: [{program: a, proceed_on: }]}}", "members[0].proceed_on: want a list, here is nothing"},
		{"chains: {eth0: {members: [{program: a, proceed_on: [none]}]}}", `it is one of aborted, drop`},
		{"chains:\n  'blue:eth*': {members: []}", "2:3: chains.blue:eth*: a chain is of one interface, and this is a pattern; xdpctl add takes patterns"},
		{"chains: {'': {members: []}}", "1:10: a key of chains: the text is empty"},
		{"chains: {~: {members: []}}", "1:10: a key of chains: want text, here is nothing"},
		{"chains: {eth0: &a {members: []}, eth1: *a}", "1:16: chains.eth0: want a mapping, here is an anchor, alias or merge key"},
		{"chains: {eth0: {<<: {members: []}}}", "a key of chains.eth0: want text, here is an anchor, alias or merge key"},
		{"chains: {eth0: !!map {members: []}}", "here is a tag, which is not supported"},
		{"chains: {? [a] : {members: []}}", "1:"},
		{chains + "programs: {p: }", "2:14: programs.p: want a mapping, here is nothing"},
		{chains + "programs: {p: {lifetime: ever}}", `programs.p.lifetime: it is one of daemon, persistent, lease, not "ever"`},
		{chains + "programs: {p: {object: ''}}", "programs.p.object: the text is empty"},
		{chains + "programs: {p: {object: sha256:12}}", "2:24: programs.p.object: behind sha256: come 64 hex digits; a file of that name is ./sha256:12"},
		{chains + "programs: {p: {globals: []}}", "programs.p.globals: want a mapping, here is a list"},
		{chains + "programs: {p: {globals: {g: ~}}}", "2:29: programs.p.globals.g: want a number, text, true, false or a list, here is nothing"},
		{chains + "programs: {p: {globals: {g: {a: 1}}}}", "programs.p.globals.g: want a number, text, true, false or a list, here is a mapping"},
		{chains + "programs: {p: {globals: {g: [1, ~]}}}", "programs.p.globals.g[1]: want a number"},
		{chains + "programs: {p: {globals: {g: .nan}}}", ".nan is no number that a program can have"},
		{chains + "programs: {p: {globals: {g: 017}}}", "017 is not the same number"},
		{chains + "programs: {p: {globals: {g: &x 1}}}", "here is an anchor"},
		{chains + "programs: {p: {max_entries: {m: 0}}}", "programs.p.max_entries.m: want a whole number from 1 to 4294967295"},
		{chains + "programs: {p: {max_entries: {m: 4294967296}}}", "want a whole number"},
		{chains + "programs: {p: {share_maps_from: [a]}}", "programs.p.share_maps_from: want text, here is a list"},
	} {
		if _, err := parseChains([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: got %v, want %q", c.text, err, c.says)
		}
	}
}

// nasty is strings that a careless writer or reader of YAML makes something else of.
func nasty() []string {
	return []string{
		"a", "on", "Off", "y", "null", "~", "true", "1e3", "08", "0x1F", "1_000", "12:30", "-", "- a", "a: b", "#a", "a #b", "'", `"`,
		"[a]", "{a}", "*a", "&a", "!a", "%a", "@a", "`a", "|", ">", "?", "<<", "=", ".inf", ".nan", "a\nb", "\n", " ", " a", "a ", "\t",
		"\x01", "\x7f", "é", "\U0001f600", "\u2028", "\ufeff", "\\", "...", "---", "2026-01-01", "a\r\nb", "+1", "-0", "eth0.100", "sha256:x",
		"blue:eth0", "/a: b/#c:eth0", "1:2:3",
	}
}

// What is printed of chains is read as the request that makes them, whatever their names and settings.
func TestDumpRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	name := func() string { return nasty()[rnd.IntN(len(nasty()))] }
	globals := []string{
		"0", "-0", "1e3", "1.50", "18446744073709551615", "-9223372036854775808", "123456789012345678901234567890", "true", "false",
		"[]", "[1,[true,[]],1e3]", `""`, `["1e3","on"]`,
	}
	for range 3000 {
		chains, programs, want := randomChains(rnd, name, globals)
		var out bytes.Buffer
		a := &app{stdio: stdio{out: &out}}
		if err := a.printDump(chains, programs); err != nil {
			t.Fatal(err)
		}
		f, err := parseChains(out.Bytes())
		if err != nil {
			t.Fatalf("%v in\n%s", err, &out)
		}
		if got := f.request(); !proto.Equal(got, want) {
			t.Fatalf("%s\nreads as\n%s\nwant\n%s", &out, prototext.Format(got), prototext.Format(want))
		}
	}
}

func randomChains(rnd *rand.Rand, name func() string, globals []string) ([]*xdpdv1.Chain, []*xdpdv1.Program, *xdpdv1.SetChainsRequest) {
	want := &xdpdv1.SetChainsRequest{}
	var chains []*xdpdv1.Chain
	used := map[string]bool{}
	for range 1 + rnd.IntN(3) {
		iface := name()
		for isPattern(iface) {
			iface = name()
		}
		if slices.ContainsFunc(chains, func(c *xdpdv1.Chain) bool { return c.GetInterface() == iface }) {
			continue
		}
		c := &xdpdv1.Chain{Interface: iface, Mode: xdpdv1.Mode(rnd.IntN(4)), FinalVerdict: xdpdv1.Verdict(rnd.IntN(6))}
		spec := &xdpdv1.ChainSpec{Interface: iface, Mode: c.Mode, FinalVerdict: c.FinalVerdict}
		for range rnd.IntN(4) {
			m := &xdpdv1.Member{Program: name(), Priority: rnd.Int32() - 1<<30, Enabled: rnd.IntN(2) == 0}
			for v := aborted; v <= redirect; v++ {
				if rnd.IntN(2) == 0 {
					m.ProceedOn = append(m.ProceedOn, v)
				}
			}
			used[m.Program] = true
			c.Members = append(c.Members, m)
			spec.Members = append(spec.Members, &xdpdv1.MemberSpec{
				Program: m.Program, Priority: &m.Priority, ProceedOn: set(m.ProceedOn...), Enabled: &m.Enabled,
			})
		}
		chains, want.Chains = append(chains, c), append(want.Chains, spec)
	}
	programs := []*xdpdv1.Program{{Name: "in no chain", ObjectSha256: "x"}}
	for p := range used {
		settings := &xdpdv1.ProgramSettings{}
		if rnd.IntN(3) > 0 {
			settings = &xdpdv1.ProgramSettings{
				Globals:       map[string]string{name(): jsonString(name()), name() + "x": globals[rnd.IntN(len(globals))]},
				MaxEntries:    map[string]uint32{name(): 1 + rnd.Uint32N(1<<31)},
				ShareMapsFrom: name(), MapGroup: name(),
			}
		}
		is := &xdpdv1.Program{
			Name: p, Function: name(), ObjectSha256: fmt.Sprintf("%064x", rnd.Uint64()), Lifetime: xdpdv1.Lifetime(rnd.IntN(4)), Settings: settings,
		}
		programs = append(programs, is)
		want.Programs = append(want.Programs, &xdpdv1.ProgramSpec{
			Name: p, Function: is.Function, ObjectSha256: is.ObjectSha256, Lifetime: is.Lifetime, Settings: settings,
		})
	}
	slices.SortFunc(want.Chains, func(a, b *xdpdv1.ChainSpec) int { return cmp.Compare(a.Interface, b.Interface) })
	slices.SortFunc(want.Programs, func(a, b *xdpdv1.ProgramSpec) int { return cmp.Compare(a.Name, b.Name) })
	return chains, programs, want
}

func FuzzParseChains(f *testing.F) {
	f.Add([]byte(allKeys))
	f.Add([]byte(`{"chains":{"eth0":{"members":["x",{"program":"y","priority":5}]}}}`))
	f.Add([]byte("programs:\n  p: {globals: {g: \"\\xff\\ud800\"}}\nchains: {eth0: {members: []}}"))
	for _, s := range nasty() {
		f.Add([]byte("programs: {p: {globals: {g: " + s + "}}}\nchains: {" + s + ": {members: [" + s + "]}}"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseChains(data)
		if err != nil {
			var line, column int
			if _, scan := fmt.Sscanf(err.Error(), "%d:%d: ", &line, &column); scan != nil {
				t.Fatalf("the error %q of %q has no line", err, data)
			}
			return
		}
		req := file.request()
		if _, err := proto.Marshal(req); err != nil {
			t.Fatalf("%q cannot be sent: %v", data, err)
		}
		for _, p := range req.GetPrograms() {
			for name, g := range p.GetSettings().GetGlobals() {
				if !json.Valid([]byte(g)) {
					t.Fatalf("%q gives global %s the value %q, which is no JSON", data, name, g)
				}
			}
		}
		for _, c := range req.GetChains() {
			if c.GetInterface() == "" || slices.ContainsFunc(c.GetMembers(), func(m *xdpdv1.MemberSpec) bool { return m.GetProgram() == "" }) {
				t.Fatalf("%q has a chain or member without a name", data)
			}
		}
	})
}
