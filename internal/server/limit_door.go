// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// shortIdle is how long a connection without calls is let be when there are too many: it may be about to make one.
const shortIdle = time.Second

// door lets connections in, as many as there may be. When there are too many, the one goes that has had no call for
// the longest time; if all have calls, the new one is turned away.
type door struct {
	log   *slog.Logger
	most  int
	stall time.Duration   // see limits
	once  map[string]bool // the methods that have one message, of any length

	answers int64        // how many bytes of those may be unread
	unread  atomic.Int64 // how many are
	looking atomic.Bool  // somebody looks soon who does not read

	mu     sync.Mutex // protects what follows
	inside map[*guarded]bool
	quiet  time.Time // before it nothing more is logged
}

func newDoor(log *slog.Logger, l limits, once map[string]bool) *door {
	return &door{log: log, most: l.connections, stall: l.stall, once: once, answers: l.answers, inside: map[*guarded]bool{}}
}

// connectionLimit is maxConnections, or less where the process may not have that many files open besides others.
func connectionLimit() int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur/2 > maxConnections {
		return maxConnections
	}
	return int(files.Cur / 2)
}

// let returns the connection as it is let in, or an error when there are too many. The caller closes it then.
func (d *door) let(conn net.Conn) (*guarded, error) {
	c := &guarded{Conn: conn, door: d, uploads: map[uint32]*upload{}, since: time.Now()}
	c.frames.data = func(stream uint32, p []byte) {
		if u := c.uploads[stream]; u != nil {
			u.note(p)
		}
	}
	c.frames.end = func(stream uint32) {
		if u := c.uploads[stream]; u != nil {
			u.finished()
		}
	}
	c.follow()
	d.mu.Lock()
	var goes *guarded
	if len(d.inside) >= d.most {
		goes = d.idlest()
		if time.Now().After(d.quiet) {
			d.quiet = time.Now().Add(time.Minute)
			what := "closing one that is idle"
			if goes == nil {
				what = "turning one away"
			}
			d.log.Warn("there are too many connections: "+what, "limit", d.most)
		}
		if goes == nil {
			d.mu.Unlock()
			return nil, fmt.Errorf("there are %d connections, and all have calls", d.most)
		}
		delete(d.inside, goes)
	}
	d.inside[c] = true
	d.mu.Unlock()
	if goes != nil {
		goes.Close()
	}
	return c, nil
}

// idlest is the connection that has had no call for the longest time, if there is one. The caller holds d.mu.
func (d *door) idlest() (idlest *guarded) {
	oldest := time.Now().Add(-shortIdle)
	for c := range d.inside {
		if since, idle := c.idle(); idle && since.Before(oldest) {
			idlest, oldest = c, since
		}
	}
	return idlest
}

// guarded is a connection of which it is known what the client sends, before it is read.
type guarded struct {
	net.Conn
	door *door

	mu      sync.Mutex // protects what follows
	frames  frames
	uploads map[uint32]*upload // by stream
	answers answers
	since   time.Time // without uploads: the end of the last one
}

// Read reads from the connection.
func (c *guarded) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames.scan(p[:n])
	return n, err
}

// Close closes the connection.
func (c *guarded) Close() error {
	c.door.mu.Lock()
	delete(c.door.inside, c)
	c.door.mu.Unlock()
	c.dropAll()
	return c.Conn.Close()
}

// idle tells whether and since when the connection has no calls.
func (c *guarded) idle() (since time.Time, idle bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, len(c.uploads) == 0
}

// open notes that a stream begins: that of the HEADERS which were read last, as nothing is read ahead of the frame
// that is being worked on.
func (c *guarded) open(ctx context.Context, u *upload) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stream := c.frames.opened
	c.uploads[stream], u.conn, u.stream = u, c, stream
	if c.frames.alone {
		u.finished()
	}
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.uploads, stream)
		delete(c.answers.resets, stream)
		if c.answers.left[stream] < 0 {
			c.drop(stream)
		}
		c.since = time.Now()
	})
}

type uploadKey struct{}

// tap is called by the transport when a stream begins, before any of its data is read.
func (d *door) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ctx, nil
	}
	who, ok := p.AuthInfo.(Peer)
	if !ok || who.conn == nil {
		return ctx, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	u := newUpload(d.once[info.FullMethodName], d.stall, cancel)
	u.many = info.FullMethodName == xdpdv1.XdpdService_Hold_FullMethodName
	who.conn.open(ctx, u)
	return context.WithValue(ctx, uploadKey{}, u), nil
}

// uploadOf is what the client sends in the stream of ctx.
func uploadOf(ctx context.Context) (*upload, bool) {
	u, ok := ctx.Value(uploadKey{}).(*upload)
	return u, ok
}
