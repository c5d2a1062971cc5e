// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"io"
	"maps"
	"testing"

	"golang.org/x/net/http2"
)

// FuzzFrames compares what frames makes of bytes, in whatever pieces they come, with what HTTP/2 says.
func FuzzFrames(f *testing.F) {
	var sent bytes.Buffer
	w := http2.NewFramer(&sent, nil)
	must := func(err error) {
		if err != nil {
			f.Fatal(err)
		}
	}
	must(w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}))
	must(w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("headers"), EndHeaders: true}))
	must(w.WriteData(1, false, []byte("\x00\x00\x00\x00\x05hello")))
	must(w.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte("headers"), EndHeaders: true, PadLength: 9}))
	must(w.WriteDataPadded(3, true, []byte("\x00\x00\x00\x00\x00"), make([]byte, 7)))
	must(w.WriteDataPadded(5, true, nil, make([]byte, 3)))
	must(w.WriteData(1, true, nil))
	must(w.WritePing(false, [8]byte{}))
	must(w.WriteRSTStream(3, http2.ErrCodeCancel))
	f.Add(sent.Bytes(), uint8(1))
	f.Add(sent.Bytes(), uint8(200))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint8(3))
	f.Fuzz(func(t *testing.T, p []byte, step uint8) {
		want, ends, opened, sane := framesWanted(p)
		got := map[uint32][]byte{}
		ended := map[uint32]int{}
		fr := frames{
			data: func(stream uint32, data []byte) { got[stream] = append(got[stream], data...) },
			end:  func(stream uint32) { ended[stream]++ },
		}
		fr.scan([]byte(http2.ClientPreface[:10]))
		fr.scan([]byte(http2.ClientPreface[10:]))
		for rest := p; len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			fr.scan(rest[:n])
			rest = rest[n:]
		}
		if !sane {
			return
		}
		if fr.opened != opened {
			t.Errorf("the last stream is %d, want %d", fr.opened, opened)
		}
		if !maps.Equal(ended, ends) {
			t.Errorf("ended: %v, want %v", ended, ends)
		}
		for stream, data := range want {
			if !bytes.Equal(got[stream], data) {
				t.Errorf("stream %d: % x, want % x", stream, got[stream], data)
			}
		}
	})
}

// framesWanted is the data of each stream; it is not sane where the rest cannot be known.
func framesWanted(p []byte) (data map[uint32][]byte, ended map[uint32]int, opened uint32, sane bool) {
	rest := bytes.NewReader(p)
	r := http2.NewFramer(io.Discard, rest)
	r.SetMaxReadFrameSize(1<<24 - 1)
	r.AllowIllegalReads = true
	data, ended = map[uint32][]byte{}, map[uint32]int{}
	for rest.Len() > 0 {
		frame, err := r.ReadFrame()
		if err != nil {
			return nil, nil, 0, false
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			data[frame.StreamID] = append(data[frame.StreamID], frame.Data()...)
			if frame.StreamEnded() {
				ended[frame.StreamID]++
			}
		case *http2.HeadersFrame:
			opened = frame.StreamID
		}
	}
	return data, ended, opened, true
}

// TestFramesByteByByte has frames come in the smallest pieces.
func TestFramesByteByByte(t *testing.T) {
	var sent bytes.Buffer
	sent.WriteString(http2.ClientPreface)
	w := http2.NewFramer(&sent, nil)
	must(t, w.WriteHeaders(http2.HeadersFrameParam{StreamID: 7, BlockFragment: []byte("h"), EndHeaders: true}))
	must(t, w.WriteDataPadded(7, false, []byte("one"), make([]byte, 200)))
	must(t, w.WriteData(9, false, []byte("other")))
	must(t, w.WriteData(7, true, []byte("two")))
	got := map[uint32]string{}
	f := frames{
		data: func(stream uint32, p []byte) { got[stream] += string(p) },
		end:  func(stream uint32) { got[stream] += "." },
	}
	for _, b := range sent.Bytes() {
		f.scan([]byte{b})
	}
	if f.opened != 7 || got[7] != "onetwo." || got[9] != "other" {
		t.Errorf("stream %d was opened last, the data is %v", f.opened, got)
	}
}
