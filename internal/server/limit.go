// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// limits are what a server takes on; those that tests need smaller than usual.
type limits struct {
	connections int
	turn        time.Duration // how long a message waits for memory
	stall       time.Duration // how long a client may take for the next stallBytes of a message, or what is left of it
	large       int64         // memory for large messages, in bytes
	answers     int64         // memory for answers that are not read, in bytes
}

func usual() limits {
	return limits{connections: connectionLimit(), turn: 10 * time.Second, stall: 10 * time.Second, large: 4 * maxMessage, answers: mostUnread}
}

// maxConnections is how many clients there are at a time. docs/operating.md has this and the next.
const maxConnections = 4096

// place is for a call of a kind of which there are only so many at a time.
type place int

const (
	aRead   place = iota // a call that only reads
	aChange              // another call, which may have to wait for changes of others
	aHold                // a lease
	aWatch               // another stream
)

// most is how many there are of each, and what they are called.
func (p place) most() (int, string) {
	switch p {
	case aRead:
		return 512, "calls that read"
	case aChange:
		return 1024, "calls that change something"
	case aHold:
		return 3072, "leases"
	}
	return 512, "streams of events"
}

// placeOf is what a call takes, or a stream.
func placeOf(method string, stream bool) place {
	switch {
	case method == xdpdv1.XdpdService_Hold_FullMethodName:
		return aHold
	case stream:
		return aWatch
	case works(method):
		return aChange
	}
	return aRead
}

// works tells whether a call does more than read.
func works(method string) bool {
	return mutates(method) || method == xdpdv1.XdpdService_TestRun_FullMethodName
}

// places are those of a daemon.
type places struct {
	mu    sync.Mutex // protects taken
	taken [aWatch + 1]int
}

// take takes a place, or says that there is none. The caller gives it back.
func (p *places) take(which place) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	most, what := which.most()
	if p.taken[which] >= most {
		return overloaded(fmt.Sprintf("%d %s", most, what))
	}
	p.taken[which]++
	return nil
}

func (p *places) give(which place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[which]--
}

// testsAtOnce is how many test runs there are at a time: what comes out of one takes up to some hundred megabytes.
const testsAtOnce = 2

// window is what a client may have sent of a stream before it is read, in bytes.
const window = 64 << 10

// Messages up to tinyMessage, as those that ask for something have, are not counted; those up to smallMessage have
// memory of their own, so that they do not wait for larger ones.
const (
	tinyMessage  = 4 << 10
	smallMessage = 256 << 10
	smallMemory  = 64 << 20
	// A message takes this many times its length while it is read: as it comes, in one piece, and decoded. Then it is
	// its length.
	whileRead = 3
	// muchMemory is what is given back to the host at once when it is free again.
	muchMemory = 16 << 20
)

// How long a call may take whose client has set no deadline.
const (
	readTime   = 30 * time.Second
	changeTime = 2 * time.Minute
)

// withDeadline gives a call without a deadline one.
func withDeadline(ctx context.Context, method string) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	limit := readTime
	if works(method) {
		limit = changeTime
	}
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w (%v, as the client has set none)", context.DeadlineExceeded, limit))
}

// memory is what messages take while they are worked on.
type memory struct {
	small, large *budget
}

func newMemory(l limits) *memory {
	return &memory{newBudget(smallMemory, l.turn), newBudget(l.large, l.turn)}
}

// of is the budget for a message of size bytes.
func (m *memory) of(size int64) *budget {
	if size <= smallMessage {
		return m.small
	}
	return m.large
}

// budget is a number of bytes that calls share. They get them in the order in which they ask.
type budget struct {
	bytes int64
	wait  time.Duration
	free  *semaphore.Weighted

	mu    sync.Mutex // protects what follows
	taken int64
	peak  int64 // of taken, since it was 0
}

func newBudget(bytes int64, wait time.Duration) *budget {
	return &budget{bytes: bytes, wait: wait, free: semaphore.NewWeighted(bytes)}
}

// take waits for n bytes, but not for ever. The caller gives them back.
func (b *budget) take(ctx context.Context, n int64) error {
	wait, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	if err := b.free.Acquire(wait, n); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the requests of others: %w", context.Cause(ctx))
		}
		return overloaded(fmt.Sprintf("%d MiB of requests", b.bytes/whileRead>>20))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken += n
	b.peak = max(b.peak, b.taken)
	return nil
}

// give gives n bytes back.
func (b *budget) give(n int64) {
	b.free.Release(n)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken -= n
	if b.taken == 0 {
		if b.peak >= muchMemory {
			go giveBack()
		}
		b.peak = 0
	}
}

// giveBack gives memory that is free back to the host now, which the runtime would do in the course of minutes. What is
// in pools is free only after a second collection.
func giveBack() {
	runtime.GC()
	debug.FreeOSMemory()
}

// overloaded is what a client gets that asks for more than there is.
func overloaded(limit string) error {
	return chain.Errorf(chain.Overloaded, chain.Facts{"limit": limit},
		"the daemon has as much to do as it takes on at a time, %s: try again in some seconds", limit)
}

// guard makes the methods of a service read their messages when there is memory for them, and give it back when
// they have answered.
func (m *memory) guard(service grpc.ServiceDesc) (*grpc.ServiceDesc, map[string]bool) {
	methods := map[string]bool{}
	plain := service.Methods
	service.Methods = make([]grpc.MethodDesc, len(plain))
	for i, method := range plain {
		name := "/" + service.ServiceName + "/" + method.MethodName
		methods[name] = true
		service.Methods[i] = grpc.MethodDesc{
			MethodName: method.MethodName,
			Handler: func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
				handle := func(ctx context.Context, _ any) (any, error) {
					r := receiving{memory: m}
					defer func() { r.giveBack() }()
					return method.Handler(srv, ctx, func(into any) error { return r.receive(ctx, func() error { return decode(into) }) }, nil)
				}
				return intercept(ctx, nil, &grpc.UnaryServerInfo{Server: srv, FullMethod: name}, handle)
			},
		}
	}
	return &service, methods
}

// receiving is the memory of one call.
type receiving struct {
	memory *memory
	budget *budget
	taken  int64
}

// receive reads the message of the call with read.
func (r *receiving) receive(ctx context.Context, read func() error) error {
	u, ok := uploadOf(ctx)
	if !ok {
		return errors.New("the call did not come through the door")
	}
	size, err := u.length(ctx)
	if err != nil {
		return err
	}
	if size > maxMessage {
		return tooLarge(size)
	}
	if size <= tinyMessage {
		return u.follow(ctx, read)
	}
	r.budget, r.taken = r.memory.of(size), whileRead*size
	if err := r.budget.take(ctx, r.taken); err != nil {
		r.taken = 0
		return err
	}
	if err := u.follow(ctx, read); err != nil {
		return err
	}
	r.budget.give(r.taken - size)
	r.taken = size
	return nil
}

func (r *receiving) giveBack() {
	if r.taken > 0 {
		r.budget.give(r.taken)
	}
}

func tooLarge(size int64) error {
	return chain.Errorf(chain.ObjectTooLarge, chain.Facts{"size": fmt.Sprint(size), "limit": fmt.Sprint(maxMessage)},
		"the request has %d bytes, at most %d are taken: send fewer objects at a time", size, maxMessage)
}
