// SPDX-License-Identifier: Apache-2.0

package examples_test

import "testing"

func TestShield(t *testing.T) {
	l := load(t, "shield")
	p := between(udp, "192.0.2.1:1", "198.51.100.1:53")
	l.want(goOn, p.bytes(), "no port set")
	l.put("port", uint32(0), uint16(53))
	l.want(drop, p.bytes(), "the port")
	l.want(drop, p.with(func(p *packet) { p.frag = 0x2000 }).bytes(), "a first fragment to the port")
	l.want(pass, p.with(func(p *packet) { p.frag = 1 }).bytes(), "a later fragment")
	l.want(pass, p.bytes()[:41], "a packet that ends in its UDP header")
	l.want(pass, between(udp, "192.0.2.1:53", "198.51.100.1:54").bytes(), "another port")
	l.want(pass, between(tcp, "192.0.2.1:1", "198.51.100.1:53").bytes(), "another protocol")
	if d, p := l.total("packets", 0), l.total("packets", 1); d != 2 || p != 4 {
		t.Errorf("%d dropped and %d passed packets counted, want 2 and 4", d, p)
	}
}
