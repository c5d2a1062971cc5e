// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/leaktest"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestByName(t *testing.T) {
	ns := nettest.New(t)
	ns.SetMTU(t, nettest.Dev, 1234)
	want := Interface{Name: nettest.Dev, Index: ns.Index(t, nettest.Dev), MTU: 1234}
	nettest.RunIn(ns, func() {
		want.Netns, _, _ = NetnsCookie() // TestNetnsCookie has its errors
		got, err := ByName(nettest.Dev)
		if err != nil || got != want {
			t.Errorf("ByName = %+v, %v; want %+v", got, err, want)
		}
		got, err = ByIndex("", want.Index)
		if err != nil || got != want {
			t.Errorf("ByIndex = %+v, %v; want %+v", got, err, want)
		}
	})
	if got, err := ByName(nettest.Dev); err == nil {
		t.Errorf("another namespace has it too: %+v", got)
	}
}

func TestNamesThatAreNone(t *testing.T) {
	for name, reason := range map[string]chain.Reason{
		"":                      chain.InvalidArgument,
		".":                     chain.InvalidArgument,
		"..":                    chain.InvalidArgument,
		"a/b":                   chain.InvalidArgument,
		"a b":                   chain.InvalidArgument,
		":1":                    chain.InvalidArgument,
		"a/b:1":                 chain.InvalidArgument,
		"eth*":                  chain.InvalidArgument,
		"a\x00b":                chain.InvalidArgument,
		"a\n":                   chain.InvalidArgument,
		strings.Repeat("x", 16): chain.InvalidArgument,
		strings.Repeat("x", 15): chain.InterfaceNotFound,
		"nosuch0":               chain.InterfaceNotFound,
	} {
		_, err := ByName(name)
		var refusal *chain.Error
		if !errors.As(err, &refusal) || refusal.Reason != reason || refusal.Facts["interface"] != name {
			t.Errorf("ByName(%q) = %#v, want %s", name, err, reason)
		}
	}
}

func TestAlternativeNameIsNoSecondOne(t *testing.T) {
	ns := nettest.New(t)
	nettest.RunIn(ns, func() {
		link, err := netlink.LinkByName(nettest.Dev)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkAddAltName(link, "other0"); err != nil {
			t.Fatal(err)
		}
		_, err = ByName("other0")
		if !errors.Is(err, &chain.Error{Reason: chain.InterfaceNotFound}) || !strings.Contains(err.Error(), nettest.Dev) {
			t.Errorf("ByName of an alternative name: %v, want a refusal that names %s", err, nettest.Dev)
		}
	})
}

func TestIndexesThatAreNone(t *testing.T) {
	ns := nettest.New(t)
	gone := ns.Index(t, nettest.Dev)
	ns.Delete(t, nettest.Dev)
	nettest.RunIn(ns, func() {
		for _, index := range []int{gone, 0, -1, 1 << 30} {
			_, byIndex := ByIndex("", index)
			_, _, xdp := XDP("", index)
			for _, err := range []error{byIndex, xdp} {
				if !errors.Is(err, &chain.Error{Reason: chain.InterfaceNotFound}) {
					t.Errorf("index %d: %v, want %s", index, err, chain.InterfaceNotFound)
				}
			}
		}
	})
}

func TestXDP(t *testing.T) {
	for _, tc := range []struct {
		mode  chain.Mode
		flags link.XDPAttachFlags
	}{{chain.Native, link.XDPDriverMode}, {chain.Generic, link.XDPGenericMode}} {
		t.Run(string(tc.mode), func(t *testing.T) {
			ns := nettest.New(t)
			index := ns.Index(t, nettest.Dev)
			prog, id := pass(t)
			nettest.RunIn(ns, func() {
				if state, attached, err := XDP("", index); err != nil || attached {
					t.Fatalf("before: %+v, %v, %v", state, attached, err)
				}
				l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: index, Flags: tc.flags})
				if err != nil {
					t.Fatal(err)
				}
				want := XDPState{ID: id, Mode: tc.mode}
				if state, attached, err := XDP("", index); err != nil || !attached || state != want {
					t.Errorf("attached: %+v, %v, %v; want %+v", state, attached, err, want)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				if state, attached, err := XDP("", index); err != nil || attached {
					t.Errorf("after: %+v, %v, %v", state, attached, err)
				}
			})
		})
	}
}

func pass(t *testing.T) (*ebpf.Program, uint32) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(chain.Pass)), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	info, err := prog.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return prog, uint32(id)
}
