// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// packetOf makes a packet of layers.
func packetOf(l ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, l...); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func ethernetOf(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: t}
}

func ip4(p layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: p, SrcIP: net.IP{192, 0, 2, 7}, DstIP: net.IP{198, 51, 100, 9}}
}

func ip6(p layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2")}
}

func udpPacket() []byte {
	return packetOf(ethernetOf(layers.EthernetTypeIPv4), ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 40000, DstPort: 53}, gopacket.Payload("a query of some length"))
}

func tcpPacket() []byte {
	return packetOf(ethernetOf(layers.EthernetTypeIPv6), ip6(layers.IPProtocolTCP), &layers.TCP{SrcPort: 40000, DstPort: 443, SYN: true})
}

func hexPacket() string { return hex.EncodeToString(udpPacket()) }

func step(program string, v xdpdv1.Verdict, proceeded bool) *xdpdv1.TraceStep {
	code := uint32(v) - 1
	if v == 0 {
		code = proceedAlways
	}
	return &xdpdv1.TraceStep{Program: program, Verdict: v, ReturnCode: code, Proceeded: proceeded}
}

// traced is the answer for the three packets of capture.pcap: passed with a VLAN tag, dropped, sent back.
func traced() *xdpdv1.TestRunResponse {
	tagged := packetOf(ethernetOf(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeIPv4},
		ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 40000, DstPort: 53}, gopacket.Payload("a query of some length"))
	turned := tcpPacket()
	turned[5], turned[11] = turned[11], turned[5]
	return &xdpdv1.TestRunResponse{
		Revision: 4, LiveMaps: []string{"blocklist/blocked", "ratelimit/buckets"},
		Notes: []string{"rx_queue_index is 0 for every packet"},
		Packets: []*xdpdv1.PacketTrace{
			{
				Steps: []*xdpdv1.TraceStep{step("blocklist", pass, true), step("ratelimit", 0, true)}, Verdict: pass,
				ReturnCode: 2, Packet: tagged, PassedAll: true,
			},
			{Steps: []*xdpdv1.TraceStep{step("blocklist", drop, false)}, Verdict: drop, ReturnCode: 1, Packet: tcpPacket()},
			{
				Steps:   []*xdpdv1.TraceStep{step("blocklist", pass, true), step("ratelimit", tx, false)},
				Verdict: tx, ReturnCode: 3, Packet: turned,
			},
		},
	}
}

func tracedOne() *xdpdv1.TestRunResponse {
	out := udpPacket()
	out = out[:len(out)-2]
	odd := &xdpdv1.TraceStep{Program: "blocklist", ReturnCode: 9}
	return &xdpdv1.TestRunResponse{Revision: 4, Packets: []*xdpdv1.PacketTrace{
		{Steps: []*xdpdv1.TraceStep{odd}, ReturnCode: 9, Packet: out},
	}}
}

// writeCapture writes packets as pcap, the third one captured in part.
func writeCapture(t *testing.T, name string, link layers.LinkType, packets ...[]byte) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65535, link); err != nil {
		t.Fatal(err)
	}
	for i, p := range packets {
		info := gopacket.CaptureInfo{CaptureLength: len(p), Length: len(p)}
		if i == 2 && len(p) < 1514 {
			info.Length = 1514
		}
		if err := w.WritePacket(info, p); err != nil {
			t.Fatal(err)
		}
	}
}

// echo answers as a chain without members that passes everything.
func echo(revision func() uint64) answer {
	return func(m proto.Message) (proto.Message, error) {
		resp := &xdpdv1.TestRunResponse{Revision: revision(), LiveMaps: []string{"a/b"}}
		for _, p := range m.(*xdpdv1.TestRunRequest).GetPackets() {
			resp.Packets = append(resp.Packets, &xdpdv1.PacketTrace{Verdict: pass, ReturnCode: 2, PassedAll: true, Packet: p})
		}
		return resp, nil
	}
}

