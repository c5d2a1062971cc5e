// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// maxHex is how many bytes of a difference are printed.
const maxHex = 24

// summary says in a few words what a packet is: VLANs, the protocols, addresses and ports.
func summary(data []byte) string {
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	var words []string
	kind := ""
	if eth, ok := p.LinkLayer().(*layers.Ethernet); ok {
		kind = etherType(eth.EthernetType, eth.Length)
	}
	for _, l := range p.Layers() {
		if tag, ok := l.(*layers.Dot1Q); ok {
			words = append(words, fmt.Sprintf("VLAN %d", tag.VLANIdentifier))
			kind = etherType(tag.Type, 0)
		}
	}
	network := p.NetworkLayer()
	if network != nil && len(network.LayerContents()) == 0 {
		network = nil // its header is broken
	}
	switch ip := network.(type) {
	case *layers.IPv4:
		words = append(words, "IPv4", addresses(p, ip.Protocol.String(), ip.SrcIP, ip.DstIP))
		if ip.FragOffset > 0 {
			words = append(words, fmt.Sprintf("fragment at %d", int(ip.FragOffset)*8))
		}
	case *layers.IPv6:
		words = append(words, "IPv6", addresses(p, ip.NextHeader.String(), ip.SrcIP, ip.DstIP))
	default:
		words = append(words, kind)
	}
	return strings.Join(words, " ")
}

// etherType is the name of a type, or its number.
func etherType(t layers.EthernetType, length uint16) string {
	switch {
	case t == layers.EthernetTypeLLC:
		return fmt.Sprintf("802.3 length %d", length)
	case strings.HasPrefix(t.String(), "Unknown"):
		return fmt.Sprintf("type 0x%04x", uint16(t))
	}
	return t.String()
}

// addresses is the protocol above IP, and from where to where.
func addresses(p gopacket.Packet, protocol string, src, dst net.IP) string {
	from, to := src.String(), dst.String()
	transport := p.TransportLayer()
	if transport != nil && len(transport.LayerContents()) == 0 {
		transport = nil
	}
	switch t := transport.(type) {
	case *layers.TCP:
		from, to, protocol = withPort(src, uint16(t.SrcPort)), withPort(dst, uint16(t.DstPort)), "TCP"
	case *layers.UDP:
		from, to, protocol = withPort(src, uint16(t.SrcPort)), withPort(dst, uint16(t.DstPort)), "UDP"
	case *layers.SCTP:
		from, to, protocol = withPort(src, uint16(t.SrcPort)), withPort(dst, uint16(t.DstPort)), "SCTP"
	}
	return fmt.Sprintf("%s %s > %s", protocol, from, to)
}

func withPort(ip net.IP, port uint16) string { return net.JoinHostPort(ip.String(), fmt.Sprint(port)) }

// packetDiff prints what of a packet is different: the bytes at which offset, and by how much its length.
func packetDiff(w io.Writer, in, out []byte) {
	if n := len(out) - len(in); n > 0 {
		fmt.Fprintf(w, "  grown by %d to %d bytes\n", n, len(out))
	} else if n < 0 {
		fmt.Fprintf(w, "  shrunk by %d to %d bytes\n", -n, len(out))
	}
	for _, d := range differences(in, out) {
		fmt.Fprintf(w, "  at %d: %s -> %s\n", d.at, hexOf(d.old), hexOf(d.new))
	}
}

// difference is bytes of a packet that became others.
type difference struct {
	at       int
	old, new []byte
}

// differences compares packets. Where they have the same length each run of different bytes is one; else there
// is one, between what is the same at the start and at the end.
func differences(in, out []byte) []difference {
	if bytes.Equal(in, out) {
		return nil
	}
	if len(in) != len(out) {
		short := min(len(in), len(out))
		head, tail := 0, 0
		for tail < short && in[len(in)-1-tail] == out[len(out)-1-tail] {
			tail++
		}
		for head < short-tail && in[head] == out[head] {
			head++
		}
		return []difference{{head, in[head : len(in)-tail], out[head : len(out)-tail]}}
	}
	var all []difference
	for i := 0; i < len(in); i++ {
		start := i
		for i < len(in) && in[i] != out[i] {
			i++
		}
		if i > start {
			all = append(all, difference{start, in[start:i], out[start:i]})
		}
	}
	return all
}

// hexOf prints bytes, of many the first.
func hexOf(b []byte) string {
	switch {
	case len(b) == 0:
		return "nothing"
	case len(b) > maxHex:
		return fmt.Sprintf("%s… (%d bytes)", hex.EncodeToString(b[:maxHex]), len(b))
	}
	return hex.EncodeToString(b)
}

// dump prints a packet in hex and text, indented.
func dump(w io.Writer, b []byte) {
	for line := range strings.Lines(hex.Dump(b)) {
		fmt.Fprint(w, "    ", line)
	}
}
