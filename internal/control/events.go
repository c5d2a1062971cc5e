// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/xdpd/xdpd/chain"

	"github.com/xdpd/xdpd/internal/feed"
	"github.com/xdpd/xdpd/store"
)

// EventKind says what an Event is about, and which of its fields are set besides Time, Interface, Program and Caller.
type EventKind int

// The kinds of events.
const (
	MemberAdded      EventKind = iota + 1 // Member
	MemberRemoved                         // Member, as it was
	MemberChanged                         // Member
	ProgramReplaced                       // SHA256, PreviousSHA256
	ChainSwapped                          // Revision, Previous
	ConfirmPending                        // Pending
	Confirmed                             // Pending
	Reverted                              // Pending, Expired
	Degraded                              // Subject, Text
	Recovered                             // Subject, Text
	InterfaceUp                           // Ifindex
	InterfaceGone                         // Ifindex
	InterfaceRenamed                      // Former
	ForeignSeen                           // Foreign
	LeaseEnded                            // Lease, Text
)

// Event is something that happened.
type Event struct {
	Kind      EventKind
	Time      time.Time
	Interface string  // empty: none
	Program   string  // empty: none
	Caller    *Caller // nil: nobody asked for it

	Member         Member // without counts
	Revision       uint64 // 0: no chain any more
	Previous       uint64 // 0: there was none
	SHA256         string // of the object, in hex
	PreviousSHA256 string
	Pending        *Pending
	Expired        bool   // else it was cancelled
	Subject        string // what a problem is about
	Text           string
	Ifindex        int
	Former         string // name of the interface
	Foreign        Foreign
	Lease          LeaseView
}

// Watch returns a reader of the events that follow the one with that token; empty: of those from now on.
func (c *Controller) Watch(token string) *feed.Reader[Event] { return c.events.Read(token) }

func (c *Controller) publish(e Event) {
	e.Time = time.Now().UTC()
	c.events.Publish(e)
}

// describe says for people what a change does.
func (c *Controller) describe(ch *change) {
	for _, old := range ch.old {
		p, _ := ch.version(old.Name)
		if !sameVersion(old, p) || p.Lifetime != old.Lifetime || p.ID != old.ID {
			ch.diff = append(ch.diff, "program "+difference(old, p))
		}
		ch.diff = append(ch.diff, patternLines(p.Name, old.Patterns, p.Patterns)...)
	}
	for _, name := range ch.added {
		p, _ := ch.version(name)
		ch.diff = append(ch.diff, patternLines(name, nil, p.Patterns)...)
	}
	for _, p := range ch.remove {
		ch.diff = append(ch.diff, patternLines(p.Name, p.Patterns, nil)...)
	}
	for _, s := range ch.steps {
		s.diff = chain.DiffLines(s.before.Chain, s.after.Chain)
		if s.same {
			s.diff = []string{"* it did not run, and does again"}
		}
		for _, old := range ch.old {
			p, _ := ch.version(old.Name)
			if p.ID != old.ID && s.before.Chain.Index(p.Name) >= 0 && s.after.Chain.Index(p.Name) >= 0 {
				s.diff = append(s.diff, "* "+difference(old, p))
			}
		}
		for _, line := range s.diff {
			ch.diff = append(ch.diff, s.iface+": "+line)
		}
	}
}

// maxLine is how long a line of a difference is at most: what the store takes, less the name of an interface.
const maxLine = 480

// difference says in what two versions of a program differ.
func difference(old, p store.Program) string {
	var parts []string
	if old.Object != p.Object {
		parts = append(parts, fmt.Sprintf("object %.12s -> %.12s", old.Object, p.Object))
	}
	if old.Function != p.Function {
		parts = append(parts, fmt.Sprintf("function %s -> %s", old.Function, p.Function))
	}
	parts = append(parts, old.Settings.Diff(p.Settings)...)
	if old.Lifetime != p.Lifetime {
		parts = append(parts, fmt.Sprintf("lifetime %s -> %s", old.Lifetime, p.Lifetime))
	}
	if len(parts) == 0 {
		parts = []string{"loaded anew"}
	}
	line := p.Name + ": " + strings.Join(parts, ", ")
	return clipTo(maxLine, line)
}

// announce tells of a change that was made: in the log, and to those who watch.
func (c *Controller) announce(ch *change) {
	caller := ch.options.Caller
	var interfaces []string
	for _, s := range ch.steps {
		interfaces = append(interfaces, s.iface)
	}
	c.log.Info("change made", "what", ch.what, "interfaces", interfaces, "uid", caller.UID, "pid", caller.PID, "comment", ch.options.Comment)
	for _, t := range ch.took() {
		c.log.Warn("took over from a foreign program", "interface", t.Interface, "id", t.Foreign.ID, "name", t.Foreign.Name, "swapped", t.Swapped)
	}
	for _, old := range ch.old {
		if p, _ := ch.version(old.Name); p.ID != old.ID {
			c.publish(Event{Kind: ProgramReplaced, Program: p.Name, SHA256: p.Object, PreviousSHA256: old.Object, Caller: &caller})
		}
	}
	for _, s := range ch.steps {
		c.announceStep(s, caller)
	}
	if ch.undoes != nil {
		if view, err := c.pendingView(*ch.undoes); err == nil {
			c.publish(Event{Kind: Reverted, Pending: &view, Expired: ch.expired, Caller: &caller})
		}
	}
	if ch.pending != nil {
		if view, err := c.pendingView(*ch.pending); err == nil {
			c.publish(Event{Kind: ConfirmPending, Pending: &view, Caller: &caller})
		}
	}
}

// announceStep tells of what happened on one interface: first the swap, then what is different since.
func (c *Controller) announceStep(s *step, caller Caller) {
	swapped := Event{Kind: ChainSwapped, Interface: s.iface, Revision: s.after.Revision, Previous: s.before.Revision, Caller: &caller}
	if len(s.after.Chain.Members) == 0 {
		swapped.Revision = 0
	}
	c.publish(swapped)
	now := members(s.after)
	for _, d := range chain.Diff(s.before.Chain, s.after.Chain) {
		e := Event{Interface: s.iface, Caller: &caller}
		switch d.Kind {
		case chain.Added:
			e.Kind = MemberAdded
		case chain.Removed:
			e.Kind, e.Member = MemberRemoved, Member{Member: d.Before, Slot: -1}
		case chain.Changed:
			e.Kind = MemberChanged
		}
		if i := slices.IndexFunc(now, func(m Member) bool { return m.Program == d.After.Program }); i >= 0 && d.Kind != chain.Removed {
			e.Member = now[i]
			e.Member.Counts = chain.Counts{}
		}
		e.Program = e.Member.Program
		c.publish(e)
	}
}
