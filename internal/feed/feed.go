// SPDX-License-Identifier: Apache-2.0

// Package feed hands events to any number of readers, each of which goes at its own pace: a publisher never
// waits for a reader, and a reader that is too slow is told how many events it missed.
//
// It imports the standard library only.
package feed

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"sync"
)

// ErrClosed is returned by Next when the feed is closed and all that was published before has been read.
var ErrClosed = errors.New("the feed is closed")

// nowhere is the token of a reader that has not been told yet that its own token leads nowhere. It leads
// nowhere either, so that nobody who comes back with it goes without being told.
const nowhere = "-"

// Feed keeps the latest events. All its methods can be called at the same time.
type Feed[T any] struct {
	run string // tells this feed's tokens from all others

	mu     sync.Mutex    // protects what follows
	ring   []T           // event n is at n modulo its length
	next   uint64        // the number of the next event; the first is 0
	wake   chan struct{} // closed by what readers wait for; nil: nobody waits
	closed bool
}

// New returns a feed that keeps the latest size events, and at least one.
func New[T any](size int) *Feed[T] {
	return &Feed[T]{run: rand.Text(), ring: make([]T, max(size, 1))}
}

// Publish adds an event, and forgets the oldest one if there are too many. On a closed feed it does nothing.
func (f *Feed[T]) Publish(event T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.ring[f.next%f.size()] = event
	f.next++
	f.wakeAll()
}

// Close ends the feed: readers read what is there, and then get ErrClosed. A second Close does nothing.
func (f *Feed[T]) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.wakeAll()
}

// Read returns a reader of the events that follow the one with that token. If the token is empty, it reads the
// events from now on. Where no event of this feed has the token (it is of another run, or none at all), the
// first item is a Gap and what follows is from now on; where events after it are forgotten already, the first
// item is a Gap and what follows begins with the oldest event that is not. A reader needs no closing.
func (f *Feed[T]) Read(token string) *Reader[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if token == "" {
		return &Reader[T]{feed: f, at: f.next}
	}
	if at, ok := f.position(token); ok {
		return &Reader[T]{feed: f, at: at}
	}
	return &Reader[T]{feed: f, at: f.next, lost: true}
}

// Reader reads the events of a feed in the order in which they were published. One goroutine at a time may use it.
type Reader[T any] struct {
	feed *Feed[T]
	at   uint64 // the number of the event to read next
	lost bool   // its token led nowhere, and it has not been told
}

// Item is an event, or the news that some are missing.
type Item[T any] struct {
	Token  string // Read(Token) goes on after this item
	Value  T      // the event; zero if Gap
	Gap    bool   // events are missing between the item before and the next
	Missed uint64 // how many; 0 with Gap: not known
}

// Next returns the next item, and waits for it if it must. The errors are ErrClosed and that of ctx, which comes
// first; neither loses an event. When events were forgotten that the reader has not read, the item is a Gap.
func (r *Reader[T]) Next(ctx context.Context) (Item[T], error) {
	for {
		if err := ctx.Err(); err != nil {
			return Item[T]{}, err
		}
		item, wake, err := r.take()
		if wake == nil {
			return item, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
		}
	}
}

// Token returns the token of the last item, or before the first one: a token from which another reader would go
// on as this one will.
func (r *Reader[T]) Token() string {
	if r.lost {
		return nowhere
	}
	return r.feed.token(r.at)
}

// take returns the next item or, if there is none yet, what is closed when it is worth another try.
func (r *Reader[T]) take() (item Item[T], wake <-chan struct{}, err error) {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	oldest := f.next - min(f.next, f.size())
	switch {
	case r.lost:
		r.lost, r.at = false, max(r.at, oldest)
		return Item[T]{Token: r.Token(), Gap: true}, nil, nil
	case r.at < oldest:
		missed := oldest - r.at
		r.at = oldest
		return Item[T]{Token: r.Token(), Gap: true, Missed: missed}, nil, nil
	case r.at < f.next:
		event := f.ring[r.at%f.size()]
		r.at++
		return Item[T]{Token: r.Token(), Value: event}, nil, nil
	case f.closed:
		return Item[T]{}, nil, ErrClosed
	}
	if f.wake == nil {
		f.wake = make(chan struct{})
	}
	return Item[T]{}, f.wake, nil
}

func (f *Feed[T]) size() uint64 { return uint64(len(f.ring)) }

func (f *Feed[T]) wakeAll() {
	if f.wake != nil {
		close(f.wake)
		f.wake = nil
	}
}

// token names the position before event number at, which is that after the event before it.
func (f *Feed[T]) token(at uint64) string { return f.run + "-" + strconv.FormatUint(at, 10) }

// position is the reverse of token; false if token never returned this, or cannot have yet.
func (f *Feed[T]) position(token string) (at uint64, ok bool) {
	digits := token[min(len(f.run)+1, len(token)):]
	at, err := strconv.ParseUint(digits, 10, 64)
	return at, err == nil && at <= f.next && token == f.token(at)
}
