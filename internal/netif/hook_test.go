// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

func TestHook(t *testing.T) {
	home, blue := joined(t)
	mine, id := pass(t)
	other, _ := pass(t)
	for name, tt := range map[string]struct {
		netns string
		ns    *nettest.NS
		dev   string
	}{"here": {"", home, nettest.Dev}, "elsewhere": {blue.Name(), blue, "eth0"}} {
		for _, mode := range []chain.Mode{chain.Native, chain.Generic} {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				index := tt.ns.Index(t, tt.dev)
				has := func(want XDPState) {
					t.Helper()
					if got, attached, err := XDP(tt.netns, index); err != nil || got != want || attached != (want.ID != 0) {
						t.Errorf("XDP: %+v, %v, want %+v", got, err, want)
					}
				}
				refused := func(err, want error) {
					t.Helper()
					if !errors.Is(err, want) {
						t.Errorf("%v, want %v", err, want)
					}
				}
				nettest.RunIn(home, func() {
					refused(Unhook(tt.netns, index, mine.FD(), mode), unix.EEXIST)
					if err := Hook(tt.netns, index, mine.FD(), mode); err != nil {
						t.Fatal(err)
					}
					has(XDPState{ID: id, Mode: mode})
					refused(Hook(tt.netns, index, other.FD(), mode), unix.EEXIST)
					refused(Unhook(tt.netns, index, other.FD(), mode), unix.EEXIST)
					has(XDPState{ID: id, Mode: mode})
					if err := Unhook(tt.netns, index, mine.FD(), mode); err != nil {
						t.Fatal(err)
					}
					has(XDPState{})
				})
				var held link.Link
				nettest.RunIn(tt.ns, func() {
					var err error
					flags := map[chain.Mode]link.XDPAttachFlags{chain.Native: link.XDPDriverMode, chain.Generic: link.XDPGenericMode}
					if held, err = link.AttachXDP(link.XDPOptions{Program: mine, Interface: index, Flags: flags[mode]}); err != nil {
						t.Fatal(err)
					}
				})
				defer held.Close()
				nettest.RunIn(home, func() {
					refused(Hook(tt.netns, index, other.FD(), mode), unix.EBUSY)
					refused(Unhook(tt.netns, index, mine.FD(), mode), unix.EBUSY)
					has(XDPState{ID: id, Mode: mode})
					refused(Hook(tt.netns, 1<<20, mine.FD(), mode), unix.ENODEV)
				})
			})
		}
	}
}
