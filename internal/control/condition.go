// SPDX-License-Identifier: Apache-2.0

package control

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// What keeps a chain from being repaired until somebody else does something.
var (
	errWaiting   = errors.New("there is no such interface")
	errDisplaced = errors.New("a foreign program is on the interface")
	errElsewhere = errors.New("the interface has another name now, which the chain cannot have")
)

// condition is how a chain is.
type condition struct {
	state   State
	text    string // what is wrong; empty: nothing
	live    dispatcher.Live
	foreign Foreign // of a chain that is displaced
	ifindex int     // of the interface of that name, 0: there is none

	elsewhere bool // the chain runs, on an interface of another name
}

// failure is why a repair failed, and what was seen to be wrong then; empty: that is still to be looked at.
type failure struct{ why, seen string }

// condition finds out whether an interface runs its chain, and what is wrong if not. The interface is locked.
func (c *Controller) condition(rec store.Chain) condition {
	nic, err := netif.ByName(rec.Interface)
	there := err == nil
	cond := condition{state: Broken, ifindex: nic.Index}
	live, liveErr := dispatcher.Live{}, error(dispatcher.ErrGone)
	if rec.Ifindex != 0 {
		live, liveErr = c.plane.Live(c.deviceOf(rec))
	}
	cond.live = live
	switch {
	case errors.Is(liveErr, dispatcher.ErrGone) && !there:
		cond.state, cond.text = Waiting, err.Error()+": the chain waits for it"
		if !errors.Is(err, &chain.Error{Reason: chain.InterfaceNotFound}) && !errors.Is(err, &chain.Error{Reason: chain.NetnsNotFound}) {
			cond.state = Broken
		}
	case errors.Is(liveErr, dispatcher.ErrGone) && nic.XDP.ID != 0 && rec.Ifindex != 0 && c.plane.Belongs(c.deviceOf(rec), nic.XDP.ID):
		cond.text = "somebody removed the pin of its link"
	case errors.Is(liveErr, dispatcher.ErrGone) && nic.XDP.ID != 0:
		cond.state, cond.foreign = Displaced, c.foreigner(nic.XDP)
		cond.text = fmt.Sprintf("a foreign program, %d (%s) in %s mode, has the place of the chain: detach it with the tool that attached it, or add with takeover",
			cond.foreign.ID, cond.foreign.Name, cond.foreign.Mode)
	case errors.Is(liveErr, dispatcher.ErrGone):
		cond.text = "the chain is not attached"
	case errors.Is(liveErr, dispatcher.ErrForeign):
		cond.state, cond.foreign = Displaced, c.foreigner(nic.XDP)
		cond.text = liveErr.Error() + ": somebody changed the link of xdpd; detach it (bpftool link detach), and the chain comes back"
	case liveErr != nil:
		cond.text = liveErr.Error()
	case !there || nic.XDP.ID != live.KernelID:
		cond.text, cond.elsewhere = c.parted(rec.Interface, live).Error(), true
	case live.Revision != rec.Revision:
		cond.text = fmt.Sprintf("runs revision %d, not %d", live.Revision, rec.Revision)
	default:
		cond = c.wellPinned(rec, cond)
	}
	return cond
}

// wellPinned is the condition of a chain that runs: its pins and those of its programs may be gone.
func (c *Controller) wellPinned(rec store.Chain, cond condition) condition {
	missing, err := c.plane.Damage(c.deviceOf(rec))
	switch {
	case err != nil:
		cond.text = "look at the pins: " + err.Error()
	case len(missing) > 0:
		cond.text = "somebody removed pins: " + some(missing)
	default:
		cond.state = Running
	}
	return cond
}

// some are the first of many.
func some(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// foreigner describes somebody else's program.
func (c *Controller) foreigner(x netif.XDPState) Foreign {
	f := Foreign{ID: x.ID, Mode: x.Mode, Name: "unknown"}
	if name, err := dispatcher.ProgramName(x.ID); err == nil {
		f.Name = name
	}
	return f
}

// examined is the condition of a chain, which is noted for the status and told to those who watch. The interface is locked.
func (c *Controller) examined(rec store.Chain) condition {
	cond := c.condition(rec)
	iface := rec.Interface
	c.mu.Lock()
	before := c.foreign[iface]
	if cond.foreign.ID == 0 {
		delete(c.foreign, iface)
	} else {
		c.foreign[iface] = cond.foreign.ID
	}
	if now := (runs{revision: rec.Revision, kernelID: cond.live.KernelID}); cond.state != Running {
		delete(c.running, iface)
	} else if old := c.running[iface]; old.revision != now.revision || old.kernelID != now.kernelID {
		c.running[iface] = now
	}
	if f, failed := c.failures[iface]; failed && cond.state == Broken && !cond.elsewhere && cmp.Or(f.seen, cond.text) == cond.text {
		c.failures[iface] = failure{f.why, cond.text}
		cond.text = f.why // it says more
	} else {
		delete(c.failures, iface)
	}
	c.mu.Unlock()
	if cond.foreign.ID != 0 && cond.foreign.ID != before {
		c.publish(Event{Kind: ForeignSeen, Interface: iface, Foreign: cond.foreign})
	}
	c.setProblem(iface, cond.text)
	return cond
}

// well notes that nothing is known to be wrong with an interface, which was just changed, or has no chain any more.
func (c *Controller) well(iface string) {
	c.mu.Lock()
	delete(c.failures, iface)
	delete(c.foreign, iface)
	delete(c.running, iface)
	c.mu.Unlock()
	c.setProblem(iface, "")
}

// runs is what an interface was seen to run, as it should.
type runs struct {
	revision uint64
	kernelID uint32
	learned  bool // its pins are known
}

// healthy is what an interface was seen to run, if that is this revision.
func (c *Controller) healthy(iface string, revision uint64) (r runs, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok = c.running[iface]
	return r, ok && r.revision == revision
}

// parted says where the interface of a chain is now.
func (c *Controller) parted(iface string, live dispatcher.Live) error {
	now, found := whereabouts(map[uint32]bool{live.KernelID: true})[live.KernelID]
	if !found {
		return chain.Errorf(chain.InterfaceNotFound, chain.Facts{"interface": iface},
			"the interface of the chain %q is in a network namespace that xdpd does not see, and still runs the chain: move it back, or remove the programs", iface)
	}
	return chain.Errorf(chain.InterfaceNotFound, chain.Facts{"interface": iface, "name": now},
		"the interface of the chain %q is %s now, and runs the chain, which gets that name in a moment unless there is one of that name: ask for that", iface, now)
}

// whereabouts looks in all namespaces that have a name for the interfaces that programs are on.
func whereabouts(wanted map[uint32]bool) (refs map[uint32]string) {
	refs = map[uint32]string{}
	namespaces, _ := netif.Namespaces() // none: only the own one
	for _, netns := range append([]string{""}, namespaces...) {
		nics, err := netif.List(netns)
		if err != nil {
			continue
		}
		for _, nic := range nics {
			if _, found := refs[nic.XDP.ID]; wanted[nic.XDP.ID] && !found {
				refs[nic.XDP.ID] = reference(netns, nic.Name)
			}
		}
	}
	return refs
}
