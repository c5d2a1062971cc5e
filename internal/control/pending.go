// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/boottime"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/store"
)

// undoable is the record of what it takes to undo a change.
func (c *Controller) undoable(ch *change) (*store.Pending, error) {
	now, err := boottime.Now()
	if err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	p := &store.Pending{
		ID: c.store.NextPendingID(), BootID: boot, Deadline: now + ch.options.ConfirmWithin, Added: ch.added,
		Programs: slices.Concat(ch.old, ch.remove), Caller: ch.options.Caller, What: ch.what,
	}
	for _, s := range ch.steps {
		before := store.PendingChain{Interface: s.iface}
		if s.known {
			before.Before = &s.before.Chain
		}
		p.Chains = append(p.Chains, before)
		if err := c.holdMembers(p, s); err != nil {
			return nil, err
		}
	}
	for _, iface := range ch.onlyHeld() {
		before := ch.next[iface]
		p.Chains = append(p.Chains, store.PendingChain{Interface: iface, Before: &before})
	}
	return p, nil
}

// onlyHeld are the interfaces that a change claims, if it waits to be confirmed, and does not touch: a member's program
// becomes another without a new load. Sorted.
func (ch *change) onlyHeld() (interfaces []string) {
	if ch.options.ConfirmWithin == 0 {
		return nil
	}
	for _, iface := range slices.Sorted(maps.Keys(ch.next)) {
		stepped := slices.ContainsFunc(ch.steps, func(s *step) bool { return s.iface == iface })
		if !stepped && slices.ContainsFunc(ch.put, func(p store.Program) bool { return ch.next[iface].Index(p.Name) >= 0 }) {
			interfaces = append(interfaces, iface)
		}
	}
	return interfaces
}

// holdMembers gives a pending change a claim on programs that leave a chain or join one and are in others too: to
// undo it they must be as they are, and no other change that is pending may need them.
func (c *Controller) holdMembers(p *store.Pending, s *step) error {
	for _, name := range differ(s.before.Chain, s.after.Chain) {
		if _, held := claims(*p); slices.Contains(held, name) {
			continue
		}
		program, err := c.program(name)
		if err != nil {
			return err
		}
		p.Programs = append(p.Programs, program)
	}
	return nil
}

// unclaimed fails where a change that is not confirmed yet has an interface or program that ch changes.
func (c *Controller) unclaimed(ch *change) error {
	pending, err := c.store.Pending()
	if err != nil {
		return storeError(err)
	}
	for _, p := range pending {
		if ch.undoes != nil && p.ID == ch.undoes.ID {
			continue
		}
		interfaces, programs := claims(p)
		for _, iface := range ch.onlyHeld() {
			if slices.Contains(interfaces, iface) {
				return c.claimed(p, "interface", iface)
			}
		}
		for _, s := range ch.steps {
			if slices.Contains(interfaces, s.iface) {
				return c.claimed(p, "interface", s.iface)
			}
			for _, name := range differ(s.before.Chain, ch.next[s.iface]) {
				if slices.Contains(programs, name) {
					return c.claimed(p, "program", name)
				}
			}
		}
		for _, changed := range slices.Concat(ch.put, ch.remove) {
			if slices.Contains(programs, changed.Name) {
				return c.claimed(p, "program", changed.Name)
			}
		}
	}
	return nil
}

// claims are what no other change may touch, sorted.
func claims(p store.Pending) (interfaces, programs []string) {
	for _, ch := range p.Chains {
		interfaces = append(interfaces, ch.Interface)
	}
	programs = slices.Clone(p.Added)
	for _, old := range p.Programs {
		programs = append(programs, old.Name)
	}
	slices.Sort(interfaces)
	slices.Sort(programs)
	return interfaces, programs
}

func (c *Controller) claimed(p store.Pending, kind, name string) error {
	view, err := c.pendingView(p)
	if err != nil {
		return err
	}
	until := view.Until.Format(time.RFC3339)
	return chain.Errorf(chain.ChangePending, chain.Facts{
		"change": strconv.FormatUint(p.ID, 10), kind: name, "until": until,
		"uid": strconv.FormatUint(uint64(p.Caller.UID), 10), "pid": strconv.FormatInt(int64(p.Caller.PID), 10),
	}, "%s %s: change %d (%s, by uid %d, pid %d) is undone at %s, in %s, unless it is confirmed: wait for that, or xdpctl confirm %d, or xdpctl cancel %d",
		kind, name, p.ID, p.What, p.Caller.UID, p.Caller.PID, until, view.Left.Round(time.Second), p.ID, p.ID)
}

func (c *Controller) pendingView(p store.Pending) (Pending, error) {
	now, err := boottime.Now()
	if err != nil {
		return Pending{}, err
	}
	left := max(p.Deadline-now, 0)
	v := Pending{ID: p.ID, Until: time.Now().Add(left), Left: left, Caller: p.Caller, What: p.What}
	v.Interfaces, v.Programs = claims(p)
	return v, nil
}

// pendingOf is the change of an interface's chain that waits to be confirmed, and the chain before it; nil for none.
func (c *Controller) pendingOf(iface string) (*Pending, *chain.Chain, error) {
	pending, err := c.store.Pending()
	if err != nil {
		return nil, nil, storeError(err)
	}
	for _, p := range pending {
		for _, ch := range p.Chains {
			if ch.Interface == iface {
				v, err := c.pendingView(p)
				return &v, ch.Before, err
			}
		}
	}
	return nil, nil, nil
}

