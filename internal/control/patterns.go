// SPDX-License-Identifier: Apache-2.0

package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// split takes the patterns out of references of interfaces.
func split(refs []string) (plain, patterns []string) {
	for _, ref := range refs {
		if chain.IsPattern(ref) {
			patterns = append(patterns, ref)
		} else {
			plain = append(plain, ref)
		}
	}
	return plain, patterns
}

// spread adds to a program the patterns of a request, and to the goal its places on the interfaces that match them now.
func (c *Controller) spread(g *goal, p store.Program, globs []string, r AddRequest) (store.Program, error) {
	p.Patterns = slices.Clone(p.Patterns)
	for _, glob := range globs {
		pattern := store.Pattern{Glob: glob, Priority: r.Priority, Position: r.Position, ProceedOn: r.ProceedOn, Mode: r.Mode}
		p.Patterns = slices.DeleteFunc(p.Patterns, func(old store.Pattern) bool { return old.Glob == glob })
		p.Patterns = append(p.Patterns, pattern)
		refs, err := matching(glob)
		if err != nil {
			return p, err
		}
		for _, iface := range refs {
			now, err := c.base(iface, "")
			if err != nil {
				return p, err
			}
			if _, named := g.chains[iface]; named || now.Index(r.Name) >= 0 {
				continue
			}
			if g.chains[iface], err = c.place(iface, r); err != nil {
				return p, about(err, iface)
			}
		}
	}
	if len(p.Patterns) > store.MaxPatterns {
		return p, chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "interfaces"}, "program %q would have %d patterns, %d are taken", p.Name, len(p.Patterns), store.MaxPatterns)
	}
	return p, nil
}

// matching are the interfaces that match a pattern now, sorted.
func matching(glob string) ([]string, error) {
	netns, _, err := chain.ParseInterface(glob)
	if err != nil {
		return nil, err
	}
	nics, err := netif.List(netns)
	if err != nil {
		return nil, err
	}
	var refs []string
	for _, nic := range nics {
		if ref := reference(netns, nic.Name); chain.Match(glob, ref) {
			refs = append(refs, ref)
		}
	}
	slices.Sort(refs)
	return refs, nil
}

// withdraw takes patterns from a program, and the program from all interfaces that match them.
func (c *Controller) withdraw(g *goal, p store.Program, globs []string) (interfaces []string, err error) {
	p.Patterns = slices.Clone(p.Patterns)
	places, err := c.places(p.Name)
	if err != nil {
		return nil, err
	}
	for _, glob := range globs {
		i := slices.IndexFunc(p.Patterns, func(pattern store.Pattern) bool { return pattern.Glob == glob })
		if i < 0 {
			var has []string
			for _, pattern := range p.Patterns {
				has = append(has, pattern.Glob)
			}
			return nil, chain.Errorf(chain.PatternNotFound, chain.Facts{"program": p.Name, "pattern": glob},
				"program %q has no pattern %s; it has %s", p.Name, glob, cmp.Or(strings.Join(has, ", "), "none"))
		}
		p.Patterns = slices.Delete(p.Patterns, i, i+1)
		for _, iface := range places {
			if chain.Match(glob, iface) {
				interfaces = append(interfaces, iface)
			}
		}
	}
	g.programs[p.Name] = wanted{record: p}
	if len(p.Patterns) == 0 {
		g.drops = append(g.drops, p.Name)
	}
	return interfaces, nil
}

// exempt makes programs that lose a place stay away from there, where they have a pattern that would bring them back, and
// those that get one come back again.
func (c *Controller) exempt(g *goal, chains []store.Chain) error {
	if g.undoes != nil || g.natural {
		return nil
	}
	for iface, next := range g.chains {
		var now chain.Chain
		if i := slices.IndexFunc(chains, func(rec store.Chain) bool { return rec.Interface == iface }); i >= 0 {
			now = chains[i].Chain
		}
		for _, name := range differ(now, next) {
			w, put := g.programs[name]
			if !put {
				p, known, err := c.store.Program(name)
				if err != nil {
					return storeError(err)
				}
				if !known {
					continue
				}
				w.record = p
			}
			if w.record.Patterns, put = excepting(w.record.Patterns, iface, next.Index(name) < 0); put {
				g.programs[name] = w
			}
		}
	}
	return nil
}

