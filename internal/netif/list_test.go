// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

func TestList(t *testing.T) {
	home, blue := joined(t)
	prog, id := pass(t)
	attach := func(ns *nettest.NS, name string, flags link.XDPAttachFlags) {
		nettest.RunIn(ns, func() {
			l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: ns.Index(t, name), Flags: flags})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		})
	}
	attach(home, nettest.Dev, link.XDPDriverMode)
	attach(home, nettest.Peer, link.XDPGenericMode)
	attach(blue, "eth0", link.XDPDriverMode)
	nettest.RunIn(home, func() {
		for netns, want := range map[string]map[string]XDPState{
			"":          {"lo": {}, "uplink0": {}, nettest.Dev: {ID: id, Mode: chain.Native}, nettest.Peer: {ID: id, Mode: chain.Generic}},
			blue.Name(): {"lo": {}, "eth0": {ID: id, Mode: chain.Native}},
		} {
			got := map[string]XDPState{}
			all, err := List(netns)
			if err != nil {
				t.Fatal(err)
			}
			for _, nic := range all {
				got[nic.Name] = nic.XDP
				if again, err := ByIndex(netns, nic.Index); err != nil || again != nic {
					t.Errorf("%+v in the list, %+v by its index, %v", nic, again, err)
				}
				state, attached, err := XDP(netns, nic.Index)
				if err != nil || state != nic.XDP || attached != (nic.XDP.ID != 0) {
					t.Errorf("%+v in the list, %+v by itself, %v, %v", nic.XDP, state, attached, err)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("in %q: %+v, want %+v", netns, got, want)
			}
		}
	})
}

// However many there are, all of them are in a list once, also while others come, go and are renamed.
func TestListWhileInterfacesChange(t *testing.T) {
	const stay = 200 // of which one answer of the kernel cannot tell
	ns := nettest.New(t)
	many(t, ns, stay)
	done := make(chan struct{})
	go func() {
		defer close(done)
		dice := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
		for round := range 10 {
			churn(t, ns, dice, fmt.Sprintf("c%d", round))
		}
	}()
	nettest.RunIn(ns, func() {
		for going := true; going; {
			select {
			case <-done:
				going = false
			default:
			}
			all, err := List("")
			if err != nil {
				t.Fatal(err)
			}
			seen := map[int]bool{}
			stayed := 0
			for _, nic := range all {
				if seen[nic.Index] {
					t.Fatalf("%+v is in the list twice", nic)
				}
				seen[nic.Index] = true
				if nic.Name[0] == 's' {
					stayed++
				}
			}
			if stayed != stay {
				t.Fatalf("%d of %d interfaces are in the list", stayed, stay)
			}
		}
	})
	<-done
}

