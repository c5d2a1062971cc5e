// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// The bounds of what a chain takes, as the API has them.
const (
	minPacket   = 14
	maxPacket   = 65535
	maxPackets  = 4096     // of one call
	maxCapacity = 16 << 20 // bytes of one call
)

// packet is one that is sent through a chain.
type packet struct {
	number int // from 1: its place in the capture, or on the command line
	data   []byte
	length int // on the wire, where more than was captured
}

// source returns one packet after the other, then io.EOF.
type source func() (packet, error)

// openCapture returns the packets of a capture, pcap or pcapng.
func openCapture(in io.Reader) (source, error) {
	const pcapng = 0x0A0D0D0A // the same in both byte orders
	buffered := bufio.NewReader(in)
	magic, err := buffered.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("it is no capture that can be read: %w", err)
	}
	var reader interface {
		ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
	}
	link := layers.LinkTypeEthernet // that of pcapng comes with each packet
	if binary.BigEndian.Uint32(magic) == pcapng {
		reader, err = pcapgo.NewNgReader(buffered, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	} else {
		var r *pcapgo.Reader
		if r, err = pcapgo.NewReader(buffered); err == nil {
			link = r.LinkType() & 0xffff // above it are flags
		}
		reader = r
	}
	if err != nil {
		return nil, fmt.Errorf("it is no capture that can be read: %w", err)
	}
	if err := ethernet(link); err != nil {
		return nil, err
	}
	n := 0
	return func() (packet, error) {
		data, info, err := reader.ReadPacketData()
		n++
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return packet{}, fmt.Errorf("the capture ends within packet %d", n)
		case err == io.EOF: //nolint:errorlint // the end, and no other error that wraps it
			return packet{}, io.EOF
		case err != nil:
			return packet{}, fmt.Errorf("packet %d: %w", n, err)
		}
		if len(info.AncillaryData) > 0 {
			if err := ethernet(info.AncillaryData[0].(layers.LinkType)); err != nil {
				return packet{}, fmt.Errorf("packet %d: %w", n, err)
			}
		}
		return packet{number: n, data: data, length: info.Length}, nil
	}, nil
}

// ethernet returns an error for another link type.
func ethernet(t layers.LinkType) error {
	if t == layers.LinkTypeEthernet {
		return nil
	}
	return fmt.Errorf("the link type is %d (%s); a chain takes Ethernet only", t, t)
}

// hexPackets returns the packets of a command line.
func hexPackets(texts []string) (source, error) {
	packets := make([][]byte, len(texts))
	for i, text := range texts {
		var err error
		if packets[i], err = hex.DecodeString(strings.NewReplacer(" ", "", "\t", "", "\n", "", ":", "").Replace(text)); err != nil {
			return nil, fmt.Errorf("--packet %d: %w", i+1, err)
		}
	}
	n := 0
	return func() (packet, error) {
		if n == len(packets) {
			return packet{}, io.EOF
		}
		n++
		return packet{number: n, data: packets[n-1], length: len(packets[n-1])}, nil
	}, nil
}

// window leaves out the first packets and those after count; count 0: none.
func window(from source, skip, count int) source {
	seen := 0
	return func() (packet, error) {
		for ; seen < skip; seen++ {
			if _, err := from(); err != nil {
				return packet{}, err
			}
		}
		if count > 0 && seen == skip+count {
			return packet{}, io.EOF
		}
		seen++
		return from()
	}
}

// batches cuts packets into calls that a daemon takes.
type batches struct {
	from source
	next *packet // read, and not part of a batch yet
	end  bool
}

// read returns the next batch and whether more packets follow it. A packet that no chain takes is an error.
func (b *batches) read() (batch []packet, more bool, err error) {
	size := 0
	for {
		if b.next == nil && !b.end {
			p, err := b.from()
			switch {
			case err == io.EOF: //nolint:errorlint // the end, and no other error that wraps it
				b.end = true
			case err != nil:
				return nil, false, err
			case len(p.data) < minPacket || len(p.data) > maxPacket:
				return nil, false, fmt.Errorf("packet %d has %d bytes; a chain takes %d to %d, from the Ethernet header on",
					p.number, len(p.data), minPacket, maxPacket)
			default:
				b.next = &p
			}
		}
		if b.end {
			return batch, false, nil
		}
		if len(batch) == maxPackets || size+len(b.next.data) > maxCapacity {
			return batch, true, nil
		}
		batch = append(batch, *b.next)
		size += len(b.next.data)
		b.next = nil
	}
}
