// SPDX-License-Identifier: Apache-2.0

package server

import "encoding/binary"

// prefaceLength is that of what a client sends before its first frame (RFC 9113, 3.4).
const prefaceLength = 24

// What there is to know of HTTP/2 frames (RFC 9113, 4.1 and 6).
const (
	frameHeader = 9
	frameData   = 0x0
	frameHeads  = 0x1
	frameReset  = 0x3
	flagEnd     = 0x1 // of DATA and HEADERS: nothing comes after it in the stream
	flagPadded  = 0x8
	streamBits  = 1<<31 - 1
)

// frames follows the bytes that a client sends, frame by frame, and tells what of them is data of which stream. It
// looks only: what is wrong with them is for the transport to say, which then ends the connection.
type frames struct {
	data   func(stream uint32, p []byte) // gets the data of a frame, in one or more pieces; an empty frame: no bytes
	end    func(stream uint32)           // is told of the last DATA frame of a stream
	over   func(stream uint32)           // is told of HEADERS after which nothing comes in the stream, and of RST_STREAM
	reset  bool                          // it was RST_STREAM
	opened uint32                        // the stream of the last HEADERS frame
	alone  bool                          // nothing comes after that in the stream

	begun  int // bytes of the preface that were there
	head   [frameHeader]byte
	got    int    // bytes of head that were there
	left   int    // bytes of the frame's payload that are still to come
	pad    int    // of those, how many at the end are padding
	padded bool   // the next byte says how many
	stream uint32 // of a DATA frame; 0: another frame
	last   bool   // it is the last one of the stream
}

// scan takes in what was read.
func (f *frames) scan(p []byte) {
	n := min(prefaceLength-f.begun, len(p))
	f.begun, p = f.begun+n, p[n:]
	for len(p) > 0 {
		if f.left == 0 {
			n := copy(f.head[f.got:], p)
			f.got, p = f.got+n, p[n:]
			if f.got == frameHeader {
				f.got = 0
				f.begin()
			}
			continue
		}
		n := min(f.left, len(p))
		f.payload(p[:n])
		f.left, p = f.left-n, p[n:]
		f.finish()
	}
}

// begin reads the header of a frame.
func (f *frames) begin() {
	word := binary.BigEndian.Uint32(f.head[:4])
	f.left, f.pad, f.stream = int(word>>8), 0, 0
	stream := binary.BigEndian.Uint32(f.head[5:]) & streamBits
	f.padded, f.last = false, false
	last := f.head[4]&flagEnd != 0
	switch byte(word) {
	case frameHeads:
		f.opened, f.alone = stream, last
		if last && f.over != nil {
			f.reset = false
			f.over(stream)
		}
	case frameReset:
		if f.over != nil {
			f.reset = true
			f.over(stream)
		}
	case frameData:
		f.stream, f.last = stream, last
		f.padded = f.head[4]&flagPadded != 0
		if f.left == 0 {
			f.data(stream, nil)
			f.finish()
		}
	}
}

// finish tells of the end of a stream when its last frame is complete.
func (f *frames) finish() {
	if f.left == 0 && f.last {
		f.last = false
		f.end(f.stream)
	}
}

// payload takes in bytes of the frame's payload, of which there are f.left.
func (f *frames) payload(p []byte) {
	if f.stream == 0 {
		return
	}
	left := f.left
	if f.padded {
		f.padded, f.pad = false, int(p[0])
		p, left = p[1:], left-1
	}
	if n := min(left-f.pad, len(p)); n >= 0 {
		f.data(f.stream, p[:n])
	}
}
