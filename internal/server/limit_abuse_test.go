// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/internal/feed"
)

// stillServes fails the test unless an ordinary call is answered.
func (r *rig) stillServes(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := r.api.AddProgram(ctx, add("eth0")); err != nil {
		t.Errorf("an ordinary call: %v", err)
	}
}

const addMethod = xdpdv1.XdpdService_AddProgram_FullMethodName

var resourceExhausted = "8"

// TestSlowRequests begins requests that do not come, come a byte at a time, or stop in the middle. They end with a
// reason, and others are served.
func TestSlowRequests(t *testing.T) {
	l := usual()
	l.stall = 2 * time.Second // what is honest is never as slow
	r := startLimited(t, &fake{}, l)
	c := beRude(t, r.path)
	silent, half, dripping, list := c.call(addMethod), c.call(addMethod), c.call(addMethod), c.call(xdpdv1.XdpdService_ListChains_FullMethodName)
	must(t, c.WriteData(half, false, append(prefix(1<<20), make([]byte, 10_000)...)))
	must(t, c.WriteData(list, false, prefix(100)[:3]))
	must(t, c.WriteData(dripping, false, prefix(5000)))
	dripped := make(chan struct{})
	go func() {
		defer close(dripped)
		drip := time.NewTicker(50 * time.Millisecond) // fewFrames come long after l.stall
		defer drip.Stop()
		for !c.hasEnded(dripping) && c.WriteData(dripping, false, []byte{1}) == nil {
			<-drip.C
		}
	}()
	for ended := false; !ended; {
		r.stillServes(t)
		select {
		case <-dripped:
			ended = true
		default:
		}
	}
	for _, stream := range []uint32{silent, half, dripping, list} {
		if how := c.end(stream); how != resourceExhausted {
			t.Errorf("stream %d ended with %s", stream, how)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "of its 1048581 bytes") || !strings.Contains(log, "OVERLOADED") {
		t.Errorf("the log does not say what was slow: %s", log)
	}
	r.stillServes(t)
}

// TestMemoryIsShared has a request wait for the memory that another one has; it goes on when that is given back, and
// is refused when it is not.
func TestMemoryIsShared(t *testing.T) {
	l := usual()
	l.large, l.turn = 3<<20, 100*time.Millisecond
	f := &fake{block: make(chan struct{}), reached: make(chan struct{}, 10)}
	r := startLimited(t, f, l)
	large := add("eth0")
	large.Object = make([]byte, 1<<20-1000)
	answers := make(chan error, 2)
	call := func() { _, err := r.api.AddProgram(t.Context(), large); answers <- err }
	go call()
	<-f.reached // it has a third of the memory now
	if _, err := r.api.AddProgram(t.Context(), large); client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_OVERLOADED || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the second got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.api.AddProgram(ctx, large); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("one with a deadline got %v", err)
	}
	go func() { _, err := r.api.AddProgram(t.Context(), add("eth0")); answers <- err }()
	<-f.reached // a small one does not wait
	close(f.block)
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	go call()
	if err := <-answers; err != nil {
		t.Errorf("after all: %v", err)
	}
}

// TestOddRequests sends what gRPC does not allow, or no client needs. The stream ends, or the connection.
func TestOddRequests(t *testing.T) {
	r := start(t, &fake{events: feed.New[control.Event](8)})
	request, err := proto.Marshal(add("eth0"))
	must(t, err)
	message := append(prefix(uint32(len(request))), request...)
	for name, send := range map[string]func(c *rude) uint32{
		"no message": func(c *rude) uint32 {
			s := c.call(addMethod)
			must(t, c.WriteData(s, true, nil))
			return s
		},
		"half a message": func(c *rude) uint32 {
			s := c.call(addMethod)
			must(t, c.WriteData(s, true, message[:len(message)/2]))
			return s
		},
		"two messages": func(c *rude) uint32 {
			s := c.call(addMethod)
			must(t, c.WriteData(s, true, append(bytes.Clone(message), message...)))
			return s
		},
		"a second message of 4 GiB": func(c *rude) uint32 {
			s := c.call(addMethod)
			must(t, c.WriteData(s, false, append(bytes.Clone(message), prefix(1<<32-1)...)))
			return s
		},
		"a message of 4 GiB": func(c *rude) uint32 {
			s := c.call(addMethod)
			must(t, c.WriteData(s, false, prefix(1<<32-1)))
			return s
		},
		"a large message for a stream": func(c *rude) uint32 {
			s := c.call(xdpdv1.XdpdService_Watch_FullMethodName)
			must(t, c.WriteData(s, false, prefix(maxStreamed+1)))
			return s
		},
		"a large message for health": func(c *rude) uint32 {
			s := c.call("/grpc.health.v1.Health/Check")
			must(t, c.WriteData(s, false, prefix(maxStreamed+1)))
			return s
		},
		"a compressed message": func(c *rude) uint32 {
			s := c.call(addMethod)
			must(t, c.WriteData(s, true, append([]byte{1}, message[1:]...)))
			return s
		},
		"shreds": func(c *rude) uint32 {
			s := c.call(addMethod)
			must(t, c.WriteData(s, false, prefix(1<<20)))
			for range 2 * fewFrames {
				if c.WriteData(s, false, []byte{1}) != nil {
					break
				}
			}
			return s
		},
		"data before headers": func(c *rude) uint32 { must(t, c.WriteData(9, true, message)); return 9 },
		"more than the window": func(c *rude) uint32 {
			s := c.call(xdpdv1.XdpdService_Watch_FullMethodName)
			for range 8 {
				if c.WriteData(s, false, make([]byte, 16<<10)) != nil {
					break
				}
			}
			return s
		},
		"an unknown method": func(c *rude) uint32 { return c.call("/xdpd.v1.XdpdService/Nothing") },
		"no method":         func(c *rude) uint32 { return c.call("nothing") },
	} {
		t.Run(name, func(t *testing.T) {
			c := beRude(t, r.path)
			stream := send(c)
			if name == "data before headers" {
				must(t, c.WritePing(false, [8]byte{1}))
			} else if how := c.end(stream); how == "0" {
				t.Error("it went well")
			}
			r.stillServes(t)
		})
	}
}

