// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// cancelTime is how long a change may take to be undone after Ctrl-C.
const cancelTime = 10 * time.Second

// answerTime is how long the daemon may take to answer a change after Ctrl-C, so that it can be undone.
const answerTime = time.Minute

// lateTime is how long after its deadline a change whose end was not told is asked about.
const lateTime = 5 * time.Second

// retryDelay is how long a daemon that is stopping or gone is left alone before it is asked again.
const retryDelay = 100 * time.Millisecond

// waiter waits for what becomes of a change that is to be confirmed.
type waiter struct {
	*app
	client    *client.Client
	revisions map[string]uint64 // that the change gave its interfaces; 0: no chain
	change    *xdpdv1.PendingChange
	deadline  time.Time // when the daemon undoes it, by the clock of this process
	connected bool
	asks      bool // on a terminal
}

// told is a response of a watch, or the error that ended it.
type told struct {
	resp *xdpdv1.WatchResponse
	lost error
}

// confirmed makes a change, shows the answer, and waits until the change is confirmed: nil. An error says that it was
// undone, or may be. The watch begins before the change is made, so that nothing that becomes of it is missed.
func confirmed[R changed](ctx context.Context, a *app, c *client.Client, call func(context.Context, *client.Client) (R, error), show func(R) error) error {
	watching, stop := context.WithCancel(ctx)
	events := make(chan told, 64)
	tell := func(t told) error {
		select {
		case events <- t:
		case <-watching.Done():
		}
		return watching.Err()
	}
	followed := make(chan error, 1)
	go func() {
		followed <- c.Follow(watching, "", func(r *xdpdv1.WatchResponse) error {
			if r.GetStarted() == nil && r.GetMissed() == nil && r.GetConfirmed() == nil && r.GetReverted() == nil {
				return nil
			}
			return tell(told{resp: r})
		}, func(err error) error { return tell(told{lost: err}) })
		close(followed)
	}()
	defer func() {
		stop()
		for range followed { // until it has ended
		}
	}()
	select {
	case <-events: // it has started
	case err := <-followed:
		return err
	}
	resp, err := uninterrupted(ctx, a, c, call)
	if err != nil {
		return err
	}
	err = show(resp)
	if resp.GetChange().GetPending() == nil {
		return err
	}
	w := &waiter{
		app: a, client: c, change: resp.GetChange().GetPending(), revisions: map[string]uint64{}, connected: true,
		asks: isTerminal(a.in) && isTerminal(a.err),
	}
	for _, ch := range resp.GetChains() {
		w.revisions[ch.GetInterface()] = ch.GetRevision()
	}
	w.deadline = time.Now().Add(w.change.GetLeft().AsDuration())
	switch {
	case ctx.Err() != nil:
		return w.cancel(ctx)
	case err != nil:
		return err
	}
	return w.wait(ctx, events, followed)
}

// uninterrupted makes a call that goes on when ctx ends: a change can be undone once the daemon has told its number.
func uninterrupted[R changed](ctx context.Context, a *app, c *client.Client, call func(context.Context, *client.Client) (R, error)) (R, error) {
	var resp R
	if ctx.Err() != nil {
		return resp, ctx.Err()
	}
	calling, give := context.WithCancel(context.WithoutCancel(ctx))
	defer give()
	var err error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		resp, err = call(calling, c)
	}()
	select {
	case <-answered:
		return resp, err
	case <-ctx.Done():
	}
	fmt.Fprintln(a.err, "interrupted: the change is undone as soon as the daemon has answered; a second Ctrl-C leaves it to the daemon")
	limit := time.AfterFunc(answerTime, give)
	defer limit.Stop()
	<-answered
	return resp, err
}

