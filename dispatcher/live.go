// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/failpoint"
)

// Live is what runs on a device.
type Live struct {
	Revision uint64 // 0: the transparent program, or a dispatcher that has no pins any more
	KernelID uint32 // of the dispatcher program
	LinkID   uint32
	Ifindex  int // of the link: differs from the device's where the interface moved to another namespace
}

// Live finds what runs on a device: the revision whose program the pinned link reports. ErrGone: no link is
// pinned, or it is not attached any more; ErrForeign: it runs something else.
func (p *Plane) Live(d Device) (Live, error) {
	held, info, err := p.openLink(d)
	if err != nil {
		return Live{}, err
	}
	if held == nil {
		return Live{}, fmt.Errorf("%w: there is no pin of it", ErrGone)
	}
	defer held.Close()
	revision, err := p.findRevision(d, info)
	return Live{revision, info.program, info.link, info.ifindex}, err
}

// Belongs tells whether a program is one of the device's revisions that are pinned.
func (p *Plane) Belongs(d Device, program uint32) bool {
	_, err := p.pinnedRevision(d, program)
	return err == nil
}

// Revisions are the numbers that have pins on a device, sorted.
func (p *Plane) Revisions(d Device) ([]uint64, error) {
	names, err := readDir(p.chainDir(d))
	var revisions []uint64
	for _, name := range names {
		if rev, ok := parseRevision(name); ok {
			revisions = append(revisions, rev)
		}
	}
	slices.Sort(revisions)
	return revisions, err
}

// parseRevision is the revision of a folder.
func parseRevision(name string) (uint64, bool) {
	n, ok := strings.CutPrefix(name, "rev-")
	rev, err := strconv.ParseUint(n, 10, 64)
	return rev, ok && err == nil
}

// Counters reads what a revision counted, summed over the CPUs. An absent revision gives fs.ErrNotExist.
func (p *Plane) Counters(d Device, revision uint64) (chain.Exits, error) {
	var sum chain.Exits
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.revisionDir(d, revision), "counters"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return sum, fmt.Errorf("open counters of revision %d: %w", revision, err)
	}
	defer m.Close()
	for cpu := range m.MaxEntries() {
		var one chain.Exits
		if err := m.Lookup(cpu, &one); err != nil {
			return sum, fmt.Errorf("read counters of revision %d: %w", revision, err)
		}
		sum.Add(&one)
	}
	return sum, nil
}

// Prune removes the pins of all revisions but live, and of those in counted all but their counters.
func (p *Plane) Prune(d Device, live uint64, counted []uint64) error {
	revisions, err := p.Revisions(d)
	errs := []error{err}
	revisions = append(revisions, p.learnedRevisions(d)...) // somebody may have removed one
	slices.Sort(revisions)
	var needless []string
	for _, rev := range slices.Compact(revisions) {
		dir := p.revisionDir(d, rev)
		switch {
		case rev == live:
		case slices.Contains(counted, rev):
			p.forget(dir)
			names, err := readDir(dir)
			errs = append(errs, err)
			for _, name := range names {
				if name != "counters" {
					needless = append(needless, filepath.Join(dir, name))
				}
			}
		default:
			needless = append(needless, dir)
		}
	}
	if len(needless) > 0 {
		failpoint.Hit(failpoint.UnpinBefore)
		for _, path := range needless {
			errs = append(errs, p.remove(path))
		}
		failpoint.Hit(failpoint.UnpinAfter)
	}
	return errors.Join(errs...)
}

// Detach takes the device's program off the interface at once and removes all pins of the device. An absent
// one is fine, so is an interface that is gone, and a link whose pin somebody moved or removed.
func (p *Plane) Detach(d Device) error {
	held, err := pinnedXDP(filepath.Join(p.chainDir(d), "link"))
	if err != nil {
		return err
	}
	own := false
	if held != nil {
		own, err = p.detachOwn(d, held)
		if err := errors.Join(err, held.Close()); err != nil {
			return fmt.Errorf("detach link: %w", err)
		}
	}
	var stray error
	if !own {
		stray = p.detachStray(d)
	}
	return errors.Join(stray, p.remove(p.chainDir(d)))
}

// detachOwn detaches a device's link, unless it is another device's that somebody pinned in its place, and which that gets, or
// a stranger's.
func (p *Plane) detachOwn(d Device, held xdpLink) (own bool, err error) {
	info, err := infoOf(held)
	if err != nil {
		return false, err
	}
	if info.ifindex == 0 || info.link == p.learnedLink(d) {
		return true, p.detach(held)
	}
	owner, found, err := d, true, error(nil)
	switch {
	case info.ifindex != d.Ifindex || !p.Belongs(d, info.program):
		owner, found, err = p.ownerOf(info)
	case p.copied(d, info.program):
		return true, nil // with the last copy it is detached
	}
	switch {
	case err != nil:
		return false, err
	case found && owner != d:
		return false, p.preserve(filepath.Join(p.chainDir(d), "link"))
	case !found && info.ifindex != d.Ifindex:
		return false, nil
	}
	return true, p.detach(held)
}

// copied tells whether somebody copied the pins of a device's program to another device of the same index.
func (p *Plane) copied(d Device, program uint32) bool {
	devices, err := p.Devices()
	return err == nil && slices.ContainsFunc(devices, func(other Device) bool {
		return other != d && other.Ifindex == d.Ifindex && p.Belongs(other, program)
	})
}

