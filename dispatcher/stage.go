// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/failpoint"
)

// Plan is what a new revision shall be.
type Plan struct {
	Revision uint64 // its number: greater than 0, not in use on the device
	Slots    []Slot
	Final    chain.Verdict
	Mode     chain.Mode // used where the device has no link of ours yet
	Frags    bool       // a revision without slots shall fit interfaces that only take programs with frags
	Moved    bool       // the device's link, if it has one, is not on the interface of that index any more: none is made
	Lingers  bool       // the interface still has a program of a link of the device that is going: it is waited for
	Dry      bool       // only to see whether it can be staged: a device without a link of ours gets none

	// Takeover: where the device has a foreign program, replace it. That is the one with the kernel's id Holder, in mode
	// HolderMode, as netlink says of the device; 0: it has none. Hook attaches a program over netlink in that mode if there
	// is none, Unhook detaches it if it is this one (XDP_FLAGS_REPLACE); their errors wrap the kernel's.
	Takeover     bool
	Holder       uint32
	HolderMode   chain.Mode
	Hook, Unhook func(program int) error

	// In runs a function in the network namespace of the device, on a thread that is there; nil: they are in the caller's.
	In func(f func() error) error
}

// Slot is a loaded program and what proceeds after it.
type Slot struct {
	Program   uint64 // the id that it was loaded with
	Name      string
	Object    *Object
	ProceedOn chain.ProceedOn
}

// Staged is a revision that is loaded and pinned and that no packet goes through yet. It holds descriptors
// until it is discarded, which is to be done in any case.
type Staged struct {
	plane     *Plane
	device    Device
	plan      Plan
	revision  uint64
	link      xdpLink
	old, new  *ebpf.Program
	taking    *taking // nil: the plan replaces no foreign program
	dry       bool    // it cannot be committed
	fresh     bool    // the link was made by this Stage
	committed bool

	Actual     chain.Mode // native or generic, where the link is not one that we had; else empty
	ModeReason string     // why auto became generic
	Took       *Foreign   // the program that a plan with Takeover replaces; nil: none
}

// Stage loads a dispatcher, fills its slots and pins all of it. A device without a link of ours gets one, with
// a transparent program, so that nothing is left that could fail at the commit. Traffic does not change. With
// a plan that is Dry the device is not touched at all, and what is returned is only to be discarded.
//
// It fails with a chain.Error; with ErrBusy where the device has a foreign program, ErrForeign where somebody
// put a program into our link; or because the context ends before it is its turn to be verified. On an error nothing is left.
func (p *Plane) Stage(ctx context.Context, d Device, plan Plan) (_ *Staged, err error) {
	dir := p.revisionDir(d, plan.Revision)
	if err := p.makeRevision(d, plan.Revision); err != nil {
		return nil, err
	}
	s := &Staged{plane: p, device: d, plan: plan, revision: plan.Revision, dry: plan.Dry}
	done := false
	defer func() {
		if !done { // an error, or a panic on its way to the server
			err = errors.Join(err, s.Discard())
		}
	}()
	b := blueprint{members: p.members(plan.Slots), final: plan.Final}
	b.frags = p.linker.frags(b.members) || len(b.members) == 0 && plan.Frags
	if s.new, err = p.build(ctx, dir, b); err != nil {
		return nil, err
	}
	if err := failpoint.Err(failpoint.StagePinned); err != nil {
		return nil, err
	}
	if err := s.findLink(b.frags); err != nil {
		return nil, err
	}
	done = true
	return s, nil
}

// findLink finds or makes the link that the commit is going to update. A foreign program stays, and with a plan that
// takes over is what the commit replaces.
func (s *Staged) findLink(frags bool) error {
	plan := &s.plan
	err := s.openLink()
	if errors.Is(err, ErrGone) { // its pin is all that is left of it
		err = nil
		if !plan.Dry {
			if err = s.plane.preserve(filepath.Join(s.plane.chainDir(s.device), "link")); err == nil {
				err = s.unpinLink()
			}
		}
	}
	foreign := errors.Is(err, ErrForeign)
	switch {
	case plan.Takeover && plan.Holder != 0 && (foreign || err == nil && s.link == nil):
		return s.take()
	case err != nil || s.link != nil || plan.Dry:
		return err
	case plan.Moved:
		return fmt.Errorf("%w: the interface was moved, and its link went", ErrGone)
	}
	return s.createLink(plan.Mode, frags)
}