func TestTraceBatches(t *testing.T) {
	t.Chdir(t.TempDir())
	small := make([][]byte, 2*maxPackets+5)
	for i := range small {
		small[i] = bytes.Repeat([]byte{byte(i)}, minPacket)
	}
	writeCapture(t, "many.pcap", layers.LinkTypeEthernet, small...)
	large := make([][]byte, 300)
	for i := range large {
		large[i] = make([]byte, maxPacket)
	}
	writeCapture(t, "large.pcap", layers.LinkTypeEthernet, large...)
	for _, c := range []struct {
		line  string
		sizes []int
		first byte
	}{
		{"-r many.pcap", []int{maxPackets, maxPackets, 5}, 0},
		{"-r many.pcap --count 3", []int{3}, 0},
		{"-r many.pcap --count 3 --skip 2 --copy-maps", []int{3}, 2},
		{"-r many.pcap --skip 8190", []int{7}, 8190 & 255},
		{"-r many.pcap --count 4096 --copy-maps", []int{maxPackets}, 0},
		{"-r large.pcap", []int{256, 44}, 0},
	} {
		t.Run(c.line, func(t *testing.T) {
			calls := uint64(0)
			f := startFake(t, map[string]any{"TestRun": echo(func() uint64 { calls++; return 4 + calls/3 })})
			r := xdpctl(t, f.socket, "trace eth0 "+c.line, "")
			if r.status != 0 {
				t.Fatalf("exit status %d: %s", r.status, r.err)
			}
			asked := f.asked()
			if len(asked) != len(c.sizes) {
				t.Fatalf("%d calls, want %d", len(asked), len(c.sizes))
			}
			for i, m := range asked {
				req := m.(*xdpdv1.TestRunRequest)
				if len(req.GetPackets()) != c.sizes[i] || req.GetInterface() != "eth0" || req.GetCopyMaps() != strings.Contains(c.line, "copy") {
					t.Errorf("call %d has %d packets, want %d", i, len(req.GetPackets()), c.sizes[i])
				}
			}
			if got := asked[0].(*xdpdv1.TestRunRequest).GetPackets()[0][0]; got != c.first {
				t.Errorf("the first packet is %d, want %d", got, c.first)
			}
			if n := strings.Count(r.out, "live maps"); n != 1 {
				t.Errorf("live maps are told %d times", n)
			}
			if changed := strings.Contains(r.out, "revision 5 from here on"); changed != (len(c.sizes) == 3) {
				t.Errorf("another revision in between: told %v", changed)
			}
		})
	}
}

func TestTraceErrors(t *testing.T) {
	objects(t)
	writeCapture(t, "raw.pcap", layers.LinkTypeRaw, udpPacket())
	writeCapture(t, "runt.pcap", layers.LinkTypeEthernet, udpPacket(), make([]byte, 13))
	writeCapture(t, "many.pcap", layers.LinkTypeEthernet, slices.Repeat([][]byte{make([]byte, minPacket)}, maxPackets+1)...)
	writeCapture(t, "none.pcap", layers.LinkTypeEthernet)
	whole, err := os.ReadFile("capture.pcap")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"cut.pcap": whole[:len(whole)-1], "short.pcap": whole[:3], "text.pcap": []byte("this is no capture of packets\n")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := startFake(t, map[string]any{"TestRun": &xdpdv1.TestRunResponse{Revision: 1}})
	for _, c := range []struct {
		line, says string
		asked      int
	}{
		{"-r absent.pcap", "no such file", 0},
		{"-r raw.pcap", "raw.pcap: the link type is 101 (Raw); a chain takes Ethernet only", 0},
		{"-r mixed.pcapng", "mixed.pcapng: packet 2: the link type is 113 (", 0},
		{"-r runt.pcap", "runt.pcap: packet 2 has 13 bytes; a chain takes 14 to 65535", 0},
		{"-r cut.pcap", "cut.pcap: the capture ends within packet 3", 0},
		{"-r short.pcap", "short.pcap: it is no capture that can be read", 0},
		{"-r text.pcap", "text.pcap: it is no capture that can be read", 0},
		{"-r none.pcap", "none.pcap: there are no packets to send", 0},
		{"-r capture.pcap --skip 3", "there are no packets to send", 0},
		{"-r many.pcap --copy-maps", "--copy-maps begins each call with new copies: give --count and --skip", 0},
		{"-r capture.pcap", "the daemon answered for 0 packets of 3", 1},
		{"--packet 00", "--packet: packet 1 has 1 bytes", 0},
	} {
		r := xdpctl(t, f.socket, "trace eth0 "+c.line, "")
		if asked := len(f.asked()); r.status != exitRefused || !strings.Contains(r.err, c.says) || asked != c.asked {
			t.Errorf("%s: exit status %d, %q, %d calls", c.line, r.status, r.err, asked)
		}
	}
}

