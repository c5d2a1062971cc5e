// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	"google.golang.org/grpc/stats"
)

// answers are what is to be sent in the streams of a connection. The transport keeps it for a client that does not read, also
// when the call is over.
type answers struct {
	out    frames           // that are written
	left   map[uint32]int64 // bytes that are queued and not written, by stream
	resets map[uint32]bool  // streams that the client gave up while their calls went on
	sum    int64            // of left
	closed bool             // nothing is written any more
	moved  time.Time        // when something was written last, or began to be queued
}

// follow has the frames of a connection, in both directions, followed for the answers in it.
func (c *guarded) follow() {
	a := &c.answers
	a.left, a.resets = map[uint32]int64{}, map[uint32]bool{}
	a.out.begun = prefaceLength // the server sends none
	a.out.data = func(stream uint32, p []byte) {
		// It may be written before it is told that it is queued. What comes after the end of a call was queued before.
		if !a.resets[stream] && (c.uploads[stream] != nil || a.left[stream] != 0) {
			c.queue(stream, -int64(len(p)))
		}
	}
	a.out.end = func(uint32) {}
	a.out.over = c.drop // a reset, or what comes after all data
	c.frames.over = func(stream uint32) {
		if c.frames.reset {
			if c.uploads[stream] != nil {
				a.resets[stream] = true
			}
			c.drop(stream)
		}
	}
}

// Write writes to the connection.
func (c *guarded) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers.out.scan(p[:n])
	return n, err
}

// queue notes that so many bytes more are to be written in a stream. c.mu is locked.
func (c *guarded) queue(stream uint32, n int64) {
	a := &c.answers
	if a.closed {
		return
	}
	if n < 0 || a.sum == 0 {
		a.moved = time.Now()
	}
	if a.left[stream] += n; a.left[stream] == 0 {
		delete(a.left, stream)
	}
	a.sum += n
	c.door.unread.Add(n)
}

// drop notes that nothing of a stream is to be written any more. c.mu is locked.
func (c *guarded) drop(stream uint32) {
	if n := c.answers.left[stream]; n != 0 {
		c.queue(stream, -n)
	}
}

// dropAll does that for all streams.
func (c *guarded) dropAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for stream := range c.answers.left {
		c.drop(stream)
	}
	c.answers.closed = true
}

// stuck are the bytes that a connection has to write, if none was for some time.
func (c *guarded) stuck() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.answers.moved) < shortIdle {
		return 0
	}
	return c.answers.sum
}

// mostUnread is how many bytes of answers there may be that clients do not read. docs/operating.md has it.
const mostUnread = 64 << 20

// checkUnread closes connections until clients that do not read take no more than there may be: always the one with most.
func (d *door) checkUnread() {
	for d.unread.Load() > d.answers {
		var worst *guarded
		var most int64
		d.mu.Lock()
		for c := range d.inside {
			if n := c.stuck(); n > most {
				worst, most = c, n
			}
		}
		d.mu.Unlock()
		if worst == nil { // they read, or may be about to
			if d.looking.CompareAndSwap(false, true) {
				time.AfterFunc(shortIdle, func() { d.looking.Store(false); d.checkUnread() })
			}
			return
		}
		d.log.Warn("closing a connection whose client does not read its answers", "bytes", most)
		worst.Close()
	}
}

// TagRPC, HandleRPC, TagConn and HandleConn are a stats.Handler, which is told what is queued.
func (d *door) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC notes what is queued.
func (d *door) HandleRPC(ctx context.Context, s stats.RPCStats) {
	out, ok := s.(*stats.OutPayload)
	u, known := uploadOf(ctx)
	if !ok || !known || u.conn == nil {
		return
	}
	c := u.conn
	c.mu.Lock()
	if ctx.Err() == nil && c.uploads[u.stream] == u && !c.answers.resets[u.stream] {
		c.queue(u.stream, int64(out.WireLength))
	} else {
		c.drop(u.stream)
	}
	c.mu.Unlock()
	if d.unread.Load() > d.answers {
		d.checkUnread()
	}
}

// TagConn does nothing.
func (d *door) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (d *door) HandleConn(context.Context, stats.ConnStats) {}
