// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// watcher reads the events of a daemon as they come.
type watcher struct {
	testing.TB
	client *client.Client
	cancel context.CancelFunc
	done   chan struct{} // closed when the stream has ended

	mu   sync.Mutex // protects what follows
	seen []*xdpdv1.WatchResponse
	more chan struct{} // closed with the next event, and when the stream ends
	at   int           // of seen, what next returns
	err  error         // that ended the stream
}

// watch watches from a token on; empty: from now on. It returns when the daemon said that the watch has begun.
func (h *host) watch(token string) *watcher {
	h.Helper()
	w := h.watchLazily(token)
	if e := w.next(); e.GetStarted() == nil {
		h.Fatalf("a watch begins with %v", e)
	}
	return w
}

// watchLazily does not wait for the first event.
func (h *host) watchLazily(token string) *watcher {
	h.Helper()
	c, err := client.Dial(h.socket)
	if err != nil {
		h.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{TB: h, client: c, cancel: cancel, done: make(chan struct{}), more: make(chan struct{})}
	h.Cleanup(w.end)
	stream, err := c.Watch(ctx, &xdpdv1.WatchRequest{ResumeToken: token})
	if err != nil {
		close(w.done)
		h.Fatal(err)
	}
	go func() {
		defer close(w.done)
		for {
			e, err := stream.Recv()
			w.mu.Lock()
			if w.err = err; err == nil {
				w.seen = append(w.seen, e)
			}
			close(w.more)
			w.more = make(chan struct{})
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return w
}

// end ends the watch; a second time does nothing.
func (w *watcher) end() {
	w.cancel()
	<-w.done
	w.client.Close()
}

// next is the next event.
func (w *watcher) next() *xdpdv1.WatchResponse {
	w.Helper()
	timer := time.NewTimer(untilRepaired)
	defer timer.Stop()
	for {
		w.mu.Lock()
		more, err := w.more, w.err
		if w.at < len(w.seen) {
			w.at++
			w.mu.Unlock()
			return w.seen[w.at-1]
		}
		w.mu.Unlock()
		if err != nil {
			w.Fatalf("the watch ended: %v", err)
		}
		select {
		case <-more:
		case <-timer.C:
			w.Fatalf("no event within %v; those before: %v", untilRepaired, w.tail())
		}
	}
}

// await returns the next event of a kind, such as "reverted", and passes over others.
func (w *watcher) await(kind string) *xdpdv1.WatchResponse {
	w.Helper()
	for {
		if e := w.next(); kindOf(e) == kind {
			return e
		}
	}
}

// expect fails the test unless the next events are these, as tell has them.
func (w *watcher) expect(want ...string) {
	w.Helper()
	for i, line := range want {
		e := w.next()
		if got := tell(e); got != line {
			w.Fatalf("event %d of\n  %s\nis %q", i+1, strings.Join(want, "\n  "), got)
		}
	}
}

// token is that of the latest event that next returned.
func (w *watcher) token() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[w.at-1].GetResumeToken()
}

func (w *watcher) tail() (lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.seen[max(0, len(w.seen)-10):] {
		lines = append(lines, tell(e))
	}
	return lines
}

// kindOf is the name of an event's field in the API.
func kindOf(e *xdpdv1.WatchResponse) string {
	m := e.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("event")); f != nil {
		return string(f.Name())
	}
	return "nothing"
}

// tell puts an event into a line: its kind, what it is about, and its facts.
func tell(e *xdpdv1.WatchResponse) string {
	words := []string{kindOf(e), e.GetInterface(), e.GetProgram()}
	member := func(m *xdpdv1.Member) {
		if m == nil {
			return
		}
		slot := "no slot"
		if m.Slot != nil {
			slot = fmt.Sprint("slot ", m.GetSlot())
		}
		words = append(words, fmt.Sprintf("%s priority %d on %s", slot, m.GetPriority(), setOf(&xdpdv1.ProceedOn{Verdicts: m.GetProceedOn()})))
		if m.GetProgram() != e.GetProgram() {
			words = append(words, "of "+m.GetProgram())
		}
	}
	pending := func(p *xdpdv1.PendingChange) {
		if p != nil {
			words = append(words, fmt.Sprintf("%d %q %v %v", p.GetId(), p.GetWhat(), p.GetInterfaces(), p.GetPrograms()))
		}
	}
	member(e.GetMemberAdded())
	member(e.GetMemberRemoved())
	member(e.GetMemberChanged())
	pending(e.GetConfirmPending())
	pending(e.GetConfirmed())
	pending(e.GetReverted().GetChange())
	if e.GetReverted().GetExpired() {
		words = append(words, "expired")
	}
	if r := e.GetProgramReplaced(); r != nil {
		words = append(words, fmt.Sprintf("%.8s -> %.8s", r.GetPreviousSha256(), r.GetObjectSha256()))
	}
	if s := e.GetChainSwapped(); s != nil {
		words = append(words, fmt.Sprintf("%d -> %d", s.GetPrevious(), s.GetRevision()))
	}
	if m := e.GetMissed(); m != nil {
		words = append(words, fmt.Sprint(m.GetEvents()))
	}
	for _, p := range []*xdpdv1.WatchResponse_Problem{e.GetDegraded(), e.GetRecovered()} {
		if p != nil {
			words = append(words, p.GetSubject())
		}
	}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}
