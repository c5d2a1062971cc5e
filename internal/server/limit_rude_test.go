// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rude is a client that speaks HTTP/2 as it likes.
type rude struct {
	*testing.T
	net.Conn
	*http2.Framer
	next uint32 // stream

	mu    sync.Mutex        // protects what follows
	ended map[uint32]string // the status of streams that have ended; "reset": by a frame
	heard chan struct{}     // gets a value when a stream ends
	gone  chan struct{}     // closed when the server has closed the connection
}

func beRude(t *testing.T, path string) *rude {
	t.Helper()
	conn, err := net.Dial("unix", path)
	must(t, err)
	c := &rude{
		T: t, Conn: conn, Framer: http2.NewFramer(conn, conn), next: 1, ended: map[uint32]string{},
		heard: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	_, _ = io.WriteString(conn, http2.ClientPreface) // it may be turned away
	_ = c.WriteSettings()
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	go c.listen()
	t.Cleanup(func() { conn.Close(); <-c.gone })
	return c
}

// listen notes how streams end.
func (c *rude) listen() {
	defer close(c.gone)
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			return
		}
		how := ""
		switch frame := frame.(type) {
		case *http2.PingFrame:
			if !frame.IsAck() { // others may be writing: in one piece
				_, _ = c.Write(append([]byte{0, 0, 8, 6, 1, 0, 0, 0, 0}, frame.Data[:]...))
			}
		case *http2.MetaHeadersFrame:
			for _, f := range frame.Fields {
				if f.Name == "grpc-status" {
					how = f.Value
				}
			}
		case *http2.RSTStreamFrame:
			how = "reset"
		}
		if how == "" {
			continue
		}
		c.mu.Lock()
		if c.ended[frame.Header().StreamID] == "" {
			c.ended[frame.Header().StreamID] = how
		}
		c.mu.Unlock()
		select {
		case c.heard <- struct{}{}:
		default:
		}
	}
}

// call begins a call and returns its stream. Nothing of its message is sent.
func (c *rude) call(method string) uint32 {
	c.Helper()
	stream := c.next
	c.next += 2
	must(c.T, c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: callHeaders(method), EndHeaders: true}))
	return stream
}

func callHeaders(method string) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "localhost"}, {"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // to memory
	}
	return block.Bytes()
}

// end waits for the end of a stream and returns its status.
func (c *rude) end(stream uint32) string {
	c.Helper()
	late := time.After(time.Minute)
	for {
		c.mu.Lock()
		how := c.ended[stream]
		c.mu.Unlock()
		if how != "" {
			return how
		}
		select {
		case <-c.heard:
		case <-c.gone:
			return "closed"
		case <-late:
			c.Fatalf("stream %d does not end", stream)
		}
	}
}

func (c *rude) hasEnded(stream uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended[stream] != ""
}

func prefix(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0}, n) }