// wait returns what became of the change, which it undoes when ctx ends.
func (w *waiter) wait(ctx context.Context, events <-chan told, followed <-chan error) error {
	answers, stop := w.ask(ctx)
	defer stop()
	timeUp := time.NewTimer(time.Until(w.deadline))
	defer timeUp.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		var done bool
		var err error
		select {
		case <-ctx.Done():
			return w.cancel(ctx)
		case yes := <-answers:
			if !yes {
				return w.cancel(ctx)
			}
			answers, w.asks = nil, false
			done, err = w.confirm(ctx)
		case e := <-events:
			done, err = w.heard(ctx, e)
		case err = <-followed:
			done = ctx.Err() == nil // else that is why
		case <-timeUp.C:
			if !w.connected {
				return w.gone()
			}
			if time.Since(w.deadline) >= lateTime {
				done, err = w.settled(ctx)
			}
			timeUp.Reset(lateTime)
		case <-second.C:
			w.prompt(true)
		}
		if done {
			return err
		}
	}
}

// heard tells whether an event says what became of the change: nil if it stays.
func (w *waiter) heard(ctx context.Context, e told) (done bool, err error) {
	id := w.change.GetId()
	switch {
	case e.lost != nil:
		w.connected = false
		if time.Until(w.deadline) <= 0 {
			return true, w.gone()
		}
		w.note("the daemon went away; it undoes change %d at %s unless xdpctl confirm %d is in time", id, until(w.change), id)
	case e.resp.GetStarted() != nil:
		w.connected = true
		w.note("the daemon is back")
	case e.resp.GetMissed() != nil:
		return w.settled(ctx)
	case e.resp.GetConfirmed().GetId() == id:
		w.stays()
		return true, nil
	case e.resp.GetReverted().GetChange().GetId() == id:
		how := "was cancelled"
		if e.resp.GetReverted().GetExpired() {
			how = "was not confirmed in time"
		}
		return true, w.undone(how)
	}
	return false, nil
}

// settled finds out what became of the change while events were missed. It does not where ctx ends or the daemon goes
// away meanwhile.
func (w *waiter) settled(ctx context.Context) (done bool, err error) {
	waiting, err := pendings(ctx, w.client)
	if slices.ContainsFunc(waiting, func(p *xdpdv1.PendingChange) bool { return p.GetId() == w.change.GetId() }) {
		return false, nil
	}
	stays := false
	if err == nil {
		stays, err = w.inForce(ctx)
	}
	switch {
	case ctx.Err() != nil || status.Code(err) == codes.Unavailable:
		return false, nil // what is away comes back, or time is up
	case err != nil:
		return true, err
	case stays:
		w.stays()
		return true, nil
	}
	return true, &failure{fmt.Errorf("change %d does not wait to be confirmed any more, and whether it stays is not known: it was undone, or others followed it; see xdpctl history",
		w.change.GetId())}
}

// inForce tells whether the history proves that the change, which does not wait any more, was not undone: what the
// change made of its interfaces is what they have. Where it only claimed an interface and left its chain as it was,
// the history has nothing of it, and that proves nothing.
func (w *waiter) inForce(ctx context.Context) (bool, error) {
	proven := false
	for _, iface := range w.change.GetInterfaces() {
		h, err := w.client.ListHistory(ctx, &xdpdv1.ListHistoryRequest{Interface: iface})
		if client.Reason(err) == xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND {
			continue
		}
		if err != nil {
			return false, err
		}
		i := slices.IndexFunc(h.GetEntries(), func(e *xdpdv1.HistoryEntry) bool { return w.made(iface, e) })
		if i < 0 {
			continue
		}
		if !h.GetEntries()[i].GetCurrent() {
			return false, nil
		}
		proven = true
	}
	return proven, nil
}

// made tells whether an entry of an interface's history is of the change. The answer has no revision of a chain that
// is gone.
func (w *waiter) made(iface string, e *xdpdv1.HistoryEntry) bool {
	revision, answered := w.revisions[iface]
	if !answered || e.GetWhat() != w.change.GetWhat() || !proto.Equal(e.GetCaller(), w.change.GetCaller()) {
		return false
	}
	if revision == 0 {
		return len(e.GetChain().GetMembers()) == 0
	}
	return e.GetRevision() == revision
}

