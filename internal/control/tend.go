// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// The kernel tells nobody when an XDP link is attached, updated or detached, or a pin removed: who wants to know looks.
const (
	tending   = "look after interfaces"
	following = "follow the names of interfaces"
	lookEvery = time.Second
	// rest is how many times what it took to look nobody looks again. Where changes of many interfaces come one after the other,
	// they are looked at together; but never is it waited longer than half of lookEvery.
	rest = 9
	// atOnce is how many interfaces are mended at the same time.
	atOnce = 4
)

// Waiting between repairs of one interface or program, so that two who want it otherwise do not fight in a loop: double each
// time, until nothing was to be repaired for a while.
const (
	firstRepair = time.Second
	lastRepair  = time.Minute
	// calm is how many times the last wait nothing must have happened for the next repair to be at once again.
	calm = 2
)

// tender looks after everything that is to run. One goroutine uses it; what it starts for single interfaces goes on by itself.
type tender struct {
	*Controller
	seen      uint64 // the generation of the store that chains and programs are of
	chains    map[string]store.Chain
	programs  []store.Program
	elsewhere presence          // of other namespaces, as they were
	unseen    map[string]bool   // namespaces that could not be looked at in this round
	gone      map[string]bool   // chains whose links are, in this round
	searched  time.Time         // when all namespaces were searched for interfaces that were moved
	lost      map[string]uint32 // which were not found: their chains, and the programs of those
	tasks     sync.WaitGroup
	slots     chan struct{}

	mu      sync.Mutex         // protects repairs
	repairs map[string]*repair // by subject
}

// repair is when something was repaired, or tried to.
type repair struct {
	busy bool
	seen sight     // when it began
	last time.Time // when it ended
	wait time.Duration
	idle bool // nothing was to be repaired for a while before it began

	elsewhere bool // the interface has another name, and is waited for
}

// sight is what there is for a repair: where it is something else, nobody is fighting.
type sight struct {
	index int    // of the interface
	xdp   uint32 // the program on it
	gone  bool   // the link of the chain is
}

// tend looks after interfaces until the context ends: chains run where they shall, follow their interfaces, and come to new
// ones. It looks every second, and whenever somebody says that there is something to see.
func (c *Controller) tend(ctx context.Context) {
	t := c.newTender()
	defer t.tasks.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		if err := t.round(ctx); err == nil {
			c.setProblem(tending, "")
		} else if why := err.Error(); c.problem(tending) != why {
			c.setProblem(tending, why)
			c.log.Error(tending, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(rest*time.Since(began), lookEvery/2)):
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.nudge:
		}
	}
}

func (c *Controller) newTender() *tender {
	return &tender{Controller: c, slots: make(chan struct{}, atOnce), repairs: map[string]*repair{}}
}

// rouse makes tend look soon.
func (c *Controller) rouse() {
	select {
	case c.nudge <- struct{}{}:
	default:
	}
}

// round looks at everything once.
func (t *tender) round(ctx context.Context) error {
	t.examineStore()
	if err := t.refresh(); err != nil {
		return err
	}
	if !t.checkFolder(ctx) {
		return nil
	}
	now, err := t.survey()
	if err != nil {
		return err
	}
	moves := t.moved(now)
	why := ""
	if len(moves) > 0 {
		done, err := t.follow(moves)
		if err != nil { // as where the store takes nothing: what can be repaired is all the same
			why = err.Error()
		}
		if done {
			t.rouse()
			return nil
		}
	}
	t.setProblem(following, why)
	for _, p := range t.programs {
		if !t.Controller.programs.free(p.Name) {
			continue // its change comes first; to wait for that would keep a slot from others
		}
		if missing, err := t.plane.DamageProgram(p.ID); err != nil || len(missing) > 0 || !t.hasLearned(p.ID) {
			t.start(ctx, "program "+p.Name, sight{}, func() (bool, error) { return t.healProgram(ctx, p.Name) })
		}
	}
	for iface, rec := range t.chains {
		nic, there := now[iface]
		seen, well := t.healthy(iface, rec.Revision)
		switch {
		case there && well && seen.learned && nic.XDP.ID == seen.kernelID && t.intact(rec):
		case !t.interfaces.free(iface): // as above
		case !there && (t.unseen[netnsOf(iface)] || rec.Ifindex == 0 && t.problem(iface) != ""):
		default:
			t.start(ctx, iface, sight{index: nic.Index, gone: t.gone[iface]}, func() (bool, error) { return t.heal(ctx, iface) })
		}
	}
	t.tendPatterns(ctx, now)
	return nil
}

