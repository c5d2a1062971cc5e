// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// draw makes requests at random, most of which can be granted.
type draw struct {
	*rand.Rand
	interfaces []string
	names      []string
}

func newDraw(seed, stream uint64, interfaces ...string) draw {
	return draw{rand.New(rand.NewPCG(seed, stream)), interfaces, []string{"a", "b", "c", "d", "e", "f", "g", "h"}}
}

// one tells whether something happens that does once in n times.
func (d draw) one(n int) bool { return d.IntN(n) == 0 }

func (d draw) pick(from []string) string { return from[d.IntN(len(from))] }

// iface is one of the interfaces, and seldom one that there is not.
func (d draw) iface() string {
	if d.one(60) {
		return nowhere
	}
	return d.pick(d.interfaces)
}

func (d draw) some(from []string) []string {
	picked := slices.Clone(from)
	d.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return picked[:1+d.IntN(len(picked))]
}

func (d draw) places() []string {
	places := d.some(d.interfaces)
	if d.one(60) {
		places = append(places, nowhere)
	}
	return places
}

// name is that of a program, most times of one that a model has.
func (d draw) name(m *model) string {
	if m == nil || len(m.programs) == 0 || d.one(8) {
		return d.pick(d.names)
	}
	return d.pick(slices.Sorted(maps.Keys(m.programs)))
}

// position is most times one that can be had on some interface.
func (d draw) position(m *model) *xdpdv1.Position {
	switch d.IntN(12) {
	case 0, 1:
		return first
	case 2, 3:
		return last
	case 4:
		return before(d.name(m))
	case 5:
		return after(d.name(m))
	}
	return nil
}

func (d draw) priority() *int32 {
	if d.IntN(3) > 0 {
		return nil
	}
	return ptr(int32(48 + d.IntN(5)))
}

func (d draw) proceedOn() *xdpdv1.ProceedOn {
	if d.one(2) {
		return nil
	}
	set := &xdpdv1.ProceedOn{}
	for v := xdpdv1.Verdict_VERDICT_ABORTED; v <= xdpdv1.Verdict_VERDICT_REDIRECT; v++ {
		if d.one(2) {
			set.Verdicts = append(set.Verdicts, v)
		}
	}
	return set
}

func (d draw) mode() xdpdv1.Mode {
	if d.one(12) {
		return xdpdv1.Mode(d.IntN(4))
	}
	return xdpdv1.Mode_MODE_UNSPECIFIED
}

func (d draw) lifetime() xdpdv1.Lifetime {
	if d.one(8) {
		return xdpdv1.Lifetime(d.IntN(3))
	}
	return xdpdv1.Lifetime_LIFETIME_UNSPECIFIED
}

// version is one of the three versions of a program, sometimes with settings, and seldom one that cannot be loaded.
func (d draw) version(name string) (object []byte, function string, settings *xdpdv1.ProgramSettings) {
	functions := []string{"pass", "drop", "tx", "aborted", "goon", "goon", "pass", "plain"}
	i := slices.Index(d.names, name)
	if !d.one(8) {
		settings = &xdpdv1.ProgramSettings{} // in place of those that it has
	}
	switch d.IntN(3) {
	case 0:
		object, function = verdicts, functions[i%8]
	case 1:
		object, function = verdicts, functions[(i+3)%8]
	case 2:
		object = settable
		settings = &xdpdv1.ProgramSettings{Globals: map[string]string{"verdict": []string{"0", "1", "2", "31"}[i%4]}}
	}
	if d.one(30) {
		function = d.pick([]string{"nosuch", "", "chosen", "pass"})
	}
	if d.one(8) {
		if settings == nil {
			settings = &xdpdv1.ProgramSettings{}
		}
		switch d.IntN(10) {
		case 0:
			settings.Globals = map[string]string{d.pick([]string{"verdict", "nosuch"}): d.pick([]string{"2", `"0x1f"`, `"x"`})}
		case 1:
			settings.MaxEntries = map[string]uint32{"nosuch": 2}
		case 2, 3, 4:
			settings.MaxEntries = map[string]uint32{"runs": uint32(1 + d.IntN(2))}
		default:
			settings.ShareMapsFrom = d.pick(d.names)
		}
	}
	return object, function, settings
}

