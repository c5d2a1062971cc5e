// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// Foreign is a program of somebody else.
type Foreign struct {
	ID      uint32
	Name    string // as the kernel has it
	Mode    chain.Mode
	Swapped bool // the commit is one swap; else the device has no program for a moment. A commit may find out that it is none
}

// A foreign program is replaced in one of three ways:
//
//   - It runs in the link that is pinned as ours: the commit is the usual one.
//   - It runs in a link of somebody else, and stays in the mode that it has: that link gets our program by the same
//     compare-and-swap, and then a pin of ours. If the process dies between the two, the link runs a pinned revision
//     without being pinned itself, which is what Restore looks for. The other order would leave a foreign program in
//     a link that is pinned as ours. Whoever made the link still has it, and may do with it what he likes.
//   - It was attached by netlink, which no link can replace, or the mode is another one: it is detached, and a link
//     made. Between these the device has no program.

// taking is how a foreign program is replaced.
type taking struct {
	unpinned bool    // Staged.link is somebody else's: it has no pin of ours before the commit
	link     xdpLink // which is to be detached; nil: the program was attached by netlink, or is swapped
	hooked   bool    // it was attached by netlink, and is to be detached there
	detached bool    // it is
}

// take finds out how the foreign program in plan.Holder is to be replaced, and opens what that takes. Where it runs in
// our own link, s.link is that. Nothing is changed, and what can be refused is refused here.
func (s *Staged) take() error {
	plan := &s.plan
	if plan.Hook == nil || plan.Unhook == nil {
		return errors.New("take over: the plan says nothing of how to attach and detach by netlink")
	}
	if plan.HolderMode != chain.Native && plan.HolderMode != chain.Generic {
		return s.untaken("it is attached in mode %s, and only programs in native or generic mode can be replaced", plan.HolderMode)
	}
	var err error
	if s.old, err = programByID(plan.Holder); err != nil {
		return s.untaken("look at it: %w", err)
	}
	info, err := s.old.Info()
	if err != nil {
		return s.untaken("look at it: %w", err)
	}
	s.taking = &taking{}
	s.Took = &Foreign{ID: plan.Holder, Name: info.Name, Mode: plan.HolderMode}
	if s.link != nil {
		s.Took.Swapped = true
		return nil
	}
	s.Actual = plan.Mode
	if plan.Mode == chain.Auto || plan.Mode == "" {
		s.Actual = plan.HolderMode
		if s.Actual == chain.Generic {
			s.ModeReason = "the program that was there before ran in generic mode"
		}
	}
	linked, err := s.holderHasLink()
	switch {
	case err != nil:
		return err
	case !linked:
		s.taking.hooked = true
		return nil
	}
	held, err := s.holderLink()
	if err != nil {
		return err
	}
	if s.Actual != plan.HolderMode {
		s.taking.link = held
		return nil
	}
	s.link, s.taking.unpinned, s.Took.Swapped = held, true, true
	return nil
}

// untaken says why the foreign program cannot be taken over.
func (s *Staged) untaken(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return chain.Errorf(chain.TakeoverFailed, chain.Facts{"holder_id": strconv.FormatUint(uint64(s.plan.Holder), 10), "error": err.Error()},
		"take over from the foreign program %d: %w", s.plan.Holder, err)
}

// holderHasLink tells whether the foreign program runs in a link; else it was attached by netlink. The kernel is asked
// over netlink to detach a program that cannot be there, ours, which it refuses for one of two reasons.
func (s *Staged) holderHasLink() (bool, error) {
	err := s.in(func() error { return s.plan.Unhook(s.new.FD()) })
	switch {
	case errors.Is(err, unix.EBUSY):
		return true, nil
	case errors.Is(err, unix.EEXIST):
		return false, nil
	case errors.Is(err, unix.ENODEV):
		return false, chain.Errorf(chain.InterfaceNotFound, nil, "look at the foreign program: %w", err)
	case err == nil:
		return false, s.untaken("the kernel detached a program that was not there")
	}
	return false, s.untaken("ask how it is attached: %w", err)
}

