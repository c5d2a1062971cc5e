// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xdpd/xdpd/internal/netif"
)

// What Run does, as the subjects of problems.
const (
	undoing  = "undo changes that are not confirmed"
	watching = "watch interfaces"
)

// tryAgain is how long Run waits before it does again what failed.
const tryAgain = time.Second

// Run undoes changes that are not confirmed in time, sees that chains run where they shall, and tells watchers of interfaces
// that come and go, until the context ends. It is called once, after Reconcile. What fails is logged and tried again: traffic does
// not depend on it.
func (c *Controller) Run(ctx context.Context) error {
	var tasks errgroup.Group
	tasks.Go(func() error {
		c.keepOn(ctx, undoing, func() error { return c.undoLate(ctx) })
		return nil
	})
	tasks.Go(func() error {
		c.keepOn(ctx, watching, func() error { return c.watchLinks(ctx) })
		return nil
	})
	tasks.Go(func() error {
		c.tend(ctx)
		return nil
	})
	tasks.Go(func() error {
		c.keepOn(ctx, endingLeases, func() error { return c.endLeases(ctx) })
		return nil
	})
	return tasks.Wait()
}

// keepOn does something until the context ends, which takes its problem away itself when it goes well.
func (c *Controller) keepOn(ctx context.Context, what string, do func() error) {
	for ctx.Err() == nil {
		err := do()
		if ctx.Err() != nil {
			return
		}
		c.setProblem(what, fmt.Sprint(err))
		c.log.Error(what, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(tryAgain):
		}
	}
}

func (c *Controller) watchLinks(ctx context.Context) error {
	seen := presence{}
	ready := func() {
		seen = newPresence()
		c.setProblem(watching, "")
		c.rouse()
	}
	return netif.Watch(ctx, ready, func(e netif.LinkEvent) {
		for _, change := range seen.note(e) {
			c.noteLink(change)
		}
		c.rouse()
	})
}

// presence are the interfaces that there are: indexes by name.
type presence map[string]int

func newPresence() presence {
	p := presence{}
	interfaces, err := net.Interfaces()
	if err != nil {
		return p // each is told of when something is heard of it
	}
	for _, i := range interfaces {
		p[i.Name] = i.Index
	}
	return p
}

// note takes an event in, and returns what came and went with it. A renamed interface goes and comes.
func (p presence) note(e netif.LinkEvent) (changes []netif.LinkEvent) {
	if e.Resync {
		return p.update(newPresence())
	}
	for name, index := range p {
		if index == e.Index && (e.Gone || name != e.Name) || name == e.Name && index != e.Index {
			changes = append(changes, netif.LinkEvent{Name: name, Index: index, Gone: true})
			delete(p, name)
		}
	}
	if _, known := p[e.Name]; !known && !e.Gone {
		changes = append(changes, e)
		p[e.Name] = e.Index
	}
	return changes
}

// noteLink tells of an interface that came or went, if it has a chain.
func (c *Controller) noteLink(e netif.LinkEvent) {
	_, known, err := c.store.Chain(e.Name)
	if err != nil || !known {
		c.logIf("look up the chain of an interface", e.Name, err)
		return
	}
	kind := InterfaceUp
	if e.Gone {
		kind = InterfaceGone
	}
	c.publish(Event{Kind: kind, Interface: e.Name, Ifindex: e.Index})
}
