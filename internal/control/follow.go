// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// searchEvery is how often all namespaces are searched for the same interfaces that are in none that is known.
const searchEvery = 10 * time.Second

// moved finds the chains whose interfaces are called otherwise by now, or are in another namespace: their names now, by those
// they had.
func (t *tender) moved(now map[string]netif.Interface) map[string]string {
	var byProgram map[uint32]string
	moves := map[string]string{}
	lost := map[string]uint32{}
	t.gone = map[string]bool{}
	for iface, rec := range t.chains {
		nic, there := now[iface]
		seen, well := t.healthy(iface, rec.Revision)
		if rec.Ifindex == 0 || there && well && nic.XDP.ID == seen.kernelID {
			continue
		}
		live, err := t.plane.Live(t.deviceOf(rec))
		t.gone[iface] = errors.Is(err, dispatcher.ErrGone)
		if err != nil || there && nic.XDP.ID == live.KernelID || !t.ours(rec) {
			continue
		}
		if byProgram == nil {
			byProgram = map[uint32]string{}
			for ref, nic := range now {
				byProgram[nic.XDP.ID] = ref
			}
		}
		switch to, found := byProgram[live.KernelID]; {
		case to == iface: // it was just changed
		case found:
			moves[iface] = to
		default:
			lost[iface] = live.KernelID
		}
	}
	t.search(lost, moves)
	return moves
}

// search looks for interfaces in all namespaces, by the programs that they run, and adds to moves where they are.
func (t *tender) search(lost map[string]uint32, moves map[string]string) {
	if len(lost) == 0 {
		t.lost = nil
		return
	}
	known := true
	for iface, id := range lost {
		known = known && t.lost[iface] == id
	}
	if known && time.Since(t.searched) < searchEvery {
		return
	}
	t.lost, t.searched = lost, time.Now()
	wanted := map[uint32]bool{}
	for _, id := range lost {
		wanted[id] = true
	}
	found := whereabouts(wanted)
	for iface, id := range lost {
		if to := found[id]; to != "" {
			delete(lost, iface) // it is looked for again if it is not followed at once
			if to != iface {    // or it was just changed
				moves[iface] = to
			}
		}
	}
}

// followAll follows what was moved while nobody looked.
func (t *tender) followAll() error {
	if err := t.refresh(); err != nil {
		return err
	}
	now, err := t.survey()
	if err != nil {
		return err
	}
	_, err = t.follow(t.moved(now))
	return err
}

// follow gives chains the names that their interfaces have now, with their history and what is pending, as far as nobody is
// just changing them and no other chain has the name. It never waits. done: there were such.
func (c *Controller) follow(moves map[string]string) (done bool, err error) {
	end, err := c.begin()
	if err != nil {
		return false, nil // everything is being removed
	}
	defer end()
	moves = maps.Clone(moves)
	defer c.tryLocks(&c.interfaces, moves)()
	records := map[string]store.Chain{}
	for from := range moves {
		rec, known, err := c.store.Chain(from)
		if err != nil {
			return false, storeError(err)
		}
		if live, err := c.plane.Live(c.deviceOf(rec)); !known || err != nil || !onIt(moves[from], live.KernelID) {
			delete(moves, from)
			continue
		}
		records[from] = rec
	}
	if err := c.keepFree(moves); err != nil || len(moves) == 0 {
		return false, err
	}
	programs, unlock, err := c.exceptions(moves)
	if err != nil {
		return false, err
	}
	defer unlock()
	change := store.Change{RenameChains: moves, PutPrograms: programs}
	for from, to := range moves {
		rec := records[from]
		rec.Interface, rec.Former = to, from
		change.PutChains = append(change.PutChains, rec)
	}
	if err := c.save(context.Background(), change); err != nil {
		return false, err
	}
	for _, from := range slices.Sorted(maps.Keys(moves)) {
		c.log.Info("a chain follows its interface", "from", from, "to", moves[from])
		c.well(from)
		c.publish(Event{Kind: InterfaceRenamed, Interface: moves[from], Former: from})
	}
	for _, rec := range change.PutChains {
		c.examined(rec)
	}
	return true, nil
}

// onIt tells whether an interface has a program.
func onIt(ref string, kernelID uint32) bool {
	nic, err := netif.ByName(ref)
	return err == nil && nic.XDP.ID == kernelID
}

// tryLocks takes the locks of both names of each move, and drops the moves for which it cannot.
func (c *Controller) tryLocks(of *locks, moves map[string]string) (release func()) {
	held := map[string]func(){}
	for from, to := range moves {
		for _, name := range []string{from, to} {
			if held[name] != nil {
				continue
			}
			if unlock, ok := of.try(name); ok {
				held[name] = unlock
			} else {
				delete(moves, from)
			}
		}
	}
	return func() {
		for _, unlock := range held {
			unlock()
		}
	}
}

// keepFree drops the moves to names that other chains have and keep, or get back unless a change is confirmed.
func (c *Controller) keepFree(moves map[string]string) error {
	pending, err := c.store.Pending()
	if err != nil {
		return storeError(err)
	}
	awaited := map[string]bool{}
	for _, p := range pending {
		interfaces, _ := claims(p)
		for _, iface := range interfaces {
			awaited[iface] = true
		}
	}
	for again := true; again; {
		again = false
		for from, to := range moves {
			_, taken, err := c.store.Chain(to)
			if err != nil {
				return storeError(err)
			}
			if _, leaves := moves[to]; leaves || !taken && !awaited[to] {
				continue
			}
			if c.problem(from) == "" { // else something is told already, and is not to change each time
				c.setProblem(from, fmt.Sprintf("its interface is called %s now, and runs the chain; there is another chain of that name: remove one of the two, or rename the interface", to))
			}
			delete(moves, from)
			again = true
		}
	}
	return nil
}

// exceptions are the programs that are not to come back to interfaces that get other names, as they are then to be; they are locked.
func (c *Controller) exceptions(moves map[string]string) (programs []store.Program, unlock func(), err error) {
	var unlocks []func()
	unlock = func() {
		for _, u := range unlocks {
			u()
		}
	}
	all, err := c.store.Programs()
	if err != nil {
		return nil, unlock, storeError(err)
	}
	for _, p := range all {
		if !slices.ContainsFunc(p.Patterns, func(pattern store.Pattern) bool {
			return slices.ContainsFunc(pattern.Except, func(name string) bool { return moves[name] != "" })
		}) {
			continue
		}
		release, ok := c.programs.try(p.Name)
		if !ok {
			continue // it is just being changed: it may come back to the interface, and can be removed again
		}
		unlocks = append(unlocks, release)
		now, known, err := c.store.Program(p.Name)
		if err != nil || !known {
			continue
		}
		now.Patterns = slices.Clone(now.Patterns)
		for i, pattern := range now.Patterns {
			var except []string
			for _, name := range pattern.Except {
				if to := moves[name]; to != "" {
					name = to
				}
				except = append(except, name)
			}
			slices.Sort(except)
			now.Patterns[i].Except = slices.Compact(except)
		}
		programs = append(programs, now)
	}
	return programs, unlock, nil
}