// writeNg writes packets as pcapng, each from an interface of its own link type.
func writeNg(t *testing.T, name string, links []layers.LinkType, packets ...[]byte) {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, links[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links[1:] {
		if _, err := w.AddInterface(pcapgo.NgInterface{LinkType: l}); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range packets {
		if err := w.WritePacket(gopacket.CaptureInfo{InterfaceIndex: i, CaptureLength: len(p), Length: len(p)}, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTraceSources(t *testing.T) {
	objects(t)
	writeNg(t, "two.pcapng", []layers.LinkType{layers.LinkTypeEthernet, layers.LinkTypeEthernet}, udpPacket(), tcpPacket())
	stdin, err := os.ReadFile("two.pcapng")
	if err != nil {
		t.Fatal(err)
	}
	spaced := strings.ReplaceAll(fmt.Sprintf("% x", udpPacket()), " ", ":")
	for _, c := range []struct {
		line string
		want [][]byte
	}{
		{"-r capture.pcap", [][]byte{udpPacket(), tcpPacket(), tcpPacket()}},
		{"-r two.pcapng", [][]byte{udpPacket(), tcpPacket()}},
		{"-r -", [][]byte{udpPacket(), tcpPacket()}},
		{"--packet " + hexPacket() + " --packet " + spaced, [][]byte{udpPacket(), udpPacket()}},
		{"--packet " + hexPacket() + " --packet " + spaced + " --count 1", [][]byte{udpPacket()}},
	} {
		f := startFake(t, map[string]any{"TestRun": echo(func() uint64 { return 1 })})
		r := xdpctl(t, f.socket, "trace eth0 "+c.line, string(stdin))
		want := &xdpdv1.TestRunRequest{Interface: "eth0", Packets: c.want}
		if got := f.asked(); r.status != 0 || len(got) != 1 || !proto.Equal(got[0], want) {
			t.Errorf("%s: exit status %d %s, asked %v", c.line, r.status, r.err, got)
		}
	}
}

// Each call is an answer of its own for scripts.
func TestTraceStream(t *testing.T) {
	t.Chdir(t.TempDir())
	packets := make([][]byte, maxPackets+1)
	for i := range packets {
		packets[i] = make([]byte, minPacket)
	}
	writeCapture(t, "many.pcap", layers.LinkTypeEthernet, packets...)
	for output, want := range map[string]string{"json": "}\n{", "yaml": "\n---\n"} {
		f := startFake(t, map[string]any{"TestRun": echo(func() uint64 { return 1 })})
		r := xdpctl(t, f.socket, "trace eth0 -r many.pcap -o "+output, "")
		if n := strings.Count(r.out, want); r.status != 0 || n != 1 {
			t.Errorf("%s: exit status %d, %d answers behind the first", output, r.status, n)
		}
	}
}

func TestSummary(t *testing.T) {
	vlan := &layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeIPv4}
	fragment := ip4(layers.IPProtocolUDP)
	fragment.FragOffset = 185
	for _, c := range []struct {
		packet []byte
		want   string
	}{
		{udpPacket(), "IPv4 UDP 192.0.2.7:40000 > 198.51.100.9:53"},
		{tcpPacket(), "IPv6 TCP [2001:db8::1]:40000 > [2001:db8::2]:443"},
		{packetOf(ethernetOf(layers.EthernetTypeDot1Q), vlan, ip4(layers.IPProtocolUDP), &layers.UDP{SrcPort: 1, DstPort: 2}), "VLAN 7 IPv4 UDP 192.0.2.7:1 > 198.51.100.9:2"},
		{packetOf(ethernetOf(layers.EthernetTypeIPv4), ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{}), "IPv4 ICMPv4 192.0.2.7 > 198.51.100.9"},
		{packetOf(ethernetOf(layers.EthernetTypeIPv4), fragment, gopacket.Payload("more")), "IPv4 UDP 192.0.2.7 > 198.51.100.9 fragment at 1480"},
		{packetOf(ethernetOf(layers.EthernetTypeARP), gopacket.Payload(make([]byte, 28))), "ARP"},
		{packetOf(ethernetOf(0x9999), gopacket.Payload("x")), "type 0x9999"},
		{packetOf(ethernetOf(layers.EthernetTypeIPv4)), "IPv4"},
		{packetOf(ethernetOf(layers.EthernetTypeIPv4), ip4(layers.IPProtocolTCP), gopacket.Payload("cut")), "IPv4 TCP 192.0.2.7 > 198.51.100.9"},
	} {
		if got := summary(c.packet); got != c.want {
			t.Errorf("%x is %q, want %q", c.packet, got, c.want)
		}
	}
}

// No packet, whatever it is made of, is too odd for a summary.
func FuzzSummary(f *testing.F) {
	for _, p := range [][]byte{udpPacket(), tcpPacket(), make([]byte, minPacket)} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) >= minPacket && strings.TrimSpace(summary(p)) == "" {
			t.Errorf("%x has no summary", p)
		}
	})
}

func TestDifferences(t *testing.T) {
	for _, c := range []struct{ in, out, want string }{
		{"abcdef", "abcdef", ""},
		{"abcdef", "abXdeY", "at 2: 63 -> 58\nat 5: 66 -> 59\n"},
		{"abcdef", "XYcdef", "at 0: 6162 -> 5859\n"},
		{"abcdef", "abXXcdef", "grown by 2 to 8 bytes\nat 2: nothing -> 5858\n"},
		{"abcdef", "abef", "shrunk by 2 to 4 bytes\nat 2: 6364 -> nothing\n"},
		{"aaaa", "aaaaaa", "grown by 2 to 6 bytes\nat 0: nothing -> 6161\n"},
		{"abcdef", "XbcdeYZ", "grown by 1 to 7 bytes\nat 0: 616263646566 -> 58626364655 95a\n"},
		{"", strings.Repeat("x", 40), "grown by 40 to 40 bytes\nat 0: nothing -> " + strings.Repeat("78", maxHex) + "… (40 bytes)\n"},
	} {
		var b bytes.Buffer
		packetDiff(&b, []byte(c.in), []byte(c.out))
		want := strings.ReplaceAll(c.want, " 95a", "95a")
		if got := strings.ReplaceAll(b.String(), "  ", ""); got != want {
			t.Errorf("%s -> %s: got %q, want %q", c.in, c.out, got, want)
		}
	}
}

// captures writes those that tests and golden cases use.
func captures(t *testing.T, dir string) {
	t.Helper()
	writeCapture(t, filepath.Join(dir, "capture.pcap"), layers.LinkTypeEthernet, udpPacket(), tcpPacket(), tcpPacket())
	writeNg(t, filepath.Join(dir, "mixed.pcapng"), []layers.LinkType{layers.LinkTypeEthernet, layers.LinkTypeLinuxSLL}, udpPacket(), udpPacket())
}
