// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// attached is the id of the XDP program that the kernel's network side names for an interface; 0: none.
func (h *host) attached(iface string) (id uint32) {
	h.Helper()
	ns, name := h.at(iface)
	nettest.RunIn(ns, func() {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return // an interface that is gone has none
		}
		if x := l.Attrs().Xdp; x != nil && x.Attached {
			id = x.ProgId
		}
	})
	return id
}

// bare waits until an interface has no XDP program. The kernel forgets a link before it takes its program away, and does
// both some time after the last pin went.
func (h *host) bare(iface string) {
	h.Helper()
	h.eventually("interface "+iface+" has no XDP program", func() bool { return h.attached(iface) == 0 })
}

// compareKernel compares what the kernel says with the API's answers, and notes all ids for later.
func (l *look) compareKernel() {
	l.Helper()
	for _, c := range l.chains {
		folder := filepath.Join(l.host.pins, l.device(c.GetInterface()).folder())
		pinned, err := link.LoadPinnedLink(filepath.Join(folder, "link"), nil)
		if err != nil {
			l.Fatal(err)
		}
		info, err := pinned.Info()
		pinned.Close()
		if err != nil {
			l.Fatal(err)
		}
		revision := filepath.Join(folder, fmt.Sprint("rev-", c.GetRevision()))
		dispatcher, _ := l.programAt(filepath.Join(revision, "dispatcher"))
		switch {
		case uint32(info.ID) != c.GetLinkId(), uint32(info.Program) != c.GetKernelId(), info.XDP().Ifindex != c.GetIfindex():
			l.Errorf("the kernel says of the link of %s: %+v %+v, the API: %v", c.GetInterface(), info, info.XDP(), c)
		case dispatcher != c.GetKernelId():
			l.Errorf("revision %d of %s has program %d pinned, and %d runs", c.GetRevision(), c.GetInterface(), dispatcher, c.GetKernelId())
		case l.attached(c.GetInterface()) != c.GetKernelId():
			l.Errorf("interface %s has program %d, the API says %d", c.GetInterface(), l.attached(c.GetInterface()), c.GetKernelId())
		}
		l.checkSlots(c, revision)
	}
	for iface := range l.wires {
		if _, known := l.model.chains[iface]; !known {
			l.bare(iface)
		}
	}
	l.note()
}

// checkSlots looks that each slot's link holds the program of the member that it is for.
func (l *look) checkSlots(c *xdpdv1.Chain, revision string) {
	l.Helper()
	if c.GetLinker() != xdpdv1.Linker_LINKER_FREPLACE {
		return
	}
	for _, m := range c.GetMembers() {
		if m.Slot == nil {
			continue
		}
		p := l.program(m.GetProgram())
		pinned, err := link.LoadPinnedLink(filepath.Join(revision, fmt.Sprintf("slot-%02d", m.GetSlot())), nil)
		if err != nil {
			l.Fatal(err)
		}
		info, err := pinned.Info()
		pinned.Close()
		if err != nil {
			l.Fatal(err)
		}
		if uint32(info.Program) != p.GetKernelId() || info.Program == 0 {
			l.Errorf("slot %d of %s has program %d, want %d of %s", m.GetSlot(), c.GetInterface(), info.Program, p.GetKernelId(), m.GetProgram())
		}
	}
}

// programAt returns the id of a pinned program, and the ids of its maps.
func (h *host) programAt(path string) (id uint32, maps []ebpf.MapID) {
	h.Helper()
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		h.Fatal(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		h.Fatal(err)
	}
	of, _ := info.ID()
	maps, _ = info.MapIDs()
	return uint32(of), maps
}

// note keeps the ids of all that is pinned, to look for them when it should be gone, and looks for those that are
// not pinned any more.
func (h *host) note() {
	h.Helper()
	ids := newKernelIDs()
	for _, path := range h.pinned() {
		path = filepath.Join(h.pins, path)
		switch name := filepath.Base(path); {
		case name == "prog" || name == "dispatcher":
			id, used := h.programAt(path)
			ids.programs[id] = true
			for _, m := range used {
				ids.maps[uint32(m)] = true
			}
		case name == "counters" || filepath.Base(filepath.Dir(path)) == "maps":
			m, err := ebpf.LoadPinnedMap(path, nil)
			if err != nil {
				h.Fatal(err)
			}
			if info, err := m.Info(); err == nil {
				id, _ := info.ID()
				ids.maps[uint32(id)] = true
			}
			m.Close()
		case name == "link" || strings.HasPrefix(name, "slot-"):
			l, err := link.LoadPinnedLink(path, nil)
			if err != nil {
				h.Fatal(err)
			}
			if info, err := l.Info(); err == nil {
				ids.links[uint32(info.ID)] = true
			}
			l.Close()
		}
	}
	gone := newKernelIDs()
	gone.add(h.ids)
	gone.drop(ids)
	for _, l := range gone.alive(patience) {
		h.Errorf("left in the kernel: %s", l)
	}
	h.ids.add(ids)
	seenMu.Lock()
	defer seenMu.Unlock()
	seen.add(ids)
}

// checkDescriptors fails the test if the daemon, which is at rest, holds anything of BPF.
func (h *host) checkDescriptors() {
	h.Helper()
	var held []string
	h.eventually("the daemon holds no BPF descriptor", func() bool {
		held = nil
		dir := fmt.Sprintf("/proc/%d/fd", h.d.cmd.Process.Pid)
		entries, err := os.ReadDir(dir)
		if err != nil {
			h.Fatal(err)
		}
		for _, e := range entries {
			if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.Contains(to, "bpf") && strings.HasPrefix(to, "anon_inode:") {
				held = append(held, to)
			}
		}
		return len(held) == 0
	})
}
