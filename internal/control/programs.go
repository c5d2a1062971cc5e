// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// AddProgram loads a program and places it on interfaces, all or nothing. A program of that name that has the
// same object and function is placed on further interfaces.
func (c *Controller) AddProgram(ctx context.Context, r AddRequest) (Program, Outcome, error) {
	src, err := c.source(r.Object)
	if err != nil {
		return Program{}, Outcome{}, err
	}
	o, err := configured(src.data, r.Function, r.Settings)
	if err != nil {
		return Program{}, Outcome{}, err
	}
	if r.Name == "" {
		r.Name = o.Function()
	}
	if err := checkAdd(&r); err != nil {
		return Program{}, Outcome{}, err
	}
	plain, globs := split(r.Interfaces)
	res, err := c.mutate(ctx, r.Options, func() (goal, error) {
		g := newGoal("add " + r.Name)
		g.shows = r.Name
		g.takeover = r.Takeover
		p, isNew, err := c.newProgram(r, src, o)
		if err != nil {
			return g, err
		}
		for _, iface := range plain {
			if g.chains[iface], err = c.place(iface, r); err != nil {
				return g, about(err, iface)
			}
		}
		if len(globs) > 0 {
			if p, err = c.spread(&g, p, globs, r); err != nil {
				return g, err
			}
			g.programs[p.Name] = wanted{record: p}
		}
		if isNew {
			g.programs[p.Name] = wanted{record: p, object: o, data: src.data}
		}
		return g, nil
	})
	if err != nil {
		return Program{}, Outcome{}, err
	}
	return res.program, res.Outcome, nil
}

// checkAdd fills in defaults and refuses what needs no look at the state.
func checkAdd(r *AddRequest) error {
	if err := chain.ValidName(r.Name); err != nil {
		return err
	}
	if len(r.Interfaces) == 0 {
		return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "interfaces"}, "program %q is placed on no interface: name at least one", r.Name)
	}
	slices.Sort(r.Interfaces)
	r.Interfaces = slices.Compact(r.Interfaces)
	if err := checkLifetime(r.Lifetime); err != nil {
		return err
	}
	switch {
	case r.Lifetime == Leased && r.Lease == "":
		return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "lease"},
			"program %q is to have lifetime lease, and there is no token of a lease: get one from Hold, or run the client with xdpctl hold", r.Name)
	case r.Lifetime != Leased && r.Lease != "":
		return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "lease"}, "a lease goes with lifetime lease only, and program %q has another", r.Name)
	}
	if r.ProceedOn == nil {
		pass := chain.Of(chain.Pass)
		r.ProceedOn = &pass
	}
	return nil
}

func checkLifetime(l Lifetime) error {
	switch l {
	case Daemon, Persistent, Leased, "":
		return nil
	}
	return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "lifetime"}, "unknown lifetime %q: it is daemon, persistent or lease", l)
}

// newProgram is the program that a request describes, or the one that the store has.
func (c *Controller) newProgram(r AddRequest, src source, o *dispatcher.Object) (p store.Program, isNew bool, err error) {
	p, known, err := c.store.Program(r.Name)
	if err != nil {
		return p, false, storeError(err)
	}
	var lease store.Lease
	if r.Lifetime == Leased {
		if lease, err = c.leaseOf(r.Lease); err != nil {
			return p, false, err
		}
	}
	if known {
		facts := chain.Facts{"program": r.Name}
		if p.Object != src.sha || p.Function != o.Function() {
			return p, false, chain.Errorf(chain.ProgramExists, facts,
				"there is a program %q already, function %s of object %.12s (choose another name, remove it first, or replace it)", r.Name, p.Function, p.Object)
		}
		if r.Lifetime != "" && string(r.Lifetime) != p.Lifetime {
			return p, false, chain.Errorf(chain.ProgramExists, facts, "program %q exists with lifetime %s, not %s", r.Name, p.Lifetime, r.Lifetime)
		}
		if r.Lifetime == Leased && p.Lease != lease.ID {
			return p, false, chain.Errorf(chain.ProgramExists, facts, "program %q exists, and is of another lease, number %d (choose another name)", r.Name, p.Lease)
		}
		if !r.Settings.Equal(chain.Settings{}) && !r.Settings.Equal(p.Settings) {
			return p, false, chain.Errorf(chain.ProgramExists, facts, "program %q exists with other settings (replace it to change them in all its places)", r.Name)
		}
		return p, false, nil
	}
	if r.Lifetime == "" {
		r.Lifetime = Daemon
	}
	return store.Program{
		Name: r.Name, Function: o.Function(), Object: src.sha, Size: uint64(len(src.data)),
		Lifetime: string(r.Lifetime), Added: time.Now().UTC(), OwnerUID: r.Options.Caller.UID, Settings: r.Settings,
		Lease: lease.ID,
	}, true, nil
}