func (c *Controller) findPending(id uint64) (store.Pending, error) {
	pending, err := c.store.Pending()
	if err != nil {
		return store.Pending{}, storeError(err)
	}
	if i := slices.IndexFunc(pending, func(p store.Pending) bool { return p.ID == id }); i >= 0 {
		return pending[i], nil
	}
	return store.Pending{}, chain.Errorf(chain.ChangeNotFound, chain.Facts{"change": strconv.FormatUint(id, 10)},
		"no change %d waits to be confirmed: it was confirmed, cancelled or undone already (xdpctl history tells), or there was none", id)
}

// Confirm makes a change stay that was made with ConfirmWithin.
func (c *Controller) Confirm(ctx context.Context, id uint64, by Caller) (Pending, error) {
	done, err := c.begin()
	if err != nil {
		return Pending{}, err
	}
	defer done()
	p, err := c.findPending(id)
	if err != nil {
		return Pending{}, err
	}
	interfaces, programs := claims(p)
	unlock, err := c.lock(ctx, programs, interfaces)
	if err != nil {
		return Pending{}, err
	}
	defer unlock()
	if p, err = c.findPending(id); err != nil {
		return Pending{}, err
	}
	view, err := c.pendingView(p)
	if err != nil {
		return view, err
	}
	if view.Left == 0 && !c.retried(id) {
		return view, chain.Errorf(chain.ChangeNotFound, chain.Facts{"change": strconv.FormatUint(id, 10)},
			"change %d was not confirmed in time: it is just being undone", id)
	}
	if err := c.store.Save(store.Change{DeletePending: []uint64{id}}); err != nil {
		return view, storeError(err)
	}
	failpoint.Hit(failpoint.ConfirmSaved)
	c.rearm()
	for _, old := range p.Programs {
		if now, exists, err := c.store.Program(old.Name); err != nil || exists && now.ID == old.ID {
			c.logIf("look for what is not needed any more", "", err)
			continue
		}
		c.remember(old.ID, nil)
		c.setProblem("program "+old.Name, "")
		c.logIf("unload program "+old.Name, "", c.plane.Unload(old.ID))
	}
	c.forgetRetries(id)
	c.log.Info("change confirmed", "change", id, "what", p.What, "uid", by.UID, "pid", by.PID)
	c.publish(Event{Kind: Confirmed, Pending: &view, Caller: &by})
	return view, nil
}

// Cancel undoes a change that was made with ConfirmWithin and is not confirmed yet.
func (c *Controller) Cancel(ctx context.Context, id uint64, by Caller) (Outcome, error) {
	return c.undo(ctx, id, false, by)
}

// undo gives interfaces and programs back what they had before a change.
func (c *Controller) undo(ctx context.Context, id uint64, expired bool, by Caller) (Outcome, error) {
	var lapsed, lost []store.Program
	r, err := c.mutate(ctx, Options{Caller: by}, func() (goal, error) {
		p, err := c.findPending(id)
		if err != nil {
			return goal{}, err
		}
		if lapsed, err = c.lapsed(p.Programs); err != nil {
			return goal{}, err
		}
		g := newGoal("cancel of " + p.What)
		if expired {
			g.what = "not confirmed: " + p.What
		}
		g.undoes, g.expired, g.drops = &p, expired, p.Added
		for _, before := range p.Chains {
			if before.Before != nil {
				g.chains[before.Interface] = without(*before.Before, lapsed)
				continue
			}
			rec, _, err := c.store.Chain(before.Interface)
			if err != nil {
				return goal{}, storeError(err)
			}
			rec.Chain.Members = nil
			g.chains[before.Interface] = rec.Chain
		}
		lost, err = c.bringBack(p, lapsed, &g)
		return g, err
	})
	if err == nil {
		for _, p := range slices.Concat(lapsed, lost) {
			c.remember(p.ID, nil)
			c.logIf("unload program "+p.Name, "", c.plane.Unload(p.ID))
		}
		c.forgetRetries(id)
		c.rearm()
	}
	return r.Outcome, err
}

// bringBack adds the programs to a goal that a change replaced or removed, but for those whose lease ended meanwhile. Their
// pins were kept; where somebody removed those they are lost, and the programs are loaded anew.
func (c *Controller) bringBack(p store.Pending, lapsed []store.Program, g *goal) (lost []store.Program, err error) {
	for _, old := range p.Programs {
		if slices.ContainsFunc(lapsed, func(l store.Program) bool { return l.Name == old.Name }) {
			continue
		}
		w := wanted{record: old, lenient: true}
		o, err := c.parse(old)
		if err != nil {
			return nil, err
		}
		if unpinned, err := c.plane.Unpinned(old.ID, o); err != nil || len(unpinned) > 0 {
			w.object, w.record.ID = o, 0
			lost = append(lost, old)
		}
		g.programs[old.Name] = w
	}
	return lost, nil
}

// self is the daemon, where it acts by itself.
func self() Caller { return Caller{UID: uint32(os.Getuid()), PID: int32(os.Getpid())} }

// clip keeps a text to what the store takes.
func clip(s string) string { return clipTo(255, s) }

func clipTo(limit int, s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
