// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// AddProgram loads a program and places it on interfaces, all or nothing. A program of that name that has the
// same object and function is placed on further interfaces. It returns the program and the chains it is on.
func (c *Controller) AddProgram(ctx context.Context, r AddRequest) (Program, []Chain, error) {
	done, err := c.begin()
	if err != nil {
		return Program{}, nil, err
	}
	defer done()
	o, err := dispatcher.ParseObject(r.Object, r.Function)
	if err != nil {
		return Program{}, nil, err
	}
	if r.Name == "" {
		r.Name = o.Function()
	}
	if err := checkAdd(&r); err != nil {
		return Program{}, nil, err
	}
	unlock, err := c.lock(ctx, []string{r.Name}, r.Interfaces)
	if err != nil {
		return Program{}, nil, err
	}
	defer unlock()

	ch := change{next: map[string]chain.Chain{}}
	p, isNew, err := c.newProgram(r, o)
	if err != nil {
		return Program{}, nil, err
	}
	if isNew {
		ch.put = []store.Program{p}
		ch.objects = map[string][]byte{p.Object: r.Object}
	}
	for _, iface := range r.Interfaces {
		if ch.next[iface], err = c.place(iface, r); err != nil {
			return Program{}, nil, about(err, iface)
		}
	}
	if isNew {
		if err := c.plane.Load(p.ID, p.Name, o); err != nil {
			return Program{}, nil, err
		}
		c.remember(p.ID, o)
	}
	if err := c.apply(ctx, ch); err != nil {
		if isNew {
			c.remember(p.ID, nil)
			err = errors.Join(err, c.plane.Unload(p.ID))
		}
		return Program{}, nil, err
	}
	c.log.Info("program added", "program", p.Name, "interfaces", r.Interfaces, "function", p.Function, "object", p.Object)
	return c.answer(p, r.Interfaces)
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
	switch r.Lifetime {
	case Daemon, Persistent, "":
	default:
		return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "lifetime"}, "unknown lifetime %q: it is daemon or persistent", r.Lifetime)
	}
	if r.ProceedOn == nil {
		pass := chain.Of(chain.Pass)
		r.ProceedOn = &pass
	}
	return nil
}

// newProgram is the program that a request describes, or the one that the store has.
func (c *Controller) newProgram(r AddRequest, o *dispatcher.Object) (p store.Program, isNew bool, err error) {
	sum := sha256.Sum256(r.Object)
	sha := hex.EncodeToString(sum[:])
	p, known, err := c.store.Program(r.Name)
	if err != nil {
		return p, false, storeError(err)
	}
	if known {
		facts := chain.Facts{"program": r.Name}
		if p.Object != sha || p.Function != o.Function() {
			return p, false, chain.Errorf(chain.ProgramExists, facts,
				"there is a program %q already, function %s of object %.12s (choose another name, or remove it first)", r.Name, p.Function, p.Object)
		}
		if r.Lifetime != "" && string(r.Lifetime) != p.Lifetime {
			return p, false, chain.Errorf(chain.ProgramExists, facts, "program %q exists with lifetime %s, not %s", r.Name, p.Lifetime, r.Lifetime)
		}
		return p, false, nil
	}
	if r.Lifetime == "" {
		r.Lifetime = Daemon
	}
	return store.Program{
		ID: c.store.NextProgramID(), Name: r.Name, Function: o.Function(), Object: sha, Size: uint64(len(r.Object)),
		Lifetime: string(r.Lifetime), Added: time.Now().UTC(), OwnerUID: r.OwnerUID,
	}, true, nil
}

// place computes an interface's chain with one more member.
func (c *Controller) place(iface string, r AddRequest) (chain.Chain, error) {
	if _, err := netif.ByName(iface); err != nil {
		return chain.Chain{}, err
	}
	rec, known, err := c.store.Chain(iface)
	if err != nil {
		return chain.Chain{}, storeError(err)
	}
	next := rec.Chain
	if !known {
		next = chain.New()
		if r.Mode != "" {
			next.Mode = r.Mode
		}
	} else if r.Mode != "" && r.Mode != next.Mode && r.Mode != rec.Actual {
		return next, chain.Errorf(chain.ModeConflict, chain.Facts{"mode": string(next.Mode)},
			"the chain of %s has mode %s (running in %s), not %s: a chain keeps the mode of its first member", iface, next.Mode, rec.Actual, r.Mode)
	}
	return next.Insert(chain.Member{Program: r.Name, ProceedOn: *r.ProceedOn}, r.Priority, r.Position)
}

