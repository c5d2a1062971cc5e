// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// foresee is what a daemon does with a request.
func (m *model) foresee(request proto.Message) (*made, error) {
	if r, ok := request.(interface{ GetOptions() *xdpdv1.ChangeOptions }); ok && r.GetOptions().GetDryRun() && r.GetOptions().GetConfirmWithin() != nil {
		return nil, refusal(chain.InvalidArgument)
	}
	if r, ok := request.(interface{ GetId() uint64 }); ok && r.GetId() == 0 {
		return nil, refusal(chain.InvalidArgument)
	}
	switch r := request.(type) {
	case *xdpdv1.AddProgramRequest:
		return m.adds(r)
	case *xdpdv1.RemoveProgramRequest:
		return m.change(clip("remove "+r.GetName()), r.GetOptions(), func() (goal, error) { return m.removal(r) })
	case *xdpdv1.UpdateMembersRequest:
		what := "update " + r.GetUpdates()[0].GetProgram()
		if n := len(r.GetUpdates()); n > 1 {
			what = fmt.Sprintf("update %d members", n)
		}
		return m.change(clip(what), r.GetOptions(), func() (goal, error) { return m.updates(r.GetUpdates()) })
	case *xdpdv1.ReplaceProgramRequest:
		return m.change("replace "+r.GetName(), r.GetOptions(), func() (goal, error) { return m.replacement(r) })
	case *xdpdv1.SetChainsRequest:
		var names []string
		for _, c := range r.GetChains() {
			names = append(names, c.GetInterface())
		}
		slices.Sort(names)
		return m.change(clip("apply to "+strings.Join(names, ",")), r.GetOptions(), func() (goal, error) { return m.declared(r) })
	case *xdpdv1.RollbackRequest:
		return m.rollsBack(r)
	case *xdpdv1.ConfirmRequest:
		next, err := m.confirm(r.GetId())
		return &made{next: next}, err
	case *xdpdv1.CancelRequest:
		return m.undo(r.GetId(), "cancel of ")
	}
	panic(fmt.Sprintf("no change: %T", request))
}

// after is the model after a request; after one that is refused or only tried it is m.
func (m *model) after(request proto.Message) (*model, error) {
	out, err := m.foresee(request)
	if err != nil || out.dry {
		return m, err
	}
	return out.next, nil
}

// add is AddProgram.
func (m *model) add(r *xdpdv1.AddProgramRequest) (*model, error) { return m.after(r) }

func (m *model) adds(r *xdpdv1.AddProgramRequest) (*made, error) {
	object, err := m.source(r.GetObject(), r.GetObjectSha256(), "")
	if err != nil {
		return nil, err
	}
	p := program{object: object, persistent: r.GetLifetime() == xdpdv1.Lifetime_LIFETIME_PERSISTENT, settings: settingsOf(r.GetSettings())}
	if p, err = p.parsed(r.GetFunction()); err != nil {
		return nil, err
	}
	name := r.GetName()
	if name == "" {
		name = p.function
	}
	if err := chain.ValidName(name); err != nil {
		return nil, err
	}
	return m.change("add "+name, r.GetOptions(), func() (goal, error) {
		g := newGoal()
		old, known := m.programs[name]
		switch {
		case !known:
			g.programs[name] = wanted{program: p, loads: true}
		case old.object != p.object || old.function != p.function,
			r.GetLifetime() != xdpdv1.Lifetime_LIFETIME_UNSPECIFIED && old.persistent != p.persistent,
			!p.settings.Equal(chain.Settings{}) && !p.settings.Equal(old.settings):
			return g, refusal(chain.ProgramExists)
		}
		proceed := chain.Of(chain.Pass)
		if r.GetProceedOn() != nil {
			proceed = setOf(r.GetProceedOn())
		}
		for _, iface := range slices.Sorted(slices.Values(r.GetInterfaces())) {
			if iface == nowhere {
				return g, refusal(chain.InterfaceNotFound)
			}
			ch, err := m.base(iface, r.GetMode())
			if err != nil {
				return g, err
			}
			if g.chains[iface], err = ch.Insert(chain.Member{Program: name, ProceedOn: proceed}, r.Priority, positionOf(r.GetPosition())); err != nil {
				return g, err
			}
		}
		return g, nil
	})
}

// source is the sha256 of the object that a request means.
func (m *model) source(data []byte, sum, otherwise string) (string, error) {
	if len(data) > 0 {
		return sumOf(data), nil
	}
	if sum == "" {
		sum = otherwise
	}
	if !m.knows(sum) {
		return "", refusal(chain.ObjectNotFound)
	}
	return sum, nil
}