// options are those of a change.
func (d draw) options() *xdpdv1.ChangeOptions {
	o := &xdpdv1.ChangeOptions{}
	if d.one(10) {
		o.DryRun = true
	}
	if d.one(14) {
		o.ConfirmWithin = durationpb.New(time.Hour)
	}
	if d.one(6) {
		o.Comment = d.pick([]string{"why not", "überall", "ticket 17"})
	}
	return o
}

// change is a request for a change. What exists in m, which can be nil, is asked for more often.
func (d draw) change(m *model) proto.Message {
	if m != nil && len(m.pendings) > 0 && d.one(5) {
		if d.one(2) {
			return &xdpdv1.ConfirmRequest{}
		}
		return &xdpdv1.CancelRequest{}
	}
	switch n := d.IntN(100); {
	case n < 26:
		return d.addition(m)
	case n < 38:
		r := &xdpdv1.RemoveProgramRequest{Name: d.name(m), Options: d.options()}
		if places := m.existingPlaces(r.GetName()); len(places) > 0 && !d.one(4) {
			r.Interfaces = d.some(places)
		} else if d.one(2) {
			r.Interfaces = d.places()
		}
		return r
	case n < 56:
		return d.update(m)
	case n < 70:
		name := d.name(m)
		r := &xdpdv1.ReplaceProgramRequest{Name: name, Options: d.options(), FreshMaps: d.one(8)}
		r.Object, r.Function, r.Settings = d.version(name)
		if d.one(4) {
			r.Object, r.ObjectSha256 = nil, d.pick([]string{verdictsSum, settableSum, ""})
		}
		return r
	case n < 86:
		return d.declaration(m)
	case n < 98:
		return &xdpdv1.RollbackRequest{Interface: d.iface(), Everywhere: d.one(2), Options: d.options()}
	case n < 99:
		return &xdpdv1.ConfirmRequest{Id: 1000000}
	}
	return &xdpdv1.CancelRequest{Id: 1000000}
}

func (d draw) addition(m *model) proto.Message {
	name := d.pick(d.names)
	r := &xdpdv1.AddProgramRequest{
		Name: name, Interfaces: d.places(), Priority: d.priority(), Position: d.position(m), ProceedOn: d.proceedOn(), Mode: d.mode(),
		Lifetime: d.lifetime(), Options: d.options(),
	}
	r.Object, r.Function, r.Settings = d.version(name)
	if m == nil {
		// A name always has the same function, so that it can be placed on further interfaces.
		r.Object, r.Function, r.Settings = verdicts, []string{"pass", "drop", "tx", "aborted", "goon"}[slices.Index(d.names, name)%5], nil
	} else if p, exists := m.programs[name]; exists && !d.one(8) {
		r.Object, r.ObjectSha256, r.Function, r.Settings = nil, p.object, p.function, nil
		r.Interfaces = slices.DeleteFunc(r.Interfaces, func(iface string) bool { return m.chains[iface].Index(name) >= 0 && !d.one(8) })
		if len(r.Interfaces) == 0 {
			r.Interfaces = d.some(d.interfaces)
		}
	}
	if d.one(80) {
		r.Name = "-"
	}
	return r
}

func (d draw) update(m *model) proto.Message {
	r := &xdpdv1.UpdateMembersRequest{Options: d.options()}
	for range 1 + d.IntN(3) {
		u := &xdpdv1.MemberUpdate{Program: d.name(m), Priority: d.priority(), Position: d.position(m), ProceedOn: d.proceedOn()}
		if places := m.existingPlaces(u.GetProgram()); len(places) > 0 && !d.one(8) {
			u.Interface = d.pick(append(places, ""))
		} else if d.one(2) {
			u.Interface = d.iface()
		}
		if d.one(3) {
			u.Enabled = ptr(d.one(2))
		}
		r.Updates = append(r.Updates, u)
	}
	return r
}

