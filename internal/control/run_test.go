// SPDX-License-Identifier: Apache-2.0

package control

import (
	"slices"
	"strings"
	"testing"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

func TestPresence(t *testing.T) {
	p := presence{"eth0": 2}
	for _, step := range []struct {
		what string
		in   netif.LinkEvent
		want []netif.LinkEvent
	}{
		{"news of one that is known", netif.LinkEvent{Name: "eth0", Index: 2}, nil},
		{"a new one", netif.LinkEvent{Name: "eth1", Index: 3}, []netif.LinkEvent{{Name: "eth1", Index: 3}}},
		{"a rename", netif.LinkEvent{Name: "wan", Index: 3}, []netif.LinkEvent{{Name: "eth1", Index: 3, Gone: true}, {Name: "wan", Index: 3}}},
		{"another of the name", netif.LinkEvent{Name: "wan", Index: 4}, []netif.LinkEvent{{Name: "wan", Index: 3, Gone: true}, {Name: "wan", Index: 4}}},
		{"the end", netif.LinkEvent{Name: "wan", Index: 4, Gone: true}, []netif.LinkEvent{{Name: "wan", Index: 4, Gone: true}}},
		{"the end of one that is not known", netif.LinkEvent{Name: "x", Index: 9, Gone: true}, nil},
	} {
		if got := p.note(step.in); !slices.Equal(got, step.want) {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
	}
	got := presence{"never": 1 << 30}.note(netif.LinkEvent{Resync: true})
	if !slices.Contains(got, netif.LinkEvent{Name: "never", Index: 1 << 30, Gone: true}) || !slices.ContainsFunc(got, func(e netif.LinkEvent) bool { return e.Name == "lo" && !e.Gone }) {
		t.Errorf("looking at all anew: %v", got)
	}
}

func TestSharersLast(t *testing.T) {
	program := func(name, from string) store.Program {
		return store.Program{Name: name, Settings: chain.Settings{ShareMapsFrom: from}}
	}
	var names []string
	for _, p := range sharersLast([]store.Program{program("a", "b"), program("b", "c"), program("c", "gone"), program("x", "y"), program("y", "x")}) {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "c b a x y" {
		t.Errorf("order: %s", got)
	}
}

func TestClip(t *testing.T) {
	for in, want := range map[string]string{"abc": "abc", "abcdef": "abcd", "abcé": "abc", "ab\xff": "ab?"} {
		if got := clipTo(4, in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