// excepting are patterns that except an interface, or do not any more.
func excepting(patterns []store.Pattern, iface string, except bool) (out []store.Pattern, changed bool) {
	out = slices.Clone(patterns)
	for i, p := range out {
		at, has := slices.BinarySearch(p.Except, iface)
		if has == except || !chain.Match(p.Glob, iface) {
			continue
		}
		changed = true
		if except {
			out[i].Except = slices.Insert(slices.Clone(p.Except), at, iface)
		} else {
			out[i].Except = slices.Delete(slices.Clone(p.Except), at, at+1)
		}
	}
	return out, changed
}

// wants are the programs that have patterns for an interface, in the order in which they are placed.
func wants(programs []store.Program, iface string) (wanted []store.Program) {
	for _, p := range programs {
		if patternOf(p, iface) != nil {
			wanted = append(wanted, p)
		}
	}
	slices.SortStableFunc(wanted, func(a, b store.Program) int { return a.Added.Compare(b.Added) })
	return wanted
}

// patternOf is the pattern of a program for an interface; nil: none.
func patternOf(p store.Program, iface string) *store.Pattern {
	for i, pattern := range p.Patterns {
		if chain.Match(pattern.Glob, iface) && !slices.Contains(pattern.Except, iface) {
			return &p.Patterns[i]
		}
	}
	return nil
}

// tendPatterns brings programs to interfaces that match their patterns, and takes away the chains that interfaces had by
// patterns alone and that are gone with them.
func (t *tender) tendPatterns(ctx context.Context, now map[string]netif.Interface) {
	lacking := map[string]bool{}
	if slices.ContainsFunc(t.programs, func(p store.Program) bool { return len(p.Patterns) > 0 }) {
		for iface, nic := range now {
			members := t.chains[iface].Chain
			var ready []string // programs that nobody is just changing
			for _, p := range wants(t.programs, iface) {
				if members.Index(p.Name) >= 0 {
					continue
				}
				lacking[patternSubject(iface)] = true
				if t.Controller.programs.free(p.Name) {
					ready = append(ready, p.Name)
				}
			}
			if len(ready) > 0 && t.interfaces.free(iface) {
				t.start(ctx, patternSubject(iface), sight{xdp: nic.XDP.ID}, func() (bool, error) { return t.placeByPattern(ctx, iface, ready) })
			}
		}
	}
	t.forget(patternSubject(""), lacking)
	for iface, rec := range t.chains {
		if _, there := now[iface]; !there && !t.unseen[netnsOf(iface)] && rec.Ifindex == 0 && derived(t.programs, rec) {
			t.start(ctx, patternSubject(iface), sight{}, func() (bool, error) { return false, t.dropDerived(ctx, iface) })
		}
	}
}

// patternSubject is what problems with patterns on an interface are about.
func patternSubject(iface string) string { return "patterns for " + iface }