// RemoveProgram takes a program off the interfaces named, or all. With its last place the program goes.
func (c *Controller) RemoveProgram(ctx context.Context, name string, interfaces []string) ([]Chain, bool, error) {
	done, err := c.begin()
	if err != nil {
		return nil, false, err
	}
	defer done()
	unlock, err := c.lock(ctx, []string{name}, nil)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	p, err := c.program(name)
	if err != nil {
		return nil, false, err
	}
	places, err := c.places(name)
	if err != nil {
		return nil, false, err
	}
	if len(interfaces) == 0 {
		interfaces = places
	}
	unlockInterfaces, err := c.lock(ctx, nil, interfaces)
	if err != nil {
		return nil, false, err
	}
	defer unlockInterfaces()

	ch := change{next: map[string]chain.Chain{}}
	for _, iface := range interfaces {
		rec, err := c.chainOf(iface)
		if err != nil {
			return nil, false, err
		}
		if ch.next[iface], err = rec.Chain.Remove(name); err != nil {
			return nil, false, about(err, iface)
		}
	}
	unloaded := len(ch.next) == len(places)
	if unloaded {
		ch.remove = []store.Program{p}
		if ch.kept, err = c.keepForPutBack(p); err != nil {
			return nil, false, err
		}
	}
	if err := c.apply(ctx, ch); err != nil {
		return nil, false, err
	}
	c.log.Info("program removed", "program", name, "interfaces", interfaces, "unloaded", unloaded)
	chains, err := c.views(interfaces)
	return chains, unloaded, err
}

// UpdateMembers changes members in one swap for each interface.
func (c *Controller) UpdateMembers(ctx context.Context, updates []Update) ([]Chain, error) {
	done, err := c.begin()
	if err != nil {
		return nil, err
	}
	defer done()
	if len(updates) == 0 {
		return nil, chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "updates"}, "there is no update in the request")
	}
	var programs []string
	for _, u := range updates {
		if u.Interface == "" {
			programs = append(programs, u.Program)
		}
	}
	unlock, err := c.lock(ctx, programs, nil)
	if err != nil {
		return nil, err
	}
	defer unlock()
	changes, interfaces, err := c.spread(updates)
	if err != nil {
		return nil, err
	}
	unlockInterfaces, err := c.lock(ctx, nil, interfaces)
	if err != nil {
		return nil, err
	}
	defer unlockInterfaces()
	ch := change{next: map[string]chain.Chain{}}
	for _, iface := range interfaces {
		rec, err := c.chainOf(iface)
		if err != nil {
			return nil, err
		}
		if ch.next[iface], err = rec.Chain.Update(changes[iface]); err != nil {
			return nil, about(err, iface)
		}
	}
	if err := c.apply(ctx, ch); err != nil {
		return nil, err
	}
	c.log.Info("members updated", "interfaces", interfaces)
	return c.views(interfaces)
}

// spread sorts updates by interface, those for each interface of a program to all of them.
func (c *Controller) spread(updates []Update) (map[string][]chain.Change, []string, error) {
	changes := map[string][]chain.Change{}
	var order []string
	for _, u := range updates {
		interfaces := []string{u.Interface}
		if u.Interface == "" {
			if _, err := c.program(u.Program); err != nil {
				return nil, nil, err
			}
			var err error
			if interfaces, err = c.places(u.Program); err != nil {
				return nil, nil, err
			}
		}
		for _, iface := range interfaces {
			if !slices.Contains(order, iface) {
				order = append(order, iface)
			}
			changes[iface] = append(changes[iface], chain.Change{
				Program: u.Program, Priority: u.Priority, Position: u.Position, ProceedOn: u.ProceedOn, Enabled: u.Enabled,
			})
		}
	}
	slices.Sort(order)
	return changes, order, nil
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
	chains, err := c.store.Chains()
	if err != nil {
		return nil, storeError(err)
	}
	var places []string
	for _, rec := range chains {
		if rec.Chain.Index(name) >= 0 {
			places = append(places, rec.Interface)
		}
	}
	return places, nil
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

// keepForPutBack reads the object of a program that goes, for the case that the change is undone.
func (c *Controller) keepForPutBack(p store.Program) (map[string][]byte, error) {
	data, err := c.store.Object(p.Object)
	if err != nil {
		return nil, storeError(err)
	}
	return map[string][]byte{p.Object: data}, nil
}
