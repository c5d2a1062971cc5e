// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// Everything that the daemon does works in the sandbox of the units, with both linkers.
func TestSandbox(t *testing.T) {
	h := newHost(t)
	h.configure("socket_group: users\nlinker: freplace\n")
	h.start()
	if got := h.status().GetLinker(); got != xdpdv1.Linker_LINKER_FREPLACE {
		h.Fatalf("the linker is %v", got)
	}
	h.asMember()
	h.useMaps()
	h.check("blocklist", "shown")

	// A reload keeps what runs, and links anew by the other linker what is changed.
	h.configure("socket_group: users\nlinker: inline\n")
	untouched := h.wantUntouched()
	h.reload()
	h.wait("the linker to be inline", func() bool { return h.status().GetLinker() == xdpdv1.Linker_LINKER_INLINE },
		func() string { return h.status().GetLinker().String() })
	untouched()
	h.xdpctl("set", "shown", "--interface", dev, "--first")
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev, "--last")
	h.check("shown", "blocklist", "pass")
	h.refusedElsewhere()
	h.foreignIsANumber()
	h.stop()
}

// users is a group of every Debian.
const users = 100

// asMember uses the daemon as somebody who is in the group of the socket, and tries it as one who is not.
func (h *host) asMember() {
	h.Helper()
	member := &syscall.Credential{Uid: 1000, Gid: 1000, Groups: []uint32{users}}
	if _, err := runAs(member, "xdpctl", "add", "/t/"+object("blocklist"), "--name", "blocklist", "--interface", dev); err != nil {
		h.Error(err)
	}
	_, err := runAs(&syscall.Credential{Uid: 1000, Gid: 1000}, "xdpctl", "ls")
	h.wantStatus(err, 3)
}

// useMaps adds a program with settings and a group for its maps, and sends a packet through it off the wire.
func (h *host) useMaps() {
	h.Helper()
	h.xdpctl("add", object("settings"), "--function", "show", "--name", "shown", "--interface", dev, "--map-group", "users",
		"--max-entries", "table=16", "--set", "limit=42")
	got, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: "shown"})
	if err != nil {
		h.Fatal(err)
	}
	for _, m := range got.GetProgram().GetMaps() {
		info, err := os.Stat(m.GetPin())
		if err != nil {
			h.Fatal(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Gid != users || info.Mode().Perm() != 0o660 {
			h.Errorf("the pin of map %s has group %d and mode %v, want %d and 0660", m.GetName(), st.Gid, info.Mode(), users)
		}
	}
	out := h.xdpctl("trace", dev, "--copy-maps", "--packet", strings.Repeat("00", 64))
	if !strings.Contains(out, "shown") {
		h.Errorf("trace does not tell of the program:\n%s", out)
	}
}

// refusedElsewhere asks for an interface in another namespace, which takes the drop-in.
func (h *host) refusedElsewhere() {
	h.Helper()
	h.netns("blue")
	said := h.refused(1, "add", object("verdict"), "--function", "pass", "--name", "elsewhere", "--interface", "blue:b0")
	if !strings.Contains(said, "NETNS_NOT_FOUND") || !strings.Contains(said, "CAP_SYS_ADMIN") {
		h.Errorf("the refusal does not tell of the capability:\n%s", said)
	}
}

// foreignIsANumber asks for an interface that has a foreign program, whose name takes the drop-in.
func (h *host) foreignIsANumber() {
	h.Helper()
	id := h.putForeign("y0")
	said := h.refused(1, "add", object("verdict"), "--function", "pass", "--name", "late", "--interface", "y0")
	if !strings.Contains(said, fmt.Sprintf("holder_id: %d\n", id)) || !strings.Contains(said, "INTERFACE_BUSY") || strings.Contains(said, foreign) {
		h.Errorf("the refusal does not tell of program %d, or tells more than the daemon may know:\n%s", id, said)
	}
}

// With the drop-in the daemon knows names of foreign programs, takes over from them, and serves other namespaces, also
// those that are younger than the daemon.
func TestMoreCapabilities(t *testing.T) {
	h := newHost(t)
	h.allow()
	h.netns("blue")
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev+",blue:b0")
	h.netns("green")
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", "green:b0,/run/netns/green:b1")
	h.wantElsewhere("blue:b0", "green:b0", "green:b1")

	id := h.putForeign("y0")
	said := h.refused(1, "add", object("verdict"), "--function", "pass", "--interface", "y0")
	if !strings.Contains(said, "holder_name: "+foreign) {
		h.Errorf("the refusal does not tell the name of program %d:\n%s", id, said)
	}
	said = h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", "y0", "--takeover")
	if !strings.Contains(said, foreign) {
		h.Errorf("the takeover does not tell what it replaced:\n%s", said)
	}
	h.wantElsewhere("blue:b0", "green:b0", "green:b1", "y0")

	h.wantOther(h.kill())
	h.wantElsewhere("blue:b0", "green:b0", "green:b1", "y0")
	h.check("pass")

	// Teardown needs no more than it has.
	h.dropIn(daemonUnit, "[Service]\nRestartSec=1h\n")
	h.kill()
	h.wantProperty(daemonUnit, "SubState", "auto-restart")
	systemctl(h, "stop", mainUnit)
	h.checkNothing()
}

// wantElsewhere checks that chains run on these interfaces.
func (h *host) wantElsewhere(interfaces ...string) {
	h.Helper()
	for _, name := range interfaces {
		got, err := h.client.GetChain(h.ctx(), &xdpdv1.GetChainRequest{Interface: name})
		if err != nil {
			h.Error(err)
		} else if c := got.GetChain(); c.GetKernelId() == 0 || c.GetState() != xdpdv1.Chain_STATE_RUNNING {
			h.Errorf("the chain does not run: %v", c)
		}
	}
}

// netns makes a network namespace, as an administrator does, with the pair b0 and b1 in it.
func (h *host) netns(name string) {
	h.Helper()
	h.Cleanup(func() {
		if _, err := run("ip", "netns", "delete", name); err != nil {
			h.Error(err)
		}
	})
	for _, args := range []string{"netns add " + name, "-n " + name + " link add b0 type veth peer b1"} {
		if _, err := run("ip", strings.Fields(args)...); err != nil {
			h.Fatal(err)
		}
	}
}

// foreign is the name of a program that is none of xdpd's.
const foreign = "somebody_elses"

// putForeign makes a veth pair of which one end has that name and a foreign program, by netlink, and returns its id.
func (h *host) putForeign(name string) ebpf.ProgramID {
	h.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: name + "p"}
	pair.Name = name
	if err := netlink.LinkAdd(pair); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		if err := netlink.LinkDel(pair); err != nil {
			h.Error(err)
		}
	})
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, Name: foreign, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		h.Fatal(err)
	}
	defer p.Close()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetXdpFd(l, p.FD())
	}
	if err != nil {
		h.Fatal(err)
	}
	info, err := p.Info()
	if err != nil {
		h.Fatal(err)
	}
	id, _ := info.ID()
	return id
}
