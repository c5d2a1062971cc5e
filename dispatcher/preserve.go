// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"
)

// preserve is called before the pin of a link is removed, or another one gets its place: if somebody pinned there the running
// link of another device, perhaps by its last pin, that device gets it. The kernel would take its program off the interface
// else. Its pin is moved then; where that is no such link nothing is done. On an error what is there must stay.
func (p *Plane) preserve(path string) error {
	held, err := pinnedXDP(path)
	if held == nil {
		return err // what is no link needs no other pin
	}
	defer held.Close()
	info, err := infoOf(held)
	if err != nil || info.ifindex == 0 {
		return err
	}
	owner, found, err := p.ownerOf(info)
	home := filepath.Join(p.chainDir(owner), "link")
	if err != nil || !found || home == path {
		return err
	}
	if err := mkdir(p.chainDir(owner)); err != nil {
		return err
	}
	err = held.Pin(home)
	if errors.Is(err, fs.ErrExist) {
		is, lookErr := describe(home)
		if lookErr == nil && is.kind == aLink && is.id == info.link {
			return nil
		}
		// Its place is taken as well. Whoever restores it there finds it as long as it has any pin.
		err = errors.Join(removeTree(home+unfinished), held.Pin(home+unfinished))
	}
	if err != nil {
		return fmt.Errorf("keep the link of another interface that is pinned at %s: %w", path, err)
	}
	return nil
}

// pinnedXDP opens the XDP link at path; nil if nothing is there, or something else. The caller closes it.
func pinnedXDP(path string) (xdpLink, error) {
	held, err := asXDP(link.LoadPinnedLink(path, nil))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return held, nil
	}
	if is, lookErr := describe(path); errors.Is(lookErr, fs.ErrNotExist) || lookErr == nil && is.like != "xdp" {
		return nil, nil
	}
	return nil, fmt.Errorf("open link: %w", err)
}

// Ran tells whether a program is a dispatcher of the device, as its pins tell, or was when these were learned.
func (p *Plane) Ran(d Device, program uint32) bool {
	owner, found := p.inventory.learnedOwner(program)
	if found && owner == d || p.Belongs(d, program) {
		return true
	}
	_, err := p.revisionByCounters(d, program)
	return err == nil
}

// learnedLink is the id of the device's link; 0: it was not learned.
func (p *Plane) learnedLink(d Device) uint32 {
	s := p.stock(p.chainDir(d))
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[filepath.Join(p.rel(p.chainDir(d)), "link")].id
}

// ownerOf finds the device whose link this is: its program is a revision of that, as was learned, or as pins tell. Where somebody
// put pins of one device into the folder of another, it is the one on whose interface the link is.
func (p *Plane) ownerOf(info linkInfo) (owner Device, found bool, err error) {
	if owner, found = p.inventory.learnedOwner(info.program); found {
		return owner, true, nil
	}
	devices, err := p.Devices()
	if err != nil {
		return Device{}, false, err
	}
	for _, d := range devices {
		switch {
		case !p.Belongs(d, info.program):
		case d.Ifindex == info.ifindex:
			return d, true, nil
		case !found:
			owner, found = d, true
		}
	}
	return owner, found, nil
}

// owns notes the dispatchers among the pins of a device.
func (in *inventory) owns(d Device, found map[string]pinned) {
	in.mu.Lock()
	defer in.mu.Unlock()
	maps.DeleteFunc(in.owners, func(_ uint32, owner Device) bool { return owner == d })
	for path, is := range found {
		if filepath.Base(path) == "dispatcher" && is.kind == aProgram {
			if in.owners == nil {
				in.owners = map[uint32]Device{}
			}
			in.owners[is.id] = d
		}
	}
}

// learnedOwner is the device of a dispatcher that was learned.
func (in *inventory) learnedOwner(program uint32) (owner Device, found bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	owner, found = in.owners[program]
	return owner, found
}

// learnedRevision finds the revision whose dispatcher had this id when it was learned.
func (p *Plane) learnedRevision(d Device, program uint32) (revision uint64, ok bool) {
	s := p.stock(p.chainDir(d))
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, was := range s.known {
		if filepath.Base(path) == "dispatcher" && was.id == program {
			return parseRevision(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, false
}

// learnedRevisions are the revisions of a device of which something is known.
func (p *Plane) learnedRevisions(d Device) (revisions []uint64) {
	s := p.stock(p.chainDir(d))
	s.mu.Lock()
	defer s.mu.Unlock()
	for path := range s.known {
		if rev, ok := parseRevision(filepath.Base(path)); ok {
			revisions = append(revisions, rev)
		}
	}
	return revisions
}

// strays are links of the device, whether they have pins or not. The caller closes them.
func (p *Plane) strays(d Device) ([]xdpLink, error) {
	return xdpLinks(func(info linkInfo) bool {
		owner, found := p.inventory.learnedOwner(info.program)
		if !found && p.Belongs(d, info.program) {
			owner, found, _ = p.ownerOf(info)
		}
		return found && owner == d
	})
}

// place calls put with a path, and gives what that makes the place of whatever is there.
func (p *Plane) place(path string, put func(path string) error) error {
	beside := path + unfinished
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return errors.Join(put(path), removeTree(beside))
	}
	if err := errors.Join(p.preserve(path), removeTree(beside), put(beside)); err != nil {
		return err
	}
	return os.Rename(beside, path)
}