// many makes interfaces s0, s1, …, which come in pairs.
func many(t testing.TB, ns *nettest.NS, n int) {
	t.Helper()
	nettest.RunIn(ns, func() {
		for i := 0; i < n; i += 2 {
			pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: fmt.Sprintf("s%d", i+1)}
			pair.Name = fmt.Sprintf("s%d", i)
			if err := netlink.LinkAdd(pair); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkList500(b *testing.B) {
	ns := nettest.New(b)
	many(b, ns, 500)
	nettest.RunIn(ns, func() {
		b.ReportAllocs()
		for b.Loop() {
			if all, err := List(""); err != nil || len(all) < 500 {
				b.Fatalf("%d interfaces, %v", len(all), err)
			}
		}
	})
}

func BenchmarkListElsewhere(b *testing.B) {
	blue := nettest.Named(b, "blue")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := List(blue.Name()); err != nil {
			b.Fatal(err)
		}
	}
}

func u32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func TestReadXDP(t *testing.T) {
	type attrs map[uint16][]byte
	for name, tt := range map[string]struct {
		in   attrs
		want XDPState
	}{
		"none":     {attrs{unix.IFLA_XDP_ATTACHED: {attachedNone}}, XDPState{}},
		"nothing":  {nil, XDPState{}},
		"native":   {attrs{unix.IFLA_XDP_ATTACHED: {attachedNative}, unix.IFLA_XDP_PROG_ID: u32(7), unix.IFLA_XDP_DRV_PROG_ID: u32(7)}, XDPState{7, chain.Native}},
		"generic":  {attrs{unix.IFLA_XDP_ATTACHED: {attachedGeneric}, unix.IFLA_XDP_PROG_ID: u32(7), unix.IFLA_XDP_SKB_PROG_ID: u32(7)}, XDPState{7, chain.Generic}},
		"offload":  {attrs{unix.IFLA_XDP_ATTACHED: {attachedOffload}, unix.IFLA_XDP_PROG_ID: u32(7), unix.IFLA_XDP_HW_PROG_ID: u32(7)}, XDPState{7, "offload"}},
		"two":      {attrs{unix.IFLA_XDP_ATTACHED: {4}, unix.IFLA_XDP_DRV_PROG_ID: u32(8), unix.IFLA_XDP_HW_PROG_ID: u32(9)}, XDPState{8, "multi"}},
		"two more": {attrs{unix.IFLA_XDP_ATTACHED: {4}, unix.IFLA_XDP_HW_PROG_ID: u32(9), unix.IFLA_XDP_SKB_PROG_ID: u32(3)}, XDPState{3, "multi"}},
		"unknown":  {attrs{unix.IFLA_XDP_ATTACHED: {attachedNative}, unix.IFLA_XDP_PROG_ID: u32(7), 99: u32(1), 98: {1}}, XDPState{7, chain.Native}},
	} {
		var b []byte
		for kind, value := range tt.in {
			b = appendAttr(b, kind, value)
		}
		if got, ok := readXDP(b); !ok || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, ok, tt.want)
		}
	}
}

func message(kind, flags uint16, seq uint32, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(append(b, u32(seq)...), u32(0)...)
	return append(b, body...)
}

func TestReadAnswers(t *testing.T) {
	one := appendAttr(append(make([]byte, 4), append(u32(5), make([]byte, 8)...)...), unix.IFLA_IFNAME, []byte("a0\x00"))
	minus := func(code unix.Errno) []byte { return u32(uint32(-int32(code))) }
	for name, tt := range map[string]struct {
		datagram []byte
		found    int
		done     bool
		err      error
	}{
		"one":               {message(unix.RTM_NEWLINK, 0, 1, one), 1, false, nil},
		"to another":        {message(unix.RTM_NEWLINK, 0, 2, one), 0, false, nil},
		"two and an end":    {slices.Concat(message(unix.RTM_NEWLINK, 0, 1, one), message(unix.RTM_NEWLINK, 0, 1, one), message(unix.NLMSG_DONE, 0, 1, u32(0))), 2, true, nil},
		"an error":          {message(unix.NLMSG_ERROR, 0, 1, minus(unix.ENODEV)), 0, true, unix.ENODEV},
		"an end in error":   {message(unix.NLMSG_DONE, 0, 1, minus(unix.ENOMEM)), 0, true, unix.ENOMEM},
		"an interrupted":    {message(unix.RTM_NEWLINK, unix.NLM_F_DUMP_INTR, 1, one), 1, false, errInterrupted},
		"interrupted ended": {message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 1, u32(0)), 0, true, errInterrupted},
	} {
		c := conn{seq: 1, cookie: 9}
		var all []Interface
		done, err := c.read(tt.datagram, &all)
		if done != tt.done || !errors.Is(err, tt.err) || len(all) != tt.found {
			t.Errorf("%s: %+v, %v, %v", name, all, done, err)
		}
		for _, nic := range all {
			if want := (Interface{Netns: 9, Name: "a0", Index: 5}); nic != want {
				t.Errorf("%s: %+v, want %+v", name, nic, want)
			}
		}
		for n := range tt.datagram {
			all = all[:0]
			if _, err := c.read(tt.datagram[:n], &all); n%len(message(0, 0, 0, one)) != 0 && err == nil {
				t.Errorf("%s: cut after %d bytes it is %+v", name, n, all)
			}
		}
	}
}
