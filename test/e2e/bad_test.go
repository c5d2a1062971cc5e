// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestBadRequests sends requests that cannot be granted. Each is refused for its reason, and changes nothing.
func TestBadRequests(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev)))
	object := func(b []byte) change {
		return adding(&xdpdv1.AddProgramRequest{Name: "n", Object: b, Function: "pass", Interfaces: []string{nettest.Dev}})
	}
	with := func(f func(*xdpdv1.AddProgramRequest)) change {
		r := add("n", "pass", nettest.Dev)
		f(r)
		return adding(r)
	}
	flipped := bytes.Clone(verdicts)
	flipped[4] ^= 0xff // neither 32 nor 64 bits
	set := func(u *xdpdv1.MemberUpdate) change { return updating(u) }
	for name, c := range map[string]struct {
		reason xdpdv1.ErrorReason
		change
	}{
		"no object":         {xdpdv1.ErrorReason_ERROR_REASON_INVALID_ARGUMENT, object(nil)},
		"text":              {xdpdv1.ErrorReason_ERROR_REASON_OBJECT_INVALID, object([]byte("#!/bin/sh\n"))},
		"half an object":    {xdpdv1.ErrorReason_ERROR_REASON_OBJECT_INVALID, object(verdicts[:len(verdicts)/2])},
		"a wrong ELF class": {xdpdv1.ErrorReason_ERROR_REASON_OBJECT_INVALID, object(flipped)},
		"a large object":    {xdpdv1.ErrorReason_ERROR_REASON_OBJECT_TOO_LARGE, object(make([]byte, 16<<20+1))},
		"no such function":  {xdpdv1.ErrorReason_ERROR_REASON_FUNCTION_NOT_FOUND, with(func(r *xdpdv1.AddProgramRequest) { r.Function = "nosuch" })},
		"several functions": {xdpdv1.ErrorReason_ERROR_REASON_FUNCTION_NOT_FOUND, with(func(r *xdpdv1.AddProgramRequest) { r.Function = "" })},
		"no interface":      {xdpdv1.ErrorReason_ERROR_REASON_INVALID_ARGUMENT, with(func(r *xdpdv1.AddProgramRequest) { r.Interfaces = nil })},
		"unknown interface": {xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_NOT_FOUND, with(func(r *xdpdv1.AddProgramRequest) { r.Interfaces = []string{second, "nosuch"} })},
		"a bad name":        {xdpdv1.ErrorReason_ERROR_REASON_INVALID_ARGUMENT, with(func(r *xdpdv1.AddProgramRequest) { r.Name = "../../etc" })},
		"name taken":        {xdpdv1.ErrorReason_ERROR_REASON_PROGRAM_EXISTS, with(func(r *xdpdv1.AddProgramRequest) { r.Name, r.Interfaces = "b", []string{second} })},
		"member already":    {xdpdv1.ErrorReason_ERROR_REASON_MEMBER_EXISTS, with(func(r *xdpdv1.AddProgramRequest) { r.Name = "a" })},
		"contradiction":     {xdpdv1.ErrorReason_ERROR_REASON_POSITION_CONFLICT, with(func(r *xdpdv1.AddProgramRequest) { r.Position, r.Priority = first, ptr(int32(99)) })},
		"before nobody":     {xdpdv1.ErrorReason_ERROR_REASON_MEMBER_NOT_FOUND, with(func(r *xdpdv1.AddProgramRequest) { r.Position = before("nobody") })},
		"another mode":      {xdpdv1.ErrorReason_ERROR_REASON_MODE_CONFLICT, with(func(r *xdpdv1.AddProgramRequest) { r.Mode = xdpdv1.Mode_MODE_GENERIC })},
		"unknown mode":      {xdpdv1.ErrorReason_ERROR_REASON_INVALID_ARGUMENT, with(func(r *xdpdv1.AddProgramRequest) { r.Mode = 77 })},
		"unknown verdict":   {xdpdv1.ErrorReason_ERROR_REASON_INVALID_ARGUMENT, with(func(r *xdpdv1.AddProgramRequest) { r.ProceedOn = &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{31}} })},
		"remove nobody":     {xdpdv1.ErrorReason_ERROR_REASON_PROGRAM_NOT_FOUND, removing("nobody")},
		"remove elsewhere":  {xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND, removing("a", second)},
		"no update":         {xdpdv1.ErrorReason_ERROR_REASON_INVALID_ARGUMENT, updating()},
		"before itself":     {xdpdv1.ErrorReason_ERROR_REASON_POSITION_CONFLICT, set(&xdpdv1.MemberUpdate{Program: "a", Position: before("a")})},
		"update of nobody":  {xdpdv1.ErrorReason_ERROR_REASON_PROGRAM_NOT_FOUND, set(&xdpdv1.MemberUpdate{Program: "nobody", Enabled: ptr(false)})},
		"good and bad update": {xdpdv1.ErrorReason_ERROR_REASON_POSITION_CONFLICT, updating(
			&xdpdv1.MemberUpdate{Program: "a", Position: last}, &xdpdv1.MemberUpdate{Program: "b", Position: last, Priority: ptr(int32(1))})},
	} {
		t.Run(name, func(t *testing.T) {
			outer := h.TB
			h.TB = t
			defer func() { h.TB = outer }()
			h.refused(c.reason, c.change)
		})
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestFullChain fills a chain and asks for one member more.
func TestFullChain(t *testing.T) {
	h := newHost(t)
	h.start()
	for i := range 64 {
		// The kernel lets a program have 64 maps, those of an inline chain counted together with its own one.
		h.do(adding(add(fmt.Sprint("p", i), "plain", nettest.Dev)))
	}
	h.refused(xdpdv1.ErrorReason_ERROR_REASON_CHAIN_FULL, adding(add("surplus", "pass", nettest.Dev)))
	h.Check()
	h.d.kill()
	h.start()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestForeignProgram asks for a chain where somebody else's program is: the error says whose, and the program stays.
func TestForeignProgram(t *testing.T) {
	h := newHost(t, second)
	h.start()
	theirs, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "theirs", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	held, err := nsAttach(h, theirs)
	if err != nil {
		t.Fatal(err)
	}
	id := h.attached(second)
	err = h.refused(xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_BUSY, adding(add("a", "pass", nettest.Dev, second)))
	facts := client.Facts(err)
	if facts["interface"] != second || facts["holder_name"] != "theirs" || facts["holder_id"] != fmt.Sprint(id) || facts["holder_mode"] != "generic" {
		t.Errorf("facts: %v", facts)
	}
	if now := h.attached(second); now != id || id == 0 {
		t.Errorf("program %d was attached, now %d", id, now)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	h.bare(second)
	h.do(adding(add("a", "pass", nettest.Dev, second)))
	h.Check()
	h.stop(unix.SIGTERM)
}

func nsAttach(h *host, p *ebpf.Program) (held link.Link, err error) {
	index := h.ns.Index(h, second)
	nettest.RunIn(h.ns, func() {
		held, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: index, Flags: link.XDPGenericMode})
	})
	return held, err
}

// TestSameNameTwice has two clients add different programs of one name at the same time: exactly one wins.
func TestSameNameTwice(t *testing.T) {
	h := newHost(t, second)
	h.start()
	for range 10 {
		requests := []*xdpdv1.AddProgramRequest{add("n", "pass", nettest.Dev), add("n", "goon", second)}
		var wg sync.WaitGroup
		errs := make([]error, len(requests))
		for i, r := range requests {
			ctx := h.ctx()
			wg.Go(func() { _, errs[i] = h.client.AddProgram(ctx, r) })
		}
		wg.Wait()
		winner, loser := 0, 1
		if errs[0] != nil {
			winner, loser = 1, 0
		}
		if errs[winner] != nil || client.Reason(errs[loser]) != xdpdv1.ErrorReason_ERROR_REASON_PROGRAM_EXISTS {
			t.Fatalf("answers: %v; %v", errs[0], errs[1])
		}
		next, err := h.model.add(requests[winner])
		if err != nil {
			t.Fatal(err)
		}
		h.model = next
		h.Check()
		h.do(removing("n"))
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// rawCodec sends bytes as they are, instead of a message.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (rawCodec) Name() string                       { return "proto" }

// TestGarbage sends what is no gRPC, and gRPC whose messages are no protobuf. The daemon lives.
func TestGarbage(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)))
	for _, bytes := range [][]byte{
		{}, []byte("GET / HTTP/1.1\r\n\r\n"), []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff"), make([]byte, 1<<16),
	} {
		conn, err := net.Dial("unix", h.socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(bytes); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("send %d bytes: %v", len(bytes), err)
		}
		conn.Close()
	}
	conn, err := grpc.NewClient("unix:"+h.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, message := range [][]byte{{0xff}, {0x0a, 0x7f, 'x'}, {0x0a, 0x02, 0xff, 0xfe}, bytes.Repeat([]byte{0x80}, 4096)} {
		for _, method := range []string{"AddProgram", "RemoveProgram", "UpdateMembers", "GetChain"} {
			var answer []byte
			err := conn.Invoke(h.ctx(), "/xdpd.v1.XdpdService/"+method, message, &answer, grpc.ForceCodec(rawCodec{}))
			if code := status.Code(err); code != codes.Internal && code != codes.InvalidArgument {
				t.Errorf("%s with % x: %v", method, message[:1], err)
			}
		}
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestGoneClients sends changes and does not wait for the answers: each is made as a whole or not at all.
func TestGoneClients(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("keep", "goon", nettest.Dev, second)))
	for i := range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*2*time.Millisecond)
		name := fmt.Sprint("p", i)
		_, err := h.client.AddProgram(ctx, add(name, "pass", nettest.Dev, second))
		cancel()
		if err != nil && status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("answer after %d ms: %v", 2*i, err)
		}
	}
	h.d.kill() // whatever is still being done for a client that is gone
	h.start()
	h.learn()
	h.uncounted()
	for name := range h.model.programs {
		if places := h.model.places(name); len(places) != 2 {
			t.Errorf("program %s is on %v, want both or none", name, places)
		}
	}
	h.Check()
	h.stop(unix.SIGTERM)
}