// holderLink finds the link that the foreign program runs in. The caller closes it.
//
// The kernel tells a link's interface by index only, which another namespace may have too: where the program runs in
// several links of that index, none of them is touched.
func (s *Staged) holderLink() (xdpLink, error) {
	found, err := xdpLinks(func(info linkInfo) bool {
		return info.program == s.plan.Holder && info.ifindex == s.device.Ifindex
	})
	if err != nil {
		return nil, s.untaken("look for its link: %w", err)
	}
	if len(found) == 1 {
		return found[0], nil
	}
	for _, l := range found {
		l.Close()
	}
	if len(found) == 0 {
		return nil, s.untaken("its link is gone: somebody else changes it at this moment (try again)")
	}
	return nil, s.untaken("it runs on %d interfaces with the index %d, in several network namespaces, and the kernel does not say which link is whose (detach it there by the tool that attached it)",
		len(found), s.device.Ifindex)
}

// supplant puts the revision in the place of a program that cannot be swapped. On an error that program is back, or
// the error says that it is not.
func (s *Staged) supplant() error {
	// Traffic changes here: the interface has no program until the link is made.
	if err := s.detachHolder(); err != nil {
		return s.untaken("detach it: %w", err)
	}
	s.taking.detached = true
	held, err := s.attachAs(s.new, s.Actual)
	if err != nil {
		return errors.Join(s.untaken("attach in its place in %s mode: %w", s.Actual, attachError(s.Actual, err)), s.putBack())
	}
	s.link = held
	if err := s.pinLink(); err != nil {
		return errors.Join(err, s.putBack())
	}
	s.committed = true
	return nil
}

// detachHolder detaches the foreign program, if it is still the one.
func (s *Staged) detachHolder() error {
	if s.taking.hooked {
		return s.in(func() error { return s.plan.Unhook(s.old.FD()) })
	}
	info, err := infoOf(s.taking.link)
	if err != nil {
		return err
	}
	if info.program != s.plan.Holder {
		return fmt.Errorf("its link runs program %d now (try again)", info.program)
	}
	return s.taking.link.Detach()
}

// putBack attaches the foreign program again, in place of ours if that is there. What had a link comes back without:
// a link that was detached cannot be attached again.
func (s *Staged) putBack() error {
	if s.link != nil {
		if err := errors.Join(s.unpinLink(), s.link.Detach()); err != nil {
			return fmt.Errorf("detach link: %w", err)
		}
		_ = s.link.Close() // it is attached to nothing
		s.link = nil
	}
	if err := s.in(func() error { return s.plan.Hook(s.old.FD()) }); err != nil {
		return s.untaken("attach it again: %w (the interface has no program now)", err)
	}
	s.taking.detached, s.taking.hooked = false, true
	return nil
}

// pinLink pins the link as ours.
func (s *Staged) pinLink() error {
	path := filepath.Join(s.plane.chainDir(s.device), "link")
	s.plane.forget(path)
	if err := s.link.Pin(path); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	return nil
}

// unpinLink lets whoever made the link have it alone again.
func (s *Staged) unpinLink() error {
	return s.plane.remove(filepath.Join(s.plane.chainDir(s.device), "link"))
}

// programByID opens any program. Without CAP_SYS_ADMIN the error says so.
func programByID(id uint32) (*ebpf.Program, error) {
	prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return nil, byID("program", id, err)
	}
	return prog, nil
}

// byID explains that something could not be opened by its id.
func byID(what string, id uint32, err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("open %s %d, which has no pin: %w (it needs CAP_SYS_ADMIN)", what, id, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s %d is not in the kernel any more: %w", what, id, err)
	}
	return fmt.Errorf("open %s %d: %w", what, id, err)
}

// xdpLinks are the XDP links of the host that match. The caller closes them.
func xdpLinks(match func(linkInfo) bool) (found []xdpLink, err error) {
	links := new(link.Iterator)
	defer links.Close()
	for links.Next() {
		l, ok := links.Link.(xdpLink)
		if !ok {
			continue
		}
		if info, err := infoOf(l); err == nil && match(info) {
			links.Take()
			found = append(found, l)
		}
	}
	err = links.Err()
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w (it needs CAP_SYS_ADMIN)", err)
	}
	if err != nil {
		for _, l := range found {
			l.Close()
		}
		return nil, err
	}
	return found, nil
}