// place computes an interface's chain with one more member.
func (c *Controller) place(iface string, r AddRequest) (chain.Chain, error) {
	if _, err := netif.ByName(iface); err != nil {
		return chain.Chain{}, err
	}
	next, err := c.base(iface, r.Mode)
	if err != nil {
		return next, err
	}
	return next.Insert(chain.Member{Program: r.Name, ProceedOn: *r.ProceedOn}, r.Priority, r.Position)
}

// base is an interface's chain, or a new one of that mode.
func (c *Controller) base(iface string, mode chain.Mode) (chain.Chain, error) {
	rec, known, err := c.store.Chain(iface)
	if err != nil {
		return chain.Chain{}, storeError(err)
	}
	if !known {
		next := chain.New()
		if mode != "" {
			next.Mode = mode
		}
		return next, nil
	}
	if mode != "" && mode != rec.Chain.Mode && mode != rec.Actual {
		return rec.Chain, chain.Errorf(chain.ModeConflict, chain.Facts{"mode": string(rec.Chain.Mode), "interface": iface},
			"the chain of %s has mode %s (running in %s), not %s: a chain keeps the mode of its first member", iface, rec.Chain.Mode, rec.Actual, mode)
	}
	return rec.Chain, nil
}

// ReplaceProgram puts a new version under the name of a program, in all its places.
func (c *Controller) ReplaceProgram(ctx context.Context, r ReplaceRequest) (Program, Outcome, error) {
	if err := chain.ValidName(r.Name); err != nil {
		return Program{}, Outcome{}, err
	}
	res, err := c.mutate(ctx, r.Options, func() (goal, error) {
		g := newGoal("replace " + r.Name)
		g.shows = r.Name
		old, err := c.existing(r.Name)
		if err != nil {
			return g, err
		}
		object := r.Object
		if object.Data == nil && object.SHA256 == "" {
			object.SHA256 = old.Object
		}
		src, err := c.source(object)
		if err != nil {
			return g, err
		}
		next := old
		if r.Settings != nil {
			next.Settings = *r.Settings
		}
		w, err := newVersion(next, src, r.Function)
		if err != nil {
			return g, err
		}
		w.fresh = r.FreshMaps
		if r.FreshMaps || !sameVersion(old, w.record) {
			g.programs[r.Name] = w
		}
		g.chains, err = c.chainsWith(r.Name)
		return g, err
	})
	if err != nil {
		return Program{}, Outcome{}, err
	}
	return res.program, res.Outcome, nil
}

// newVersion is a program with another object. A function that is not named is the one that it has, or if the
// object has no such, its only XDP program.
func newVersion(next store.Program, src source, function string) (wanted, error) {
	named := function != ""
	if !named {
		function = next.Function
	}
	o, err := configured(src.data, function, next.Settings)
	if !named && errors.Is(err, &chain.Error{Reason: chain.FunctionNotFound}) {
		o, err = configured(src.data, "", next.Settings)
	}
	if err != nil {
		return wanted{}, err
	}
	next.ID, next.Function, next.Object, next.Size = 0, o.Function(), src.sha, uint64(len(src.data))
	return wanted{record: next, object: o, data: src.data}, nil
}

// sameVersion tells whether two records load the same.
func sameVersion(a, b store.Program) bool {
	return a.Object == b.Object && a.Function == b.Function && a.Settings.Equal(b.Settings)
}

// RemoveProgram takes a program off the interfaces named, or all. With its last place the program goes.
func (c *Controller) RemoveProgram(ctx context.Context, r RemoveRequest) (unloaded bool, out Outcome, err error) {
	res, err := c.mutate(ctx, r.Options, func() (goal, error) {
		g := newGoal("remove " + r.Name)
		p, err := c.existing(r.Name)
		if err != nil {
			return g, err
		}
		interfaces, globs := split(r.Interfaces)
		if len(r.Interfaces) == 0 {
			for _, pattern := range p.Patterns {
				globs = append(globs, pattern.Glob)
			}
		}
		if len(globs) > 0 {
			matching, err := c.withdraw(&g, p, globs)
			if err != nil {
				return g, err
			}
			if len(r.Interfaces) > 0 {
				interfaces = append(interfaces, matching...)
				slices.Sort(interfaces)
				interfaces = slices.Compact(interfaces)
				if len(interfaces) == 0 {
					return g, nil
				}
			}
		}
		return g, c.onEach(&g, r.Name, interfaces, func(now chain.Chain) (chain.Chain, error) { return now.Remove(r.Name) })
	})
	return slices.Contains(res.removed, r.Name), res.Outcome, err
}