// placeByPattern puts programs on an interface that matches their patterns.
func (c *Controller) placeByPattern(ctx context.Context, iface string, ready []string) (placed bool, err error) {
	subject := patternSubject(iface)
	var skipped []error // of programs that cannot be where their patterns say: the others do not wait for them
	_, err = c.mutate(ctx, Options{Caller: self()}, func() (goal, error) {
		programs, err := c.store.Programs()
		if err != nil {
			return goal{}, storeError(err)
		}
		var names []string
		skipped = nil
		rec, known, err := c.store.Chain(iface)
		if err != nil {
			return goal{}, storeError(err)
		}
		next := rec.Chain
		for _, p := range wants(programs, iface) {
			if known && rec.Chain.Index(p.Name) >= 0 || !slices.Contains(ready, p.Name) {
				continue
			}
			if !known && len(names) == 0 {
				next = chain.New()
				next.Mode = cmp.Or(patternOf(p, iface).Mode, next.Mode)
			}
			with, err := insert(next, p, iface)
			if err != nil {
				skipped = append(skipped, about(fmt.Errorf("place %s: %w", p.Name, err), iface))
				continue
			}
			next = with
			names = append(names, p.Name)
		}
		g := newGoal("by pattern: add " + strings.Join(names, ", "))
		if len(names) > 0 {
			g.chains[iface] = next
		}
		return g, nil
	})
	if err == nil {
		err = errors.Join(skipped...)
	}
	switch {
	case err == nil, errors.Is(err, &chain.Error{Reason: chain.InterfaceNotFound}):
		c.setProblem(subject, "")
		return err == nil, nil
	case errors.Is(err, &chain.Error{Reason: chain.Stopping}), ctx.Err() != nil:
		return false, err
	}
	c.setProblem(subject, err.Error())
	c.log.Error("a program cannot be placed by its pattern now, and will be tried again", "interface", iface, "error", err)
	return false, err
}

// insert places a program in a chain as its pattern says.
func insert(next chain.Chain, p store.Program, iface string) (chain.Chain, error) {
	pattern := patternOf(p, iface)
	m := chain.Member{Program: p.Name, ProceedOn: chain.Of(chain.Pass)}
	if pattern.ProceedOn != nil {
		m.ProceedOn = *pattern.ProceedOn
	}
	return next.Insert(m, pattern.Priority, pattern.Position)
}

// derived tells whether a chain is no more than what patterns make, under its name or the one before.
func derived(programs []store.Program, rec store.Chain) bool {
	if rec.Former != "" {
		former := rec
		former.Interface, former.Former = rec.Former, ""
		if derived(programs, former) {
			return true
		}
	}
	wanted := wants(programs, rec.Interface)
	if len(wanted) == 0 {
		return false
	}
	next := chain.New()
	next.Mode = cmp.Or(patternOf(wanted[0], rec.Interface).Mode, next.Mode)
	for _, p := range wanted {
		if with, err := insert(next, p, rec.Interface); err == nil {
			next = with
		}
	}
	return len(next.Members) > 0 && next.Equal(rec.Chain)
}

// dropDerived takes a chain out of the intent that patterns make again when its interface comes back.
func (c *Controller) dropDerived(ctx context.Context, iface string) error {
	_, err := c.mutate(ctx, Options{Caller: self()}, func() (goal, error) {
		g := newGoal(iface + " is gone")
		g.natural = true
		rec, known, err := c.store.Chain(iface)
		if err != nil {
			return g, storeError(err)
		}
		programs, err := c.store.Programs()
		if err != nil {
			return g, storeError(err)
		}
		_, missing := netif.ByName(iface)
		if known && missing != nil && rec.Ifindex == 0 && derived(programs, rec) {
			rec.Chain.Members = nil
			g.chains[iface] = rec.Chain
		}
		return g, nil
	})
	if err == nil {
		c.setProblem(iface, "")
	}
	return err
}

// patternLines say for people in which patterns a program differs.
func patternLines(program string, before, after []store.Pattern) (lines []string) {
	differ := func(sign string, some, others []store.Pattern) {
		for _, p := range some {
			text := p.Glob
			if len(p.Except) > 0 {
				text += " except " + strings.Join(p.Except, ", ")
			}
			if !slices.ContainsFunc(others, func(q store.Pattern) bool { return q.Glob == p.Glob && slices.Equal(q.Except, p.Except) }) {
				lines = append(lines, clipTo(maxLine, fmt.Sprintf("%s program %s on %s", sign, program, text)))
			}
		}
	}
	differ("-", before, after)
	differ("+", after, before)
	return lines
}