// base is the chain of an interface, or a new one.
func (m *model) base(iface string, mode xdpdv1.Mode) (chain.Chain, error) {
	asked := modeOf(mode)
	ch, known := m.chains[iface]
	if !known {
		ch = chain.New()
		if asked != "" {
			ch.Mode = asked
		}
		return ch, nil
	}
	// Interfaces of these tests can all do native mode.
	if asked != "" && asked != ch.Mode && (ch.Mode != chain.Auto || asked != chain.Native) {
		return ch, refusal(chain.ModeConflict)
	}
	return ch, nil
}

// removal is RemoveProgram.
func (m *model) removal(r *xdpdv1.RemoveProgramRequest) (goal, error) {
	g := newGoal()
	if _, known := m.programs[r.GetName()]; !known {
		return g, m.missing(r.GetName())
	}
	interfaces := r.GetInterfaces()
	if len(interfaces) == 0 {
		interfaces = m.places(r.GetName())
	}
	var errs []error // of which the daemon tells any
	for _, iface := range interfaces {
		ch, known := m.chains[iface]
		if !known {
			errs = append(errs, refusal(chain.ChainNotFound))
			continue
		}
		next, err := ch.Remove(r.GetName())
		errs = append(errs, err)
		g.chains[iface] = next
	}
	return g, errors.Join(errs...)
}

// updates is UpdateMembers: each update is of what those before it made.
func (m *model) updates(updates []*xdpdv1.MemberUpdate) (goal, error) {
	g := newGoal()
	for _, u := range updates {
		interfaces := []string{u.GetInterface()}
		if u.GetInterface() == "" {
			if _, known := m.programs[u.GetProgram()]; !known {
				return g, m.missing(u.GetProgram())
			}
			interfaces = m.places(u.GetProgram())
		}
		c := chain.Change{Program: u.GetProgram(), Priority: u.Priority, Position: positionOf(u.GetPosition()), Enabled: u.Enabled}
		if u.GetProceedOn() != nil {
			set := setOf(u.GetProceedOn())
			c.ProceedOn = &set
		}
		var errs []error // of which the daemon tells any
		for _, iface := range interfaces {
			now, known := m.chains[iface]
			if !known {
				return g, refusal(chain.ChainNotFound)
			}
			if made, before := g.chains[iface]; before {
				now = made
			}
			next, err := now.Update([]chain.Change{c})
			errs = append(errs, err)
			g.chains[iface] = next
		}
		if err := errors.Join(errs...); err != nil {
			return g, err
		}
	}
	return g, nil
}

// replacement is ReplaceProgram.
func (m *model) replacement(r *xdpdv1.ReplaceProgramRequest) (goal, error) {
	g := newGoal()
	old, known := m.programs[r.GetName()]
	if !known {
		return g, m.missing(r.GetName())
	}
	next := old
	if r.GetSettings() != nil {
		next.settings = settingsOf(r.GetSettings())
	}
	var err error
	if next.object, err = m.source(r.GetObject(), r.GetObjectSha256(), old.object); err != nil {
		return g, err
	}
	if next, err = next.parsed(r.GetFunction()); err != nil {
		return g, err
	}
	if r.GetFreshMaps() || !old.same(next) {
		g.programs[r.GetName()] = wanted{program: next, loads: true, fresh: r.GetFreshMaps()}
	}
	for _, iface := range m.places(r.GetName()) {
		g.chains[iface] = m.chains[iface]
	}
	return g, nil
}

// declared is SetChains.
func (m *model) declared(r *xdpdv1.SetChainsRequest) (goal, error) {
	g := newGoal()
	sent := map[string]bool{}
	for _, object := range r.GetObjects() {
		sent[sumOf(object)] = true
	}
	for _, spec := range r.GetPrograms() {
		if err := m.declaredProgram(g, spec, sent, r.GetFreshMaps()); err != nil {
			return g, err
		}
	}
	for _, spec := range r.GetChains() {
		if err := m.declaredChain(g, spec); err != nil {
			return g, err
		}
	}
	for _, spec := range r.GetPrograms() {
		placed := slices.ContainsFunc(m.places(spec.GetName()), func(iface string) bool { _, named := g.chains[iface]; return !named })
		for _, ch := range g.chains {
			placed = placed || ch.Index(spec.GetName()) >= 0
		}
		if !placed {
			return g, refusal(chain.InvalidArgument)
		}
	}
	return g, nil
}