// members are the programs of slots, on their way there.
func (p *Plane) members(slots []Slot) []member {
	members := make([]member, len(slots))
	for i, s := range slots {
		members[i] = member{name: s.Name, dir: p.programDir(s.Program), object: s.Object, proceedOn: s.ProceedOn}
	}
	return members
}

// makeRevision makes the folder of a revision. One that a process staged, and died before it was used, makes
// room; the live one does not.
func (p *Plane) makeRevision(d Device, revision uint64) error {
	if err := mkdir(p.chainDir(d)); err != nil {
		return err
	}
	dir := p.revisionDir(d, revision)
	p.forget(dir)
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		live, liveErr := p.Live(d)
		if errors.Is(liveErr, ErrGone) || errors.Is(liveErr, ErrForeign) || liveErr == nil && live.Revision != revision {
			err = errors.Join(removeTree(dir), os.Mkdir(dir, 0o700))
		}
	}
	if err != nil {
		return fmt.Errorf("make folder for revision %d: %w", revision, err)
	}
	return nil
}

// Resume returns a revision that was staged by a process that died. The caller discards it, which also removes
// it unless it was committed.
func (p *Plane) Resume(d Device, revision uint64) (_ *Staged, err error) {
	s := &Staged{plane: p, device: d, revision: revision}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.new, err = openDispatcher(p.revisionDir(d, revision)); err != nil {
		return nil, err
	}
	if err := s.openLink(); err != nil {
		return nil, err
	}
	if s.link == nil {
		return nil, fmt.Errorf("%w: there is no pin of it", ErrGone)
	}
	return s, nil
}

// Commit makes packets go through the revision instead of the one before. It is one syscall, but for a foreign program
// that cannot be swapped.
func (s *Staged) Commit() error {
	if s.dry {
		return fmt.Errorf("commit revision %d: it was staged only to see whether it can be", s.revision)
	}
	if err := failpoint.Err(failpoint.CommitBefore); err != nil {
		return err
	}
	if s.taking != nil && s.link == nil {
		return s.supplant()
	}
	// Traffic changes here: a compare-and-swap on the program of the interface's link.
	err := s.link.UpdateArgs(link.RawLinkUpdateOptions{New: s.new, Old: s.old, Flags: unix.BPF_F_REPLACE})
	if errors.Is(err, unix.EINVAL) && s.taking != nil && s.taking.unpinned {
		// Their program has another attach type than ours, which is nowhere to be seen before.
		s.taking.link, s.link = s.link, nil
		s.taking.unpinned, s.Took.Swapped = false, false
		return s.supplant()
	}
	if err != nil {
		return s.swapError(err)
	}
	s.committed = true
	if s.taking != nil && s.taking.unpinned {
		if err := s.pinLink(); err != nil {
			return errors.Join(err, s.Revert())
		}
	}
	return nil
}

// Revert points a committed revision's link back to what was before. A foreign program that could not be swapped is
// attached by netlink.
func (s *Staged) Revert() error {
	if !s.committed {
		return nil
	}
	if s.taking != nil && s.taking.detached {
		// Traffic changes here, back to the foreign program.
		if err := s.putBack(); err != nil {
			return err
		}
		s.committed = false
		return nil
	}
	// Traffic changes here, back to the old program.
	err := s.link.UpdateArgs(link.RawLinkUpdateOptions{New: s.old, Old: s.new, Flags: unix.BPF_F_REPLACE})
	if err != nil && s.fresh {
		err = s.link.Detach() // it was made for this revision: without it the interface is as it was
	}
	if err != nil {
		return s.swapError(err)
	}
	s.committed = false
	if s.taking != nil && s.taking.unpinned {
		return s.unpinLink()
	}
	return nil
}

// Discard closes all descriptors, and removes what Stage made unless it was committed.
func (s *Staged) Discard() error {
	if s.committed {
		return s.close()
	}
	var errs []error
	if s.fresh && s.link != nil {
		errs = append(errs, s.link.Detach(), s.unpinLink())
	}
	if s.fresh {
		errs = append(errs, s.plane.remove(s.plane.revisionDir(s.device, 0)))
	}
	errs = append(errs, s.close(), s.plane.remove(s.plane.revisionDir(s.device, s.revision)))
	if names, err := readDir(s.plane.chainDir(s.device)); err == nil && len(names) == 0 {
		errs = append(errs, s.plane.remove(s.plane.chainDir(s.device)))
	}
	return errors.Join(errs...)
}

// Close closes all descriptors and leaves what is pinned to Resume.
func (s *Staged) Close() error { return s.close() }

