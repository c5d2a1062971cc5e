// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/pin"

	"github.com/xdpd/xdpd/chain"
)

// trace finds what a pin that was never learned was of. ErrLost: nobody knows.
func (p *Plane) trace(d Device, path string) (pinned, error) {
	switch filepath.Base(path) {
	case "link":
		return p.traceLink(d)
	case "dispatcher":
		held, info, err := p.openLink(d)
		if held == nil {
			return pinned{}, errors.Join(ErrLost, err)
		}
		defer held.Close()
		prog, err := programByID(info.program)
		if err != nil {
			return pinned{}, err
		}
		defer prog.Close()
		return unlearned(prog)
	case "counters":
		return traceCounters(filepath.Dir(filepath.Join(p.root, path)))
	}
	return pinned{}, ErrLost
}

// unlearned is a pin of an object, as this package makes them.
func unlearned(object pin.Pinner) (pinned, error) {
	is := pinned{mode: 0o600, gid: os.Getegid()}
	return is, is.of(object)
}

// traceLink finds the link that runs a pinned revision of the device. It may be one of which somebody else has a
// descriptor, or that was taken over a moment ago.
func (p *Plane) traceLink(d Device) (pinned, error) {
	found, err := xdpLinks(func(info linkInfo) bool {
		if info.ifindex != d.Ifindex {
			return false
		}
		_, err := p.pinnedRevision(d, info.program)
		return err == nil
	})
	if err != nil {
		return pinned{}, fmt.Errorf("look for a link without a pin: %w", err)
	}
	if len(found) == 0 {
		return pinned{}, ErrLost
	}
	is, err := unlearned(found[0])
	for _, l := range found {
		err = errors.Join(err, l.Close())
	}
	return is, err
}

// traceCounters finds the counters of the dispatcher in folder dir.
func traceCounters(dir string) (pinned, error) {
	prog, err := openDispatcher(dir)
	if err != nil {
		return pinned{}, err
	}
	defer prog.Close()
	found, err := countersOf(prog)
	if err != nil {
		return pinned{}, err
	}
	if len(found) != 1 {
		return pinned{}, ErrLost
	}
	return found[0], nil
}

// countersOf are the counters that a dispatcher uses; another program has none.
func countersOf(prog *ebpf.Program) (found []pinned, err error) {
	used, err := mapsOf(prog)
	if err != nil {
		return nil, err
	}
	for _, id := range used {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, byID("map", uint32(id), err)
		}
		info, err := m.Info()
		is, notErr := unlearned(m)
		if err := errors.Join(err, notErr, m.Close()); err != nil {
			return nil, err
		}
		if info.Name == countersName && info.Type == ebpf.Array && int(info.ValueSize) == binary.Size(chain.Exits{}) {
			found = append(found, is)
		}
	}
	return found, nil
}

// isDispatcher tells whether a program is a dispatcher, of which no pins need to be known.
func isDispatcher(program uint32) bool {
	prog, err := programByID(program)
	if err != nil {
		return false
	}
	defer prog.Close()
	found, err := countersOf(prog)
	return err == nil && len(found) == 1
}

// revisionByCounters finds the revision whose counters a program uses: it is the dispatcher of that one. ErrLost: none.
func (p *Plane) revisionByCounters(d Device, program uint32) (uint64, error) {
	prog, err := programByID(program)
	if err != nil {
		return 0, err
	}
	defer prog.Close()
	used, err := mapsOf(prog)
	if err != nil {
		return 0, err
	}
	revisions, err := p.Revisions(d)
	if err != nil {
		return 0, err
	}
	for _, rev := range revisions {
		counters, err := describe(filepath.Join(p.revisionDir(d, rev), "counters"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if slices.Contains(used, ebpf.MapID(counters.id)) {
			return rev, nil
		}
	}
	return 0, ErrLost
}

func mapsOf(prog *ebpf.Program) ([]ebpf.MapID, error) {
	info, err := prog.Info()
	if err != nil {
		return nil, fmt.Errorf("look at the maps of dispatcher: %w", err)
	}
	used, _ := info.MapIDs()
	return used, nil
}