// refresh reads chains and programs again if they were changed since.
func (t *tender) refresh() error {
	generation := t.generation.Load()
	if t.chains != nil && t.seen == generation {
		return nil
	}
	chains, err := t.Controller.chains()
	if err != nil {
		return err
	}
	if t.programs, err = t.store.Programs(); err != nil {
		return storeError(err)
	}
	t.chains = make(map[string]store.Chain, len(chains))
	for _, rec := range chains {
		rec.Totals = nil // they are many
		t.chains[rec.Interface] = rec
	}
	t.seen = generation
	return nil
}

// survey returns the interfaces of all namespaces that chains or patterns name. A namespace that is gone, or closed to the
// daemon, has none; what happened in one that could not be looked at shows the next time.
func (t *tender) survey() (map[string]netif.Interface, error) {
	namespaces := map[string]bool{"": true}
	for iface := range t.chains {
		namespaces[netnsOf(iface)] = true
	}
	for _, p := range t.programs {
		for _, pattern := range p.Patterns {
			namespaces[netnsOf(pattern.Glob)] = true
		}
	}
	now := map[string]netif.Interface{}
	t.unseen = map[string]bool{}
	for netns := range namespaces {
		nics, err := netif.List(netns)
		if err != nil && netns == "" {
			return nil, err
		}
		t.unseen[netns] = err != nil && !errors.Is(err, &chain.Error{Reason: chain.NetnsNotFound})
		for _, nic := range nics {
			now[reference(netns, nic.Name)] = nic
		}
	}
	t.tellElsewhere(now)
	return now, nil
}

// netnsOf is the network namespace in the reference of an interface; empty: the daemon's own.
func netnsOf(ref string) string {
	netns, _, _ := chain.ParseInterface(ref) // of a chain: it is one
	return netns
}

// reference names an interface.
func reference(netns, name string) string {
	if netns == "" {
		return name
	}
	return netns + ":" + name
}

// tellElsewhere tells of interfaces of other namespaces that came and went; those of the own one tell it themselves.
func (t *tender) tellElsewhere(now map[string]netif.Interface) {
	indexes := presence{}
	for ref, nic := range now {
		if netnsOf(ref) != "" {
			indexes[ref] = nic.Index
		}
	}
	for ref, index := range t.elsewhere {
		if t.unseen[netnsOf(ref)] {
			indexes[ref] = index
		}
	}
	if t.elsewhere == nil {
		t.elsewhere = indexes
	}
	for _, change := range t.elsewhere.update(indexes) {
		t.noteLink(change)
	}
}

// intact tells whether the pins of a chain are as they should be.
func (t *tender) intact(rec store.Chain) bool {
	missing, err := t.plane.Damage(t.deviceOf(rec))
	return err == nil && len(missing) == 0
}