// detachStray detaches a link of the device that lives on without its pin. One that was not learned is not looked for without the
// privilege to do so.
func (p *Plane) detachStray(d Device) error {
	found, err := p.strays(d)
	if errors.Is(err, unix.EPERM) && p.learnedLink(d) == 0 {
		return nil
	}
	errs := []error{err}
	for _, l := range found {
		errs = append(errs, p.detach(l), l.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach the link of %s, which has no pin any more: %w", filepath.Base(p.chainDir(d)), err)
	}
	return nil
}

func (p *Plane) detach(held xdpLink) error {
	failpoint.Hit(failpoint.DetachBefore)
	// Traffic changes here: the interface has no XDP program any more.
	if err := held.Detach(); err != nil {
		return err
	}
	failpoint.Hit(failpoint.DetachAfter)
	return nil
}

// Quiesce returns when every packet that was inside a program when it was called has left it, on all CPUs.
// XDP programs run in RCU read-side sections. An update of a map of maps waits for those that run, so that
// the map that was there is not used any more (Linux 4.20, 1ae80cf31938).
func Quiesce() error {
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return fmt.Errorf("wait for packets in flight: %w", err)
	}
	defer outer.Close()
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return fmt.Errorf("wait for packets in flight: %w", err)
	}
	defer m.Close()
	if err := outer.Put(uint32(0), m); err != nil {
		return fmt.Errorf("wait for packets in flight: %w", err)
	}
	return nil
}

// xdpLink is what a link of an interface can do.
type xdpLink interface {
	link.Link
	UpdateArgs(link.RawLinkUpdateOptions) error
	Detach() error
}

func asXDP(l link.Link, err error) (xdpLink, error) {
	if err != nil {
		return nil, err
	}
	if x, ok := l.(xdpLink); ok {
		return x, nil
	}
	return nil, errors.Join(errors.New("it is not an XDP link"), l.Close())
}

type linkInfo struct {
	program, link uint32
	ifindex       int
}

// openLink opens the device's link; nil if none is pinned. The caller closes it.
func (p *Plane) openLink(d Device) (xdpLink, linkInfo, error) {
	pinned, err := asXDP(link.LoadPinnedLink(filepath.Join(p.chainDir(d), "link"), nil))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, linkInfo{}, nil
	}
	if err != nil {
		return nil, linkInfo{}, fmt.Errorf("open link: %w", err)
	}
	info, err := infoOf(pinned)
	if err == nil && info.ifindex == 0 {
		err = ErrGone
	}
	if err != nil {
		return nil, linkInfo{}, errors.Join(err, pinned.Close())
	}
	return pinned, info, nil
}

func infoOf(l xdpLink) (linkInfo, error) {
	info, err := l.Info()
	if err != nil {
		return linkInfo{}, fmt.Errorf("look at link: %w", err)
	}
	xdp := info.XDP()
	if xdp == nil {
		return linkInfo{}, errors.New("look at link: it is not an XDP link")
	}
	return linkInfo{uint32(info.Program), uint32(info.ID), int(xdp.Ifindex)}, nil
}

// findRevision finds the revision of a program id: one that is pinned, or was when its pins were learned. A dispatcher on a link
// of ours of which somebody removed all pins while nobody knew them has revision 0: it is ours, and there is no more of it.
// ErrGone: somebody pinned another device's link in the place of this one's.
func (p *Plane) findRevision(d Device, info linkInfo) (uint64, error) {
	of := func(owner Device, found bool) bool { return found && owner != d }
	another := fmt.Errorf("%w: what is pinned is the link of another interface", ErrGone)
	if info.ifindex != d.Ifindex && of(p.inventory.learnedOwner(info.program)) {
		return 0, another
	}
	revision, err := p.pinnedRevision(d, info.program)
	if !errors.Is(err, ErrForeign) {
		return revision, err
	}
	if learned, ok := p.learnedRevision(d, info.program); ok {
		return learned, nil
	}
	owner, found, ownerErr := p.ownerOf(info)
	own := p.learnedLink(d)
	switch {
	case ownerErr != nil:
		return 0, ownerErr
	case of(owner, found):
		return 0, another
	case !isDispatcher(info.program):
		return 0, err
	case own != 0 && own != info.link:
		return 0, another
	case info.ifindex != d.Ifindex:
		return 0, fmt.Errorf("%w: what is pinned is a link of interface %d", ErrGone, info.ifindex)
	}
	return 0, nil
}

func (p *Plane) pinnedRevision(d Device, program uint32) (uint64, error) {
	revisions, err := p.Revisions(d)
	if err != nil {
		return 0, err
	}
	for _, rev := range revisions {
		is, err := describe(filepath.Join(p.revisionDir(d, rev), "dispatcher"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("look at revision %d: %w", rev, err)
		}
		if is.kind == aProgram && is.id == program { // somebody may have put something else there
			return rev, nil
		}
	}
	return 0, fmt.Errorf("%w: program %d", ErrForeign, program)
}

func openDispatcher(dir string) (*ebpf.Program, error) {
	prog, err := ebpf.LoadPinnedProgram(filepath.Join(dir, "dispatcher"), nil)
	if err != nil {
		return nil, fmt.Errorf("open dispatcher: %w", err)
	}
	return prog, nil
}
