// SPDX-License-Identifier: Apache-2.0

// The tests of this file are the last of the first boot, and all of the later ones.

package systemd

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// wires is a unit that makes the veth pair at boot, as a real machine has its interfaces then.
const wires = `[Unit]
Before=xdpd-daemon.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6'
ExecStart=/usr/sbin/ip link add x0 type veth peer x1
ExecStart=/usr/sbin/ip link set x0 up
ExecStart=/usr/sbin/ip link set x1 up
[Install]
WantedBy=multi-user.target
`

// marker is a key that no program puts into its map.
const marker = uint32(77)

// TestReboot prepares what TestAfterReboot finds.
func TestReboot(t *testing.T) {
	h := newHost(t)
	h.start()
	h.xdpctl("add", object("settings"), "--function", "show", "--name", "third", "--interface", dev, "--lifetime", "persistent",
		"--set", "limit=42", "--max-entries", "table=16", "--map-group", "users")
	h.xdpctl("add", object("verdict"), "--function", "pass", "--name", "gone", "--interface", dev, "--first")
	h.xdpctl("add", object("verdict"), "--function", "pass", "--name", "second", "--interface", dev, "--lifetime", "persistent", "--first")
	h.xdpctl("add", object("verdict"), "--function", "goon", "--name", "first", "--interface", dev, "--lifetime", "persistent", "--first")
	h.check("first", "second", "gone", "third")
	if err := h.openMap("table").Put(marker, uint64(1)); err != nil {
		h.Fatal(err)
	}
	h.replaceFile("/etc/systemd/system/wires.service", []byte(wires), 0o644)
	systemctl(h, "enable", mainUnit, "wires.service")
	h.next(reboot)
}

// TestAfterReboot finds the machine as it is after a clean reboot, and prepares what TestAfterPowerCut finds.
func TestAfterReboot(t *testing.T) {
	h := resume(t)
	if out, err := run("journalctl", "--boot=-1", "--unit="+daemonUnit); err != nil || !strings.Contains(out, "stopped; nothing is left in the kernel") {
		h.Errorf("the machine went down without a stop of the daemon: %v\n%s", err, out)
	}
	h.wantBack("first", "second", "third")
	h.xdpctl("add", object("verdict"), "--function", "pass", "--name", "fourth", "--interface", dev, "--lifetime", "persistent", "--last")
	h.xdpctl("add", object("verdict"), "--function", "pass", "--name", "gone", "--interface", dev)
	h.xdpctl("order", dev, "third,first,second,fourth,gone")
	h.check("third", "first", "second", "fourth", "gone")
	h.next(powerCut)
}

// TestAfterPowerCut finds the machine as it is when the power was cut right after the last change.
func TestAfterPowerCut(t *testing.T) {
	h := resume(t)
	h.wantBack("third", "first", "second", "fourth")
	h.stop()
	systemctl(h, "disable", mainUnit, "wires.service")
}

// wantBack checks that these programs, in this order, are what came back, with their settings, and with empty maps.
func (h *host) wantBack(members ...string) {
	h.Helper()
	h.wantLog("the host was rebooted")
	var value uint64
	if err := h.openMap("table").Lookup(marker, &value); !errors.Is(err, ebpf.ErrKeyNotExist) {
		h.Errorf("looking for what was in a map before the boot: %d, %v", value, err)
	}
	h.check(members...)
	all, err := h.client.ListPrograms(h.ctx(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	if len(all.GetPrograms()) != len(members) {
		h.Errorf("there are the programs %v, want %v", all.GetPrograms(), members)
	}
	// The program shows the variable that was set.
	shown := h.openMap("shown")
	var seen [32]byte
	if err := shown.Lookup(uint32(0), &seen); err != nil {
		h.Fatal(err)
	}
	if limit := binary.NativeEndian.Uint64(seen[:]); limit != 42 {
		h.Errorf("the variable is %d, want 42", limit)
	}
	if n := h.openMap("table").MaxEntries(); n != 16 {
		h.Errorf("the map has %d entries, want 16", n)
	}
	if st, err := os.Stat(h.pinOf("table")); err != nil || st.Sys().(*syscall.Stat_t).Gid != users {
		h.Errorf("the pin of the map is not the group's: %v, %v", st, err)
	}
	h.wantLog("third", "contents")
}

// pinOf is the pin of a map of the program third.
func (h *host) pinOf(name string) string {
	h.Helper()
	got, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: "third"})
	if err != nil {
		h.Fatal(err)
	}
	for _, m := range got.GetProgram().GetMaps() {
		if m.GetName() == name {
			return m.GetPin()
		}
	}
	h.Fatalf("third has no map %s", name)
	return ""
}

// openMap opens a map of the program third.
func (h *host) openMap(name string) *ebpf.Map {
	h.Helper()
	m, err := ebpf.LoadPinnedMap(h.pinOf(name), nil)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { m.Close() })
	return m
}
