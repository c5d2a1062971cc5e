// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"
)

// preserve is called before the pin of a link is removed, or another one gets its place: if somebody pinned there the running
// link of another device, perhaps by its last pin, that device gets it. The kernel would take its program off the interface
// else. What is there is not touched; where that is no such link nothing is done.
func (p *Plane) preserve(path string) error {
	held, err := asXDP(link.LoadPinnedLink(path, nil))
	if err != nil {
		return nil // what is no link of ours needs no other pin
	}
	defer held.Close()
	info, err := infoOf(held)
	if err != nil || info.ifindex == 0 {
		return err
	}
	owner, found, err := p.ownerOf(info.program)
	home := filepath.Join(p.chainDir(owner), "link")
	if err != nil || !found || home == path {
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

// ownerOf finds the device of which a program is a revision.
func (p *Plane) ownerOf(program uint32) (owner Device, found bool, err error) {
	devices, err := p.Devices()
	if err != nil {
		return Device{}, false, err
	}
	for _, d := range devices {
		if p.Belongs(d, program) {
			return d, true, nil
		}
	}
	return Device{}, false, nil
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