// UpdateMembers changes members in one swap for each interface.
func (c *Controller) UpdateMembers(ctx context.Context, r UpdateRequest) (Outcome, error) {
	if len(r.Updates) == 0 {
		return Outcome{}, chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "updates"}, "there is no update in the request")
	}
	what := "update " + r.Updates[0].Program
	if n := len(r.Updates); n > 1 {
		what = fmt.Sprintf("update %d members", n)
	}
	res, err := c.mutate(ctx, r.Options, func() (goal, error) {
		g := newGoal(what)
		for _, u := range r.Updates {
			if err := c.update(&g, u); err != nil {
				return g, err
			}
		}
		return g, nil
	})
	return res.Outcome, err
}

// update makes one update, on all interfaces that it means, to what those before it made.
func (c *Controller) update(g *goal, u Update) error {
	var on []string
	if u.Interface != "" {
		on = []string{u.Interface}
	} else if _, err := c.existing(u.Program); err != nil {
		return err
	}
	return c.onEach(g, u.Program, on, func(now chain.Chain) (chain.Chain, error) {
		return now.Update([]chain.Change{{
			Program: u.Program, Priority: u.Priority, Position: u.Position, ProceedOn: u.ProceedOn, Enabled: u.Enabled,
		}})
	})
}

// onEach makes in a goal a change to the chains of interfaces, which must have one; without interfaces, to all that have
// the program.
func (c *Controller) onEach(g *goal, program string, interfaces []string, change func(chain.Chain) (chain.Chain, error)) error {
	with, err := c.chainsWith(program)
	if err != nil {
		return err
	}
	if len(interfaces) == 0 {
		interfaces = slices.Sorted(maps.Keys(with))
	}
	for _, iface := range interfaces {
		now, made := g.chains[iface]
		if !made {
			now, made = with[iface]
		}
		if !made {
			rec, err := c.chainOf(iface)
			if err != nil {
				return err
			}
			now = rec.Chain
		}
		if g.chains[iface], err = change(now); err != nil {
			return about(err, iface)
		}
	}
	return nil
}

// chainsWith are the chains that have a program, by interface.
func (c *Controller) chainsWith(program string) (map[string]chain.Chain, error) {
	all, err := c.chains()
	if err != nil {
		return nil, err
	}
	chains := map[string]chain.Chain{}
	for _, rec := range all {
		if rec.Chain.Index(program) >= 0 {
			chains[rec.Interface] = rec.Chain
		}
	}
	return chains, nil
}

// lock takes the locks of programs, then those of interfaces.
func (c *Controller) lock(ctx context.Context, programs, interfaces []string) (func(), error) {
	unlockPrograms, err := c.programs.acquire(ctx, programs...)
	if err != nil {
		return nil, fmt.Errorf("wait for another change of the program: %w", err)
	}
	unlockInterfaces, err := c.interfaces.acquire(ctx, interfaces...)
	if err != nil {
		unlockPrograms()
		return nil, fmt.Errorf("wait for another change of the interface: %w", err)
	}
	return func() { unlockInterfaces(); unlockPrograms() }, nil
}

// places are the interfaces whose chains have a program, sorted.
func (c *Controller) places(name string) ([]string, error) {
	chains, err := c.chainsWith(name)
	return slices.Sorted(maps.Keys(chains)), err
}

func (c *Controller) chainOf(iface string) (store.Chain, error) {
	rec, ok, err := c.store.Chain(iface)
	if err != nil {
		return rec, storeError(err)
	}
	if !ok {
		return rec, chain.Errorf(chain.ChainNotFound, chain.Facts{"interface": iface}, "interface %q has no chain (xdpctl chain lists them)", iface)
	}
	return rec, nil
}

// existing returns a program that a change is about. One that is gone until a change is confirmed is not unknown: it may
// be back.
func (c *Controller) existing(name string) (store.Program, error) {
	program, err := c.program(name)
	if !errors.Is(err, &chain.Error{Reason: chain.ProgramNotFound}) {
		return program, err
	}
	pending, readErr := c.store.Pending()
	if readErr != nil {
		return program, storeError(readErr)
	}
	for _, p := range pending {
		if _, programs := claims(p); slices.Contains(programs, name) {
			return program, c.claimed(p, "program", name)
		}
	}
	return program, err
}