// TestFloods sends as much as it can of what makes a server work. The connection ends or the server keeps up, and its
// memory is bounded.
func TestFloods(t *testing.T) {
	r := start(t, &fake{})
	before, _ := resident(t)
	for name, flood := range map[string]func(c *rude, i int) error{
		"rapid reset": func(c *rude, _ int) error {
			s := c.next
			c.next += 2
			if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: callHeaders(addMethod), EndHeaders: true}); err != nil {
				return err
			}
			return c.WriteRSTStream(s, http2.ErrCodeCancel)
		},
		"settings": func(c *rude, _ int) error {
			return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		},
		"pings":   func(c *rude, i int) error { return c.WritePing(false, [8]byte{byte(i)}) },
		"windows": func(c *rude, _ int) error { return c.WriteWindowUpdate(0, 1) },
		"headers": func(c *rude, _ int) error {
			s := c.next
			c.next += 2
			return c.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: callHeaders(addMethod), EndHeaders: true})
		},
		"endless headers": func(c *rude, i int) error {
			if i == 0 {
				return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: callHeaders(addMethod)})
			}
			return c.WriteContinuation(1, false, bytes.Repeat([]byte{0x88}, 16000))
		},
		"empty data": func(c *rude, i int) error {
			if i == 0 {
				c.call(addMethod)
			}
			return c.WriteData(1, false, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := beRude(t, r.path)
			must(t, c.SetWriteDeadline(time.Now().Add(2*time.Second)))
			var err error
			n := 0
			for ; err == nil && n < 100_000; n++ {
				err = flood(c, n)
			}
			t.Logf("%d, then %v", n, err)
			r.stillServes(t)
		})
	}
	_, most := resident(t)
	t.Logf("%d MiB before, %d at most", before, most)
	if most > before+200 {
		t.Errorf("the floods took %d MiB", most-before)
	}
}

// TestNoHTTP2 connects and speaks something else, or nothing.
func TestNoHTTP2(t *testing.T) {
	r := start(t, &fake{})
	for _, text := range []string{"", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", http2.ClientPreface[:20], strings.Repeat("\xff", 1<<20), http2.ClientPreface + "\x00\x00\x04\x00"} {
		conn, err := net.Dial("unix", r.path)
		must(t, err)
		must(t, conn.SetWriteDeadline(time.Now().Add(time.Second)))
		_, _ = io.WriteString(conn, text) // it may be cut off
		r.stillServes(t)
		conn.Close()
	}
}

// TestConnectionsAreLimited opens more connections than there may be. Idle ones make room, and where all have calls the
// last one is turned away.
func TestConnectionsAreLimited(t *testing.T) {
	l := usual()
	l.connections, l.stall = 8, time.Hour // what has a call keeps it
	f := &fake{block: make(chan struct{}), reached: make(chan struct{}, 10)}
	r := startLimited(t, f, l)
	watch := func(c *rude) { c.call(xdpdv1.XdpdService_Hold_FullMethodName) }
	var busy []*rude
	for range l.connections - 1 {
		c := beRude(t, r.path)
		watch(c)
		busy = append(busy, c)
	}
	r.busy(t, len(busy))
	idle := beRude(t, r.path)
	answer := make(chan error, 1)
	go func() { // it is not let in before the idle one was idle for some time; gRPC tries again
		_, err := r.api.AddProgram(t.Context(), add("eth0"), grpc.WaitForReady(true))
		answer <- err
	}()
	<-idle.gone
	<-f.reached
	late := beRude(t, r.path)
	<-late.gone
	close(f.block)
	must(t, <-answer)
	for _, c := range busy {
		select {
		case <-c.gone:
			t.Error("a connection with a call was closed")
		default:
		}
	}
	if log := r.log.String(); !strings.Contains(log, "too many connections") {
		t.Errorf("the log does not tell: %s", log)
	}
}