func (m *model) declaredProgram(g goal, spec *xdpdv1.ProgramSpec, sent map[string]bool, fresh bool) error {
	old, exists := m.programs[spec.GetName()]
	next := old
	if spec.GetLifetime() != xdpdv1.Lifetime_LIFETIME_UNSPECIFIED {
		next.persistent = spec.GetLifetime() == xdpdv1.Lifetime_LIFETIME_PERSISTENT
	}
	if spec.GetSettings() != nil {
		next.settings = settingsOf(spec.GetSettings())
	}
	if spec.GetObjectSha256() != "" {
		next.object = spec.GetObjectSha256()
	}
	if next.object == "" {
		return refusal(chain.InvalidArgument)
	}
	if !sent[next.object] && !m.knows(next.object) {
		return refusal(chain.ObjectNotFound)
	}
	next, err := next.parsed(spec.GetFunction())
	if err != nil {
		return err
	}
	loads := fresh || !exists || !old.same(next)
	if loads || old.persistent != next.persistent {
		g.programs[spec.GetName()] = wanted{program: next, loads: loads, fresh: fresh}
	}
	return nil
}

func (m *model) declaredChain(g goal, spec *xdpdv1.ChainSpec) error {
	next, err := m.base(spec.GetInterface(), spec.GetMode())
	if err != nil {
		return err
	}
	next.Final = chain.Pass
	if v := spec.GetFinalVerdict(); v != xdpdv1.Verdict_VERDICT_UNSPECIFIED {
		next.Final = chain.Verdict(v - 1)
	}
	var drafts []chain.Draft
	for _, member := range spec.GetMembers() {
		d := chain.Draft{Member: chain.Member{Program: member.GetProgram(), ProceedOn: chain.Of(chain.Pass)}, Priority: member.Priority}
		d.Disabled = member.Enabled != nil && !member.GetEnabled()
		if member.GetProceedOn() != nil {
			d.ProceedOn = setOf(member.GetProceedOn())
		}
		drafts = append(drafts, d)
		_, described := g.programs[member.GetProgram()]
		if _, exists := m.programs[member.GetProgram()]; !exists && !described {
			return m.missing(member.GetProgram())
		}
	}
	if next.Members, err = chain.Arrange(drafts); err != nil {
		return err
	}
	g.chains[spec.GetInterface()] = next
	return next.Validate()
}

// rollsBack is Rollback.
func (m *model) rollsBack(r *xdpdv1.RollbackRequest) (*made, error) {
	e, refused := m.earlier(r.GetInterface(), r.GetRevision())
	out, err := m.change(fmt.Sprintf("rollback to %d", e.revision), r.GetOptions(), func() (goal, error) {
		if refused != nil {
			return goal{}, refused
		}
		return m.asThen(r.GetInterface(), e, r.GetEverywhere())
	})
	if err == nil {
		out.back = e.revision
	}
	return out, err
}

// earlier finds an entry in the history of an interface; 0: the newest one that is not as it is now.
func (m *model) earlier(iface string, revision uint64) (entry, error) {
	entries := m.history[iface]
	if len(entries) == 0 {
		return entry{}, refusal(chain.ChainNotFound)
	}
	i := slices.IndexFunc(entries, func(e entry) bool {
		return revision != 0 && e.revision == revision || revision == 0 && !m.isCurrent(iface, e)
	})
	if i < 0 {
		return entry{}, refusal(chain.RevisionNotFound)
	}
	return entries[i], nil
}

// isCurrent tells whether an interface is as an entry of its history says.
func (m *model) isCurrent(iface string, e entry) bool {
	ch, known := m.chains[iface]
	if !known {
		return len(e.chain.Members) == 0
	}
	for name, then := range e.programs {
		if now, exists := m.programs[name]; !exists || !now.same(then) {
			return false
		}
	}
	return ch.Equal(e.chain)
}

// asThen is the goal of having an earlier chain, and its programs as they were.
func (m *model) asThen(iface string, e entry, everywhere bool) (goal, error) {
	g := newGoal()
	g.chains[iface] = e.chain
	switch now, known := m.chains[iface]; {
	case known && len(e.chain.Members) == 0:
		g.chains[iface] = empty(now)
	case known && now.Mode != e.chain.Mode:
		return g, refusal(chain.ModeConflict)
	}
	for _, name := range slices.Sorted(maps.Keys(e.programs)) {
		then := e.programs[name]
		now, exists := m.programs[name]
		elsewhere := slices.DeleteFunc(m.places(name), func(place string) bool { return place == iface })
		if exists && now.same(then) {
			if now.persistent != then.persistent && (everywhere || len(elsewhere) == 0) {
				now.persistent = then.persistent
				g.programs[name] = wanted{program: now}
			}
			continue
		}
		if !everywhere && len(elsewhere) > 0 {
			return g, refusal(chain.ProgramShared)
		}
		g.programs[name] = wanted{program: then, loads: true, lenient: true}
	}
	return g, nil
}