// confirm makes the change stay, if the daemon is there or comes back in time. If the daemon knows of no such change any
// more, because somebody else was quicker or it did not answer what it heard, the watch tells what became of it.
func (w *waiter) confirm(ctx context.Context) (done bool, err error) {
	inTime, cancel := context.WithDeadline(ctx, w.deadline)
	defer cancel()
	for {
		_, err := w.client.Confirm(inTime, &xdpdv1.ConfirmRequest{Id: w.change.GetId()}, grpc.WaitForReady(true))
		switch {
		case err == nil:
			w.stays()
			return true, nil
		case ctx.Err() != nil:
			return true, w.cancel(ctx)
		case inTime.Err() != nil:
			return true, w.gone()
		case client.Reason(err) == xdpdv1.ErrorReason_ERROR_REASON_CHANGE_NOT_FOUND:
			return false, nil
		case status.Code(err) != codes.Unavailable:
			return true, err
		}
		select {
		case <-inTime.Done():
		case <-time.After(retryDelay):
		}
	}
}

// cancel undoes the change, also after the end of ctx, and returns the failure that tells of it.
func (w *waiter) cancel(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer cancel()
	if _, err := w.client.Cancel(ctx, &xdpdv1.CancelRequest{Id: w.change.GetId()}); err != nil {
		w.note("change %d was not cancelled; it is undone at %s unless it is confirmed", w.change.GetId(), until(w.change))
		return err
	}
	return w.undone("was cancelled")
}

func (w *waiter) stays() { w.say("change %d is confirmed and stays", w.change.GetId()) }

func (w *waiter) undone(how string) error {
	has := "has its chain"
	if len(w.change.GetInterfaces()) > 1 {
		has = "have their chains"
	}
	return &failure{fmt.Errorf("change %d %s: %s %s from before it again",
		w.change.GetId(), how, strings.Join(w.change.GetInterfaces(), ", "), has)}
}

func (w *waiter) gone() error {
	return &failure{fmt.Errorf("no daemon answers, and change %d was not confirmed: the daemon undoes it when it starts", w.change.GetId())}
}

// say prints what became of a change where the answer to it was printed, if that is for people.
func (a *app) say(format string, args ...any) {
	w := a.out
	if a.output.value != "table" {
		w = a.err
	}
	fmt.Fprintf(w, format+"\n", args...)
}

// note prints a line in between.
func (w *waiter) note(format string, args ...any) {
	if w.asks {
		fmt.Fprintln(w.err)
	}
	fmt.Fprintf(w.err, format+"\n", args...)
	w.prompt(false)
}

// ask asks on a terminal whether to keep the change, and else tells what is waited for. The caller calls stop,
// after which nothing reads from the terminal.
func (w *waiter) ask(ctx context.Context) (answers <-chan bool, stop func()) {
	if !w.asks {
		fmt.Fprintf(w.err, "waiting for xdpctl confirm %d; Ctrl-C undoes the change\n", w.change.GetId())
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	got := make(chan bool, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		line, err := bufio.NewReader(untilDone(ctx, w.in)).ReadString('\n')
		if errors.Is(err, context.Canceled) {
			return
		}
		answer := strings.ToLower(strings.TrimSpace(line))
		got <- answer == "y" || answer == "yes"
	}()
	w.prompt(false)
	return got, func() {
		cancel()
		<-done
		fmt.Fprintln(w.err)
	}
}

// prompt prints the question with the time that is left, or prints it anew in its place, leaving what was typed.
func (w *waiter) prompt(again bool) {
	if !w.asks {
		return
	}
	const save, restore = "\x1b7\r", "\x1b8"
	s := int(max(0, time.Until(w.deadline)).Round(time.Second).Seconds())
	text := fmt.Sprintf("keep it? %02d:%02d:%02d left [y/N] ", s/3600, s/60%60, s%60)
	if again {
		text = save + text + restore
	}
	fmt.Fprint(w.err, text)
}
