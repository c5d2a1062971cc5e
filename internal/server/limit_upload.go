// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/xdpd/xdpd/chain"
)

// prefixLength is that of what gRPC puts before each message: whether it is compressed, and its length.
const prefixLength = 5

// upload is what a client sends in one stream. The reader of its connection notes what comes, the handler of the stream
// waits for it.
type upload struct {
	once    bool // the stream has one message, of any length
	many    bool // it has as many as the client likes, which are read as they come
	stall   time.Duration
	cancel  context.CancelCauseFunc
	conn    *guarded
	stream  uint32
	known   chan struct{} // closed when size is set
	size    int64         // of the first message
	prefix  [prefixLength]byte
	prefixN int   // bytes of prefix that were there
	left    int64 // bytes of the message that are still to come

	mu       sync.Mutex // protects what follows
	received int64
	frames   int64
}

func newUpload(once bool, stall time.Duration, cancel context.CancelCauseFunc) *upload {
	return &upload{once: once, stall: stall, cancel: cancel, known: make(chan struct{})}
}

// Bounds of what may come in a stream.
const (
	// maxStreamed is the length of a message in a stream that has many.
	maxStreamed = 64 << 10
	// A stream that is cut into frames of less than minFrame bytes on average, after fewFrames of any length, takes
	// many times its length in memory.
	fewFrames = 256
	minFrame  = 128
	// stallBytes is the least that a client has to send of a message in some time, or what is left of it.
	stallBytes = 64 << 10
)

// note takes in data of one frame. It ends a stream that is sent in a way that no client needs.
func (u *upload) note(p []byte) {
	u.mu.Lock()
	u.received += int64(len(p))
	u.frames++
	shreds := u.frames > fewFrames && u.received < minFrame*u.frames
	u.mu.Unlock()
	if shreds {
		u.cancel(invalid("request", "it comes in too many pieces: %d bytes in %d of them", u.received, u.frames))
	}
	for len(p) > 0 {
		if u.left == 0 {
			n := copy(u.prefix[u.prefixN:], p)
			u.prefixN, p = u.prefixN+n, p[n:]
			if u.prefixN == prefixLength {
				u.prefixN = 0
				u.announced(int64(binary.BigEndian.Uint32(u.prefix[1:])))
			}
			continue
		}
		n := min(u.left, int64(len(p)))
		u.left, p = u.left-n, p[n:]
	}
}

// announced notes the length of the message that begins.
func (u *upload) announced(size int64) {
	u.left = size
	if u.many { // each message is looked at alone
		u.mu.Lock()
		u.received, u.frames = 0, 0
		u.mu.Unlock()
	}
	select {
	case <-u.known:
		if u.once {
			u.cancel(invalid("request", "it has more than one message"))
			return
		}
	default:
		u.size = size
		close(u.known)
	}
	if !u.once && size > maxStreamed {
		u.cancel(invalid("request", "a message of a stream has %d bytes, at most %d are taken", size, maxStreamed))
	}
}

// finished notes that nothing comes any more.
func (u *upload) finished() {
	select {
	case <-u.known:
	default:
		close(u.known)
	}
}

// length waits until the client says how long its message is.
func (u *upload) length(ctx context.Context) (int64, error) {
	late := time.NewTimer(u.stall)
	defer late.Stop()
	select {
	case <-u.known:
		return u.size, nil
	case <-late.C:
		return 0, u.slow(0, "its")
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// follow reads the message with read, as long as there is progress. After an error read may still be at work, until
// the stream ends.
func (u *upload) follow(ctx context.Context, read func() error) error {
	done := make(chan error, 1)
	go func() { done <- read() }()
	tick := time.NewTicker(u.stall)
	defer tick.Stop()
	before := u.progress()
	for {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		now := u.progress()
		if missing := u.size + prefixLength - now; missing > 0 && now-before < stallBytes {
			return u.slow(now, fmt.Sprintf("its %d", u.size+prefixLength))
		}
		before = now
	}
}

// progress is how many bytes came.
func (u *upload) progress() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.received
}

// slow is what a client gets that sent so many bytes of what was to come.
func (u *upload) slow(got int64, of string) error {
	return chain.Errorf(chain.Overloaded, chain.Facts{"limit": u.stall.String()},
		"the request came too slowly: %d of %s bytes, and less than %d KiB more within %v", got, of, stallBytes>>10, u.stall)
}