// start begins a repair unless one is under way, or it is too early for another, while what is seen is the same. It never
// waits.
func (t *tender) start(ctx context.Context, subject string, seen sight, do func() (mended bool, err error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.repairs[subject]
	if r == nil {
		r = &repair{}
		t.repairs[subject] = r
	}
	same := r.seen.index == seen.index && r.seen.xdp == seen.xdp && (r.seen.gone == seen.gone || !r.elsewhere)
	since := time.Since(r.last)
	if r.busy || same && since < r.wait {
		return
	}
	r.busy, r.seen, r.idle = true, seen, since > calm*r.wait+lookEvery
	t.tasks.Go(func() {
		select {
		case t.slots <- struct{}{}:
			defer func() { <-t.slots }()
		case <-ctx.Done():
			return
		}
		mended, err := do()
		t.ended(ctx, subject, mended, err)
	})
}

// ended notes how a repair went: where nothing was wrong, nothing is to be waited for.
func (t *tender) ended(ctx context.Context, subject string, mended bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.repairs[subject]
	r.busy, r.elsewhere = false, errors.Is(err, errElsewhere)
	failed := err != nil && !errors.Is(err, errDisplaced)
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, errWaiting):
		delete(t.repairs, subject) // an interface that comes back is no fight
		return
	case !failed && !mended: // nothing was to be repaired, or it is not ours to do
		if r.idle {
			delete(t.repairs, subject)
		}
		return
	case r.idle:
		r.wait = firstRepair
	default:
		r.wait = min(2*r.wait, lastRepair)
	}
	r.last = time.Now()
}

// forget drops what is known of subjects that nothing is to be done for any more, and their problems.
func (t *tender) forget(prefix string, needed map[string]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for subject, r := range t.repairs {
		if strings.HasPrefix(subject, prefix) && !needed[subject] && !r.busy {
			t.setProblem(subject, "")
			if time.Since(r.last) > calm*r.wait {
				delete(t.repairs, subject)
			}
		}
	}
}

// checkFolder tells whether the folder of all pins is there; where it is not, it is made anew, with all that was in it.
func (t *tender) checkFolder(ctx context.Context) bool {
	lost := t.plane.Folder()
	if lost == nil {
		t.setProblem(pinning, "")
		return true
	}
	if !errors.Is(lost, dispatcher.ErrFolderLost) {
		t.setProblem(pinning, lost.Error())
		return true
	}
	t.setProblem(pinning, lost.Error())
	t.start(ctx, pinning, sight{}, func() (bool, error) { return true, t.retake(ctx) })
	return false
}

// retakeAgain is how long retake waits between looks whether a change is being made.
const retakeAgain = 10 * time.Millisecond

// pinning is the subject of problems with the folder of all pins.
const pinning = "pins"

// retake makes the folder of all pins anew. No change is made meanwhile.
func (c *Controller) retake(ctx context.Context) error {
	for !c.changes.TryLock() { // Lock would hold up all changes behind one that is stuck
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retakeAgain):
		}
	}
	defer c.changes.Unlock()
	if c.stopped || c.plane.Folder() == nil {
		return nil
	}
	rescued, err := c.plane.Retake()
	if err != nil {
		c.setProblem(pinning, err.Error())
		return err
	}
	c.log.Warn("the folder of the pins was lost, and is made anew", "bpffs", c.plane.Root(), "rescued", rescued)
	programs, err := c.store.Programs()
	if err != nil {
		return storeError(err)
	}
	for _, p := range sharersLast(programs) {
		c.remember(p.ID, nil)
		if err := c.reload(ctx, p); err != nil {
			c.setProblem("program "+p.Name, err.Error())
			c.log.Error("program is not loaded", "program", p.Name, "error", err)
		}
		if missing, err := c.plane.DamageProgram(p.ID); err == nil && len(missing) > 0 {
			c.setProblem("program "+p.Name, "somebody removed its pins: "+some(missing)) // healProgram is next
		}
	}
	c.setProblem(pinning, "")
	c.touch()
	return nil
}

// update takes in what there is now, and returns what came and went.
func (p presence) update(now presence) (changes []netif.LinkEvent) {
	for name, index := range p {
		if now[name] != index {
			changes = append(changes, netif.LinkEvent{Name: name, Index: index, Gone: true})
			delete(p, name)
		}
	}
	for name, index := range now {
		if p[name] != index {
			changes = append(changes, netif.LinkEvent{Name: name, Index: index})
			p[name] = index
		}
	}
	return changes
}