func (s *Staged) close() error {
	var errs []error
	if s.link != nil {
		errs = append(errs, s.link.Close())
	}
	if s.taking != nil && s.taking.link != nil {
		errs = append(errs, s.taking.link.Close())
		s.taking.link = nil
	}
	errs = append(errs, s.new.Close(), s.old.Close()) // nil programs close well
	s.link, s.new, s.old = nil, nil, nil
	return errors.Join(errs...)
}

// build loads and pins a revision's dispatcher. The caller closes it, and removes dir on an error.
func (p *Plane) build(ctx context.Context, dir string, b blueprint) (_ *ebpf.Program, err error) {
	counters, err := newCounters()
	if err != nil {
		return nil, err
	}
	defer counters.Close()
	if err := failpoint.Err(failpoint.StageDispatcher); err != nil {
		return nil, err
	}
	b.counters = counters
	l, err := p.link(ctx, b)
	if err != nil {
		return nil, err
	}
	err = errors.Join(counters.Pin(filepath.Join(dir, "counters")), l.pin(dir))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pin dispatcher: %w", err), l.Close())
	}
	return l.prog, l.closeSlots()
}

// loaded is a dispatcher with its slots filled.
type loaded struct {
	prog  *ebpf.Program
	slots []link.Link // what holds the members in their slots, if the linker needs such
}

func slotPin(slot int) string { return fmt.Sprintf("slot-%02d", slot) }

// pin pins the dispatcher and its slots in folder dir.
func (l *loaded) pin(dir string) error {
	for i, held := range l.slots {
		if err := held.Pin(filepath.Join(dir, slotPin(i))); err != nil {
			return fmt.Errorf("slot %d: %w", i, err)
		}
	}
	return l.prog.Pin(filepath.Join(dir, "dispatcher"))
}

// Close lets go of all of it.
func (l *loaded) Close() error { return errors.Join(l.closeSlots(), l.prog.Close()) }

func (l *loaded) closeSlots() error {
	var errs []error
	for _, held := range l.slots {
		errs = append(errs, held.Close())
	}
	l.slots = nil
	return errors.Join(errs...)
}

// openLink opens the device's pinned link, if it has one, and the program that it runs.
func (s *Staged) openLink() error {
	held, info, err := s.plane.openLink(s.device)
	if held == nil || err != nil {
		return err
	}
	revision, err := s.plane.findRevision(s.device, info)
	if errors.Is(err, ErrGone) {
		return errors.Join(err, held.Close())
	}
	s.link = held
	if err != nil {
		return err
	}
	s.old, err = openDispatcher(s.plane.revisionDir(s.device, revision))
	if errors.Is(err, fs.ErrNotExist) { // somebody removed its pin
		s.old, err = programByID(info.program)
	}
	return err
}

// createLink attaches a transparent program, as revision 0, and pins its link.
func (s *Staged) createLink(mode chain.Mode, frags bool) error {
	var flags uint32
	if frags {
		flags = fragsFlag
	}
	s.fresh = true
	dir := s.plane.revisionDir(s.device, 0)
	if err := errors.Join(s.plane.remove(dir), mkdir(dir)); err != nil {
		return err
	}
	var err error
	if s.old, err = newTransparent(flags); err != nil {
		return err
	}
	if err := s.old.Pin(filepath.Join(dir, "dispatcher")); err != nil {
		return fmt.Errorf("pin transparent program: %w", err)
	}
	if err := failpoint.Err(failpoint.StageLink); err != nil {
		return err
	}
	if s.link, err = s.attachSoon(mode); err != nil {
		return err
	}
	if err := failpoint.Err(failpoint.StageAttached); err != nil {
		return err
	}
	return s.pinLink()
}

func (s *Staged) swapError(err error) error {
	switch {
	case s.taking != nil && (errors.Is(err, unix.ENOLINK) || errors.Is(err, unix.EPERM)):
		return s.untaken("somebody else changed the program of the interface at the same time (try again): %w", err)
	case errors.Is(err, unix.ENOLINK):
		return fmt.Errorf("%w: %v", ErrGone, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %v", ErrForeign, err)
	case errors.Is(err, unix.ERANGE):
		return chain.Errorf(chain.ModeUnsupported, chain.Facts{"error": err.Error()},
			"swap the interface's program: %w (its MTU is too large for a program without frags: build every member with SEC(\"xdp.frags\"))", err)
	}
	return chain.Errorf(chain.Kernel, chain.Facts{"error": err.Error()}, "swap the interface's program: %w", err)
}