// declaration is SetChains of any number of interfaces: sometimes what is so already, else something that is like it or
// all new.
func (d draw) declaration(m *model) proto.Message {
	r := &xdpdv1.SetChainsRequest{Options: d.options(), FreshMaps: d.one(20)}
	described := map[string]bool{}
	if d.one(12) {
		r.Options = &xdpdv1.ChangeOptions{}
		for _, iface := range d.interfaces {
			r.Chains = append(r.Chains, specOfChain(iface, m.existing()[iface]))
		}
		r.FreshMaps = false
		return r
	}
	for _, iface := range d.places() {
		spec := &xdpdv1.ChainSpec{Interface: iface, Mode: d.mode()}
		if d.one(4) {
			spec.FinalVerdict = xdpdv1.Verdict(d.IntN(6))
		}
		if !d.one(6) {
			spec.Members = d.members(described)
		}
		r.Chains = append(r.Chains, spec)
	}
	for _, name := range d.names {
		_, exists := m.existingPrograms()[name]
		if !described[name] && !d.one(60) || exists && !d.one(4) || !exists && d.one(40) {
			continue
		}
		d.describe(r, name)
	}
	return r
}

// members are those of a chain; what they are is noted.
func (d draw) members(described map[string]bool) (members []*xdpdv1.MemberSpec) {
	priority := int32(40)
	names := d.some(d.names)
	for _, name := range names[:min(len(names), 5)] {
		member := &xdpdv1.MemberSpec{Program: name, ProceedOn: d.proceedOn()}
		if d.one(3) {
			priority += int32(d.IntN(6))
			member.Priority = ptr(priority)
			if d.one(12) {
				member.Priority = ptr(int32(d.IntN(60)))
			}
		}
		if d.one(4) {
			member.Enabled = ptr(d.one(2))
		}
		described[name] = true
		members = append(members, member)
	}
	return members
}

// describe adds a program to a request, most times with its object.
func (d draw) describe(r *xdpdv1.SetChainsRequest, name string) {
	object, function, settings := d.version(name)
	spec := &xdpdv1.ProgramSpec{Name: name, ObjectSha256: sumOf(object), Function: function, Settings: settings, Lifetime: d.lifetime()}
	r.Programs = append(r.Programs, spec)
	if d.one(40) {
		spec.ObjectSha256 = ""
	}
	if sent := slices.ContainsFunc(r.GetObjects(), func(o []byte) bool { return sumOf(o) == spec.GetObjectSha256() }); spec.GetObjectSha256() != "" && !sent && !d.one(4) {
		r.Objects = append(r.Objects, object)
	}
}

// existing are the chains of a model that may be nil.
func (m *model) existing() map[string]chain.Chain {
	if m == nil {
		return nil
	}
	return m.chains
}

func (m *model) existingPrograms() map[string]program {
	if m == nil {
		return nil
	}
	return m.programs
}

func (m *model) existingPlaces(name string) []string {
	if m == nil {
		return nil
	}
	return m.places(name)
}

// specOfChain is what a chain is.
func specOfChain(iface string, ch chain.Chain) *xdpdv1.ChainSpec {
	spec := &xdpdv1.ChainSpec{Interface: iface}
	if len(ch.Members) > 0 {
		spec.FinalVerdict = xdpdv1.Verdict(ch.Final + 1)
	}
	for _, m := range ch.Members {
		member := &xdpdv1.MemberSpec{Program: m.Program, Priority: ptr(m.Priority), Enabled: ptr(!m.Disabled), ProceedOn: &xdpdv1.ProceedOn{}}
		for v := chain.Aborted; v <= chain.Redirect; v++ {
			if m.ProceedOn.Has(v) {
				member.ProceedOn.Verdicts = append(member.ProceedOn.Verdicts, xdpdv1.Verdict(v+1))
			}
		}
		spec.Members = append(spec.Members, member)
	}
	return spec
}
