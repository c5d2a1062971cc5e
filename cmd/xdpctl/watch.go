// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const watchHelp = `Tell of changes as they happen, a line for each: the time, the interface or - where it is about none, and what
happened. It ends with Ctrl-C, with status 0.

With -o json each line is one response of the API, with a resume_token: with the last one as TOKEN a later watch
goes on behind it. If the daemon is restarted, xdpctl connects anew and goes on by itself; it says so on standard
error, and where events are missing that line says so too.`

// wallClock is how the time of an event is printed.
const wallClock = "2006-01-02T15:04:05.000Z07:00"

func (a *app) watch() *cobra.Command {
	var token string
	cmd := &cobra.Command{
		Use:               "watch [--resume TOKEN]",
		Short:             "Tell of changes as they happen",
		Long:              watchHelp,
		Args:              atMost(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := filled(cmd, "resume"); err != nil {
				return err
			}
			return a.with(func(c *client.Client) error { return a.runWatch(cmd.Context(), c, token) })
		},
	}
	cmd.Flags().StringVar(&token, "resume", "", "go on behind the event that had this resume_token: `TOKEN`")
	complete(cmd, "resume", fixed())
	return cmd
}

func (a *app) runWatch(ctx context.Context, c *client.Client, token string) error {
	away := false
	err := c.Follow(ctx, token, func(r *xdpdv1.WatchResponse) error {
		if r.GetStarted() != nil && away {
			away = false
			fmt.Fprintln(a.err, "xdpctl: the daemon is back")
		}
		return a.printEvent(r)
	}, func(error) error {
		away = true
		fmt.Fprintln(a.err, "xdpctl: the daemon went away; waiting for it")
		return nil
	})
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// printEvent prints a response on a line of its own; as YAML each is a document.
func (a *app) printEvent(r *xdpdv1.WatchResponse) error {
	var b bytes.Buffer
	switch a.output.value {
	case "table":
		if what := event(r); what != "" {
			iface := r.GetInterface()
			if iface == "" {
				iface = "-"
			}
			line := fmt.Sprintf("%s  %s  %s", r.GetTime().AsTime().Format(wallClock), iface, what)
			b.WriteString(printable(strings.ReplaceAll(line, "\n", " ")) + "\n")
		}
	default:
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r)
		if err == nil && a.output.value == "json" {
			err = json.Compact(&b, text)
			b.WriteByte('\n')
		} else if err == nil {
			b.WriteString("---\n")
			err = writeYAML(&b, text)
		}
		if err != nil {
			return &failure{fmt.Errorf("encode an event: %w", err)}
		}
	}
	if _, err := b.WriteTo(a.out); err != nil {
		return &failure{fmt.Errorf("print an event: %w", err)}
	}
	return nil
}

// event says in words what happened; "" for what only programs need to know.
func event(r *xdpdv1.WatchResponse) string {
	what := ""
	switch e := r.GetEvent().(type) {
	case *xdpdv1.WatchResponse_Started_:
		return ""
	case *xdpdv1.WatchResponse_Missed_:
		if n := e.Missed.GetEvents(); n > 0 {
			return fmt.Sprintf("%d events are missing: see xdpctl chain", n)
		}
		return "events are missing: see xdpctl chain"
	case *xdpdv1.WatchResponse_MemberAdded:
		what = member(r.GetProgram(), "added", e.MemberAdded)
	case *xdpdv1.WatchResponse_MemberRemoved:
		what = r.GetProgram() + " removed"
	case *xdpdv1.WatchResponse_MemberChanged:
		what = member(r.GetProgram(), "changed", e.MemberChanged)
	case *xdpdv1.WatchResponse_ProgramReplaced_:
		is, was := e.ProgramReplaced.GetObjectSha256(), e.ProgramReplaced.GetPreviousSha256()
		what = fmt.Sprintf("%s replaced, object %s, was %s", r.GetProgram(), short(is), short(was))
		if is == was {
			what = fmt.Sprintf("%s replaced, same object %s", r.GetProgram(), short(is))
		}
	case *xdpdv1.WatchResponse_ChainSwapped_:
		what = fmt.Sprintf("chain swapped, revision %d, was %d", e.ChainSwapped.GetRevision(), e.ChainSwapped.GetPrevious())
		if e.ChainSwapped.GetRevision() == 0 {
			what = fmt.Sprintf("no chain any more, revision was %d", e.ChainSwapped.GetPrevious())
		}
	case *xdpdv1.WatchResponse_ConfirmPending:
		what = fmt.Sprintf("%s is undone at %s unless it is confirmed", pendingName(e.ConfirmPending), until(e.ConfirmPending))
	case *xdpdv1.WatchResponse_Confirmed:
		what = pendingName(e.Confirmed) + " confirmed"
	case *xdpdv1.WatchResponse_Reverted_:
		why := "cancelled"
		if e.Reverted.GetExpired() {
			why = "not confirmed in time"
		}
		what = pendingName(e.Reverted.GetChange()) + " undone: " + why
	case *xdpdv1.WatchResponse_Degraded:
		what = fmt.Sprintf("degraded: %s: %s", e.Degraded.GetSubject(), e.Degraded.GetText())
	case *xdpdv1.WatchResponse_Recovered:
		what = fmt.Sprintf("recovered: %s: %s", e.Recovered.GetSubject(), e.Recovered.GetText())
	case *xdpdv1.WatchResponse_InterfaceUp:
		what = fmt.Sprintf("interface has come, ifindex %d", e.InterfaceUp.GetIfindex())
	case *xdpdv1.WatchResponse_InterfaceGone:
		what = fmt.Sprintf("interface is gone, ifindex was %d", e.InterfaceGone.GetIfindex())
	case *xdpdv1.WatchResponse_InterfaceRenamed:
		what = "interface renamed, was " + e.InterfaceRenamed.GetFrom()
	case *xdpdv1.WatchResponse_ForeignSeen:
		f := e.ForeignSeen
		what = fmt.Sprintf("foreign %s has the place of the chain", foreign(f.GetProgramId(), f.GetName(), f.GetMode()))
	case *xdpdv1.WatchResponse_LeaseEnded_:
		l := e.LeaseEnded.GetLease()
		what = fmt.Sprintf("lease %d ended: %s; its programs go: %s", l.GetId(), e.LeaseEnded.GetReason(), list(l.GetPrograms()))
	default:
		what = "an event that this xdpctl does not know"
	}
	if r.GetCaller() != nil {
		what += " (" + caller(r.GetCaller()) + ")"
	}
	return what
}

// member says what became of a member, and what it is now.
func member(program, verb string, m *xdpdv1.Member) string {
	text := fmt.Sprintf("%s %s, priority %d, proceed-on %s", program, verb, m.GetPriority(), verdicts(m.GetProceedOn()))
	if !m.GetEnabled() {
		text += ", disabled"
	}
	return text
}

// pendingName is the number of a change, what it was, and where.
func pendingName(p *xdpdv1.PendingChange) string {
	return fmt.Sprintf("change %d (%s on %s)", p.GetId(), p.GetWhat(), strings.Join(p.GetInterfaces(), ","))
}

// short is the start of a sha256, as long as tables have it.
func short(sum string) string { return sum[:min(12, len(sum))] }
