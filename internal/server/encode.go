// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/store"
)

func encodeProgram(p control.Program) *xdpdv1.Program {
	return &xdpdv1.Program{
		Name: p.Name, Id: p.ID, Function: text(p.Function), ObjectSha256: p.SHA256, ObjectSize: p.Size,
		Lifetime: encodeLifetime(p.Lifetime), Interfaces: each(p.Interfaces, text), Maps: each(p.Maps, encodeMap),
		KernelId: p.KernelID, Added: timestamppb.New(p.Added), OwnerUid: p.OwnerUID, Settings: encodeSettings(p.Settings),
		Lease: p.Lease, Patterns: each(p.Patterns, encodePattern),
	}
}

// encodePattern leaves no proceed-on set to a default: the one that is told is the one that members get.
func encodePattern(p store.Pattern) *xdpdv1.Pattern {
	proceedOn := chain.Of(chain.Pass)
	if p.ProceedOn != nil {
		proceedOn = *p.ProceedOn
	}
	return &xdpdv1.Pattern{
		Pattern: text(p.Glob), Priority: p.Priority, Position: encodePosition(p.Position), Mode: encodeMode(p.Mode),
		ProceedOn: &xdpdv1.ProceedOn{Verdicts: encodeProceedOn(proceedOn)}, Except: each(p.Except, text),
	}
}

func encodePosition(p chain.Position) *xdpdv1.Position {
	switch {
	case p.First:
		return &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}}
	case p.Last:
		return &xdpdv1.Position{Place: &xdpdv1.Position_Last{Last: true}}
	case p.Before != "":
		return &xdpdv1.Position{Place: &xdpdv1.Position_Before{Before: p.Before}}
	case p.After != "":
		return &xdpdv1.Position{Place: &xdpdv1.Position_After{After: p.After}}
	}
	return nil
}

func encodeMap(m control.Map) *xdpdv1.Map {
	return &xdpdv1.Map{
		Name: text(m.Name), Pin: text(m.Pin), KernelId: m.KernelID, Type: m.Type,
		KeySize: m.KeySize, ValueSize: m.ValueSize, MaxEntries: m.MaxEntries,
		Flags: m.Flags, Gid: uint32(m.GID), SharedWith: m.SharedWith,
	}
}

func encodeChain(c control.Chain) *xdpdv1.Chain {
	e := &xdpdv1.Chain{
		Interface: text(c.Interface), Ifindex: uint32(c.Ifindex), Revision: c.Revision,
		Mode: encodeMode(c.Mode), ActualMode: encodeMode(c.Actual), ModeReason: text(c.ModeReason),
		FinalVerdict: encodeVerdict(c.Final), Members: each(c.Members, encodeMember),
		Linker: encodeLinker(c.Linker), KernelId: c.KernelID, LinkId: c.LinkID,
		Packets: c.Packets, PacketsEnd: c.End, Pending: encodePending(c.Pending),
		State: encodeState(c.State), Problem: text(c.Problem), RenamedFrom: text(c.Former),
	}
	if c.Mode == "" { // there is no chain
		e.FinalVerdict = xdpdv1.Verdict_VERDICT_UNSPECIFIED
	}
	return e
}

func encodeState(s control.State) xdpdv1.Chain_State {
	switch s {
	case control.Running:
		return xdpdv1.Chain_STATE_RUNNING
	case control.Waiting:
		return xdpdv1.Chain_STATE_WAITING
	case control.Displaced:
		return xdpdv1.Chain_STATE_FOREIGN
	case control.Broken:
		return xdpdv1.Chain_STATE_DEGRADED
	}
	return xdpdv1.Chain_STATE_UNSPECIFIED
}

func encodeMember(m control.Member) *xdpdv1.Member {
	e := &xdpdv1.Member{
		Program: m.Program, Priority: m.Priority, ProceedOn: encodeProceedOn(m.ProceedOn), Enabled: !m.Disabled,
		Counters: encodeCounts(m.Counts),
	}
	if m.Slot >= 0 {
		slot := uint32(m.Slot)
		e.Slot = &slot
	}
	return e
}

func encodeCounts(c chain.Counts) *xdpdv1.MemberCounters {
	e := &xdpdv1.MemberCounters{
		Seen: c.Seen, PassedOn: c.PassedOn,
		EndedAborted: c.Ended[chain.Aborted], EndedDrop: c.Ended[chain.Drop], EndedPass: c.Ended[chain.Pass],
		EndedTx: c.Ended[chain.Tx], EndedRedirect: c.Ended[chain.Redirect],
	}
	// Classes above it are not used; should one count nevertheless, the sum stays right.
	for _, n := range c.Ended[chain.ClassOther:] {
		e.EndedOther += n
	}
	return e
}

func encodeStatus(s control.Status) *xdpdv1.GetStatusResponse {
	return &xdpdv1.GetStatusResponse{
		Kernel: s.Kernel, Linker: encodeLinker(s.Linker), LinkerReason: s.LinkerReason,
		Probes: each(s.Probes, func(p control.Probe) *xdpdv1.Probe {
			return &xdpdv1.Probe{Name: p.Name, Works: p.Works, Reason: p.Reason}
		}),
		Bpffs: s.BPFFS, Programs: uint32(s.Programs), Chains: uint32(s.Chains), Problems: each(s.Problems, text),
		Leases: each(s.Leases, encodeLease),
	}
}

func encodeVerdict(v chain.Verdict) xdpdv1.Verdict {
	if v > chain.Redirect {
		return xdpdv1.Verdict_VERDICT_UNSPECIFIED
	}
	return xdpdv1.Verdict_VERDICT_ABORTED + xdpdv1.Verdict(v)
}

func encodeProceedOn(p chain.ProceedOn) []xdpdv1.Verdict { return each(p.Verdicts(), encodeVerdict) }

func encodeMode(m chain.Mode) xdpdv1.Mode {
	switch m {
	case chain.Auto:
		return xdpdv1.Mode_MODE_AUTO
	case chain.Native:
		return xdpdv1.Mode_MODE_NATIVE
	case chain.Generic:
		return xdpdv1.Mode_MODE_GENERIC
	}
	return xdpdv1.Mode_MODE_UNSPECIFIED
}

func encodeLifetime(l control.Lifetime) xdpdv1.Lifetime {
	switch l {
	case control.Daemon:
		return xdpdv1.Lifetime_LIFETIME_DAEMON
	case control.Persistent:
		return xdpdv1.Lifetime_LIFETIME_PERSISTENT
	case control.Leased:
		return xdpdv1.Lifetime_LIFETIME_LEASE
	}
	return xdpdv1.Lifetime_LIFETIME_UNSPECIFIED
}

func encodeLinker(l string) xdpdv1.Linker {
	switch l {
	case "freplace":
		return xdpdv1.Linker_LINKER_FREPLACE
	case "inline":
		return xdpdv1.Linker_LINKER_INLINE
	}
	return xdpdv1.Linker_LINKER_UNSPECIFIED
}

// text makes names out of objects and of interfaces, and what is made of them, fit for protobuf: they can have any
// bytes, and one that is not UTF-8 would cost the client the whole answer.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}
