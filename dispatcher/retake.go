// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/pin"
	"golang.org/x/sys/unix"
)

// Folder tells whether the folder for pins is the one that was opened, and in a BPF FS: it takes a few stats. An
// ErrFolderLost says what became of it and what to do. The two folders in it are made again if somebody removed them.
func (p *Plane) Folder() error {
	p.own.Lock()
	defer p.own.Unlock()
	locked, err := p.lock.Stat()
	if err != nil {
		return fmt.Errorf("look at the folder for pins: %w", err)
	}
	now, err := os.Lstat(p.root)
	if err == nil && os.SameFile(locked, now) {
		return p.frame()
	}
	if fsErr := p.inBPFFS(); fsErr != nil {
		return fmt.Errorf("%w: its BPF FS was unmounted: %v", ErrFolderLost, fsErr)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: somebody removed or renamed %s, or mounted another BPF FS there", ErrFolderLost, p.root)
	case err != nil:
		return fmt.Errorf("look at the folder for pins: %w", err)
	}
	return fmt.Errorf("%w: somebody put another one in the place of %s (if that is not empty, remove it)", ErrFolderLost, p.root)
}

// Retake makes and locks the folder for pins anew after an ErrFolderLost, and pins in there what can still be had of the
// pins before: all of those in a folder that was renamed, or whose BPF FS was unmounted or mounted over, so that no
// packet is lost; and what was learned and is alive though its pin was removed, which takes CAP_SYS_ADMIN to know. It
// returns the number of these pins. What is left of the old folder is emptied.
//
// On an error the old folder stays locked, and nothing of a new one is left. It needs a BPF FS at the place, and refuses a
// folder there that is not empty. Nothing else of the plane may be called meanwhile.
func (p *Plane) Retake() (rescued int, err error) {
	lost := p.Folder()
	if !errors.Is(lost, ErrFolderLost) {
		return 0, lost
	}
	p.own.Lock()
	defer p.own.Unlock()
	if err := p.inBPFFS(); err != nil {
		return 0, fmt.Errorf("%w: %v", ErrFolderLost, err)
	}
	_ = unix.Rmdir(p.root) // one that is empty may have any mode
	_, err = os.Lstat(p.root)
	made := errors.Is(err, fs.ErrNotExist)
	next, err := lockFolder(p.root)
	if err != nil {
		return 0, fmt.Errorf("%w, and cannot be made anew: %w", ErrFolderLost, err)
	}
	if names, err := readDir(p.root); err != nil || len(names) > 0 {
		return 0, errors.Join(fmt.Errorf("%w: another one is in the place of %s, and is not empty: remove it", ErrFolderLost, p.root), err, next.Close())
	}
	old := p.opened()
	if rescued, err = p.rescue(old); err != nil {
		errs := []error{err, empty(p.root)}
		if made {
			errs = append(errs, os.Remove(p.root))
		}
		return 0, errors.Join(append(errs, next.Close())...)
	}
	rescued += p.rescueLearned()
	// The pins in the new folder own all of it now. What cannot be removed here does not matter to it.
	_ = p.leave()
	_ = p.lock.Close()
	p.lock = next
	return rescued, nil
}

// opened is a path to the folder that was opened, wherever it is now.
func (p *Plane) opened() string { return fmt.Sprintf("/proc/self/fd/%d", p.lock.Fd()) }

// leave empties the folder that was opened and lost, and removes it if it was renamed.
func (p *Plane) leave() error {
	err := empty(p.opened())
	path, linkErr := os.Readlink(p.opened())
	locked, statErr := p.lock.Stat()
	if there, gone := os.Lstat(path); linkErr == nil && statErr == nil && gone == nil && os.SameFile(locked, there) {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// rescue pins in the new folder all that is pinned in the old one.
func (p *Plane) rescue(old string) (rescued int, err error) {
	if err := p.frame(); err != nil {
		return 0, err
	}
	// A link as the root would not be followed.
	err = filepath.WalkDir(old+"/.", func(from string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // what was removed cannot be listed
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(old, from)
		if err != nil {
			return err
		}
		is, err := describe(from)
		if err == nil {
			err = is.copy(from, filepath.Join(p.root, rel))
		}
		if err != nil {
			return fmt.Errorf("pin %s in the new folder: %w", rel, err)
		}
		if is.id != 0 {
			rescued++
		}
		return nil
	})
	return rescued, err
}

// copy makes an entry at another path; a folder may be there.
func (was pinned) copy(from, to string) error {
	switch was.kind {
	case aFolder:
		if err := mkdir(to); err != nil {
			return err
		}
	case aSymlink:
		return os.Symlink(was.like, to)
	default:
		object, err := pin.Load(from, nil)
		if err != nil {
			return err
		}
		defer object.Close()
		if err := object.Pin(to); err != nil {
			return err
		}
	}
	return was.dress(to)
}

// rescueLearned pins what was learned of and is not there, as far as it is alive, and returns the number of these pins.
// What is not stays missing, which Damage tells.
func (p *Plane) rescueLearned() (rescued int) {
	devices, programs := p.learned()
	restore := func(restored []string, _ error) {
		for _, path := range restored {
			if info, err := os.Lstat(filepath.Join(p.root, path)); err == nil && info.Mode().IsRegular() {
				rescued++
			}
		}
	}
	for _, id := range programs {
		restore(p.RestoreProgram(id))
	}
	for _, d := range devices {
		restore(p.Restore(d))
	}
	return rescued
}

// empty removes all that is in a folder.
func empty(dir string) error {
	names, err := readDir(dir)
	errs := []error{err}
	for _, name := range names {
		errs = append(errs, removeTree(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

// inBPFFS makes sure that the folder is in a BPF FS, or would be.
func (p *Plane) inBPFFS() error {
	parent := filepath.Dir(p.root)
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil {
		return fmt.Errorf("look at %s for the pins of xdpd: %w (mount one: mount -t bpf bpf /sys/fs/bpf)", parent, err)
	}
	if uint32(st.Type) != bpffsMagic {
		return fmt.Errorf("%s is not in a BPF FS (mount one: mount -t bpf bpf /sys/fs/bpf)", p.root)
	}
	return nil
}