// TestPlaces has more calls at a time than there may be.
func TestPlaces(t *testing.T) {
	var p places
	most, _ := aHold.most()
	for range most {
		must(t, p.take(aHold))
	}
	if err := p.take(aHold); !errors.Is(err, &chain.Error{Reason: chain.Overloaded}) || !strings.Contains(err.Error(), "3072 leases") {
		t.Errorf("one more: %v", err)
	}
	must(t, p.take(aChange))
	p.give(aHold)
	must(t, p.take(aHold))
	for method, want := range map[string]place{
		addMethod: aChange, xdpdv1.XdpdService_TestRun_FullMethodName: aChange, xdpdv1.XdpdService_GetStatus_FullMethodName: aRead,
		"/grpc.health.v1.Health/Check": aRead,
	} {
		if got := placeOf(method, false); got != want {
			t.Errorf("%s takes place %d, want %d", method, got, want)
		}
	}
	if placeOf(xdpdv1.XdpdService_Hold_FullMethodName, true) != aHold || placeOf(xdpdv1.XdpdService_Watch_FullMethodName, true) != aWatch {
		t.Error("streams take the wrong places")
	}
}

// TestUsualDeadlines looks at the deadlines of calls that come without.
func TestUsualDeadlines(t *testing.T) {
	for method, want := range map[string]time.Duration{
		xdpdv1.XdpdService_ListChains_FullMethodName: readTime, addMethod: changeTime, xdpdv1.XdpdService_TestRun_FullMethodName: changeTime,
	} {
		ctx, cancel := withDeadline(t.Context(), method)
		if at, ok := ctx.Deadline(); !ok || time.Until(at) > want || time.Until(at) < want-20*time.Second {
			t.Errorf("%s: until %v", method, at)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	ctx, cancel = withDeadline(ctx, addMethod)
	defer cancel()
	if at, _ := ctx.Deadline(); time.Until(at) < 50*time.Minute {
		t.Errorf("a client's own deadline became %v", at)
	}
}

// nothingUnread waits until all answers are read, of which nobody tells.
func (r *rig) nothingUnread(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); r.server.door.unread.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are unread", r.server.door.unread.Load())
		}
	}
}

// busy waits until the server has read calls on that many connections.
func (r *rig) busy(t *testing.T, want int) {
	t.Helper()
	have := func() (n int) {
		r.server.door.mu.Lock()
		defer r.server.door.mu.Unlock()
		for c := range r.server.door.inside {
			if _, idle := c.idle(); !idle {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(time.Minute); have() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections have calls", have())
		}
	}
}

// TestUnreadAnswers asks for more than may be kept, and does not read it: the connection is closed, and nobody else's.
func TestUnreadAnswers(t *testing.T) {
	l := usual()
	l.answers = 1 << 20
	f := &fake{}
	for i := range 100 {
		f.chains = append(f.chains, control.Chain{Interface: fmt.Sprint("eth", i), Problem: strings.Repeat("x", 1000)})
	}
	r := startLimited(t, f, l)
	lazy := beRude(t, r.path)
	for range 30 {
		s := lazy.next
		lazy.next += 2
		headers := callHeaders(xdpdv1.XdpdService_ListChains_FullMethodName)
		if lazy.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: headers, EndHeaders: true}) != nil ||
			lazy.WriteData(s, true, make([]byte, prefixLength)) != nil {
			break // it is closed already
		}
	}
	<-lazy.gone
	if log := r.log.String(); !strings.Contains(log, "does not read its answers") {
		t.Errorf("the log does not tell: %s", log)
	}
	r.stillServes(t)
	r.nothingUnread(t)
}

// TestReadAnswers makes all kinds of calls, some of which end early: in the end nothing is unread.
func TestReadAnswers(t *testing.T) {
	f := &fake{}
	for i := range 500 {
		f.chains = append(f.chains, control.Chain{Interface: fmt.Sprint("eth", i), Problem: strings.Repeat("x", 1000)})
	}
	r := start(t, f)
	var calls sync.WaitGroup
	for i := range 200 {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%20)*time.Millisecond+time.Microsecond)
			defer cancel()
			if i%2 == 0 {
				ctx = t.Context()
			}
			if got, err := r.api.ListChains(ctx, &xdpdv1.ListChainsRequest{}); err == nil && len(got.GetChains()) != len(f.chains) {
				t.Errorf("%d chains", len(got.GetChains()))
			}
			s, err := r.api.Hold(ctx)
			if err == nil {
				_ = s.Send(&xdpdv1.HoldRequest{Grace: durationpb.New(time.Second)})
				_, _ = s.Recv()
				_ = s.CloseSend()
				_, _ = s.Recv()
			}
		})
	}
	calls.Wait()
	r.nothingUnread(t)
}
