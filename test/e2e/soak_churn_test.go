// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// clients makes requests until the context ends, each client on a connection of its own for some time.
func (s *soak) clients(ctx context.Context, d draw) {
	for ctx.Err() == nil && !s.Failed() {
		c, err := client.Dial(s.socket)
		if err != nil {
			s.Error(err)
			return
		}
		// One that could not connect does not try again at once.
		for n := 1 + d.IntN(20); n > 0 && ctx.Err() == nil && s.operation(d, c); n-- {
		}
		c.Close()
	}
}

// operation is one of a client. It tells whether the daemon was there.
func (s *soak) operation(d draw, c *client.Client) bool {
	s.gate.RLock()
	defer s.gate.RUnlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	before, reloads := s.outages.Load(), s.reloads.Load()
	if before%2 == 1 {
		time.Sleep(5 * time.Millisecond) // clients pause while there is no daemon
	}
	what, err := "", error(nil)
	switch n := d.IntN(100); {
	case n < 6:
		what, err = "lease", s.lease(ctx, d, c)
	case n < 14:
		what, err = "look", s.lookAround(ctx, d, c)
	case n < 18:
		what, err = "hang up", s.hangUp(d, c)
	default:
		r := s.request(d)
		what = nameOf(r)
		one := &host{TB: brief{s.TB, ctx}, client: c}
		_, err = one.ask(r)
	}
	killed := before%2 == 1 || s.outages.Load() != before
	s.judge(what, err, killed || reloads%2 == 1 || s.reloads.Load() != reloads)
	return !killed
}

func nameOf(r proto.Message) string {
	return strings.TrimSuffix(string(r.ProtoReflect().Descriptor().Name()), "Request")
}

// judge fails the test for what is neither done nor refused for a reason, unless the daemon was killed or reloaded meanwhile.
func (s *soak) judge(what string, err error, away bool) {
	how := "done"
	switch reason := client.Reason(err); {
	case err == nil:
	case reason != 0:
		how = strings.TrimPrefix(reason.String(), "ERROR_REASON_")
	case away && status.Code(err) == codes.Unavailable:
		how = "cut off"
	default:
		s.Errorf("%s: %v", what, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[what+" "+how]++
}

// soakNames are those of the programs that clients add.
var soakNames = []string{"a", "b", "c", "d", "e"}

// request is one that changes something, and lets all packets pass.
func (s *soak) request(d draw) proto.Message {
	o := &xdpdv1.ChangeOptions{DryRun: d.one(10)}
	if d.one(40) {
		o.ConfirmWithin = durationpb.New(time.Duration(1+d.IntN(2)) * time.Second)
	}
	name := d.pick(soakNames)
	on := []string{d.pick(s.refs)}
	if d.one(3) {
		on = d.some(s.refs)
	}
	switch n := d.IntN(100); {
	case n < 35:
		r := add(name, []string{"pass", "goon"}[slices.Index(soakNames, name)%2], on...)
		r.Object, r.Priority, r.Position, r.Options = s.passing, d.priority(), nil, o
		if r.GetPriority() == 0 && d.one(2) {
			r.Position = first
		}
		if d.one(8) {
			r.Interfaces = []string{"xdev[0-9]"}
		}
		return r
	case n < 55:
		r := &xdpdv1.RemoveProgramRequest{Name: name, Interfaces: on, Options: o}
		if d.one(2) {
			r.Interfaces = nil
		}
		return r
	case n < 70:
		u := &xdpdv1.MemberUpdate{Program: name, Interface: d.pick(append(s.refs, "")), Priority: d.priority()}
		if d.one(2) {
			u.Enabled = ptr(d.one(2))
		}
		return &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{u}, Options: o}
	case n < 82:
		r := &xdpdv1.ReplaceProgramRequest{Name: name, Object: s.passing, Function: "goon", Options: o, FreshMaps: d.one(4), Settings: &xdpdv1.ProgramSettings{}}
		if d.one(2) {
			r.Object, r.Function, r.Settings.Globals = s.settable, "chosen", map[string]string{"verdict": d.pick([]string{"2", "31"})}
		}
		return r
	case n < 92:
		r := &xdpdv1.SetChainsRequest{Options: o}
		for _, iface := range on {
			names := append(d.some(soakNames)[:1], base)
			r.Chains = append(r.Chains, chainOf(iface, names...))
		}
		return r
	case n < 96:
		return &xdpdv1.RollbackRequest{Interface: on[0], Options: o}
	case n < 98:
		return &xdpdv1.ConfirmRequest{Id: uint64(d.IntN(1000))}
	}
	return &xdpdv1.CancelRequest{Id: uint64(d.IntN(1000))}
}

// lease holds a lease with a program for a moment, and lets it go in one of several ways.
func (s *soak) lease(ctx context.Context, d draw, c *client.Client) error {
	own, err := client.Dial(s.socket)
	if err != nil {
		return err
	}
	defer own.Close()
	l, err := own.Hold(ctx, client.HoldOptions{Grace: time.Duration(d.IntN(2)) * 100 * time.Millisecond})
	if err != nil {
		return err
	}
	defer l.Close()
	r := leased(l.Token(), add("leased"+d.pick(soakNames), "goon", d.pick(s.refs)))
	r.Object = s.passing
	_, err = c.AddProgram(ctx, r)
	switch d.IntN(3) {
	case 0:
		own.Close()
	case 1:
		if released := l.Release(ctx); err == nil && client.Reason(released) != leaseGone {
			err = released
		}
	}
	return err
}

// lookAround asks without changing anything.
func (s *soak) lookAround(ctx context.Context, d draw, c *client.Client) (err error) {
	switch d.IntN(4) {
	case 0:
		_, err = c.GetStatus(ctx, &xdpdv1.GetStatusRequest{})
	case 1:
		_, err = c.ListPrograms(ctx, &xdpdv1.ListProgramsRequest{})
	case 2:
		_, err = c.ListHistory(ctx, &xdpdv1.ListHistoryRequest{Interface: d.pick(s.refs)})
	default:
		_, err = c.ListChains(ctx, &xdpdv1.ListChainsRequest{})
	}
	return err
}

// hangUp leaves in the middle of something.
func (s *soak) hangUp(d draw, c *client.Client) error {
	if d.one(2) {
		conn, err := net.Dial("unix", s.socket)
		if err == nil {
			conn.Close()
		}
		return nil // there may be no daemon
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(d.IntN(30))*time.Millisecond)
	defer cancel()
	if d.one(2) {
		_, _ = c.SetChains(ctx, s.declare(s.refs))
		return nil
	}
	if w, err := c.Watch(ctx, &xdpdv1.WatchRequest{}); err == nil {
		for err == nil {
			_, err = w.Recv()
		}
	}
	return nil
}

func (s *soak) declare(refs []string) *xdpdv1.SetChainsRequest {
	r := &xdpdv1.SetChainsRequest{}
	for _, iface := range refs {
		r.Chains = append(r.Chains, chainOf(iface, base))
	}
	return r
}

// wrong makes one thing go wrong. None of it touches the packets to nettest.Dev.
func (s *soak) wrong() {
	s.Helper()
	iface := []string{"xdev1", "xdev2", "xdev3"}[s.rand.IntN(3)]
	now := s.named[iface]
	what := ""
	switch n := s.rand.IntN(100); {
	case n < 20 && now != "":
		what, s.named[iface] = "delete", ""
		s.ns.Delete(s, now)
	case n < 20:
		what = "make anew"
		s.mendName(iface)
	case n < 40 && now == iface:
		what, s.named[iface] = "rename", "xoth"+iface[4:]
		s.ns.Rename(s, now, s.named[iface])
	case n < 40:
		what = "rename back"
		s.mendName(iface)
	case n < 50 && now != "":
		what = "detach"
		s.detachSome(now)
	case n < 65:
		what = "remove a pin"
		s.removeSome()
	case n < 75 && now != "":
		what = "foreign program"
		s.foreignFor(now)
	case n < 80:
		what = "kill a lessee"
		s.killLessee()
	case n < 86:
		what = "kill"
		during(&s.outages, func() { s.d.kill(); s.start() })
	case n < 90:
		what = "reload"
		during(&s.reloads, s.reload) // what its drain has no time for is cut off
	}
	if what != "" {
		s.judge(what, nil, false)
	}
}

// mendName makes an interface what it was.
func (s *soak) mendName(iface string) {
	s.Helper()
	switch now := s.named[iface]; now {
	case iface:
		return
	case "":
		s.ns.AddPair(s, iface, iface+"p")
	default:
		s.ns.Rename(s, now, iface)
	}
	s.named[iface] = iface
}

// mend undoes what went wrong.
func (s *soak) mend() {
	s.Helper()
	if s.takeAway != nil {
		s.takeAway()
		s.takeAway = nil
	}
	for _, iface := range slices.Sorted(maps.Keys(s.named)) {
		s.mendName(iface)
	}
}

// detachSome detaches the link of an interface, if it has one.
func (s *soak) detachSome(iface string) {
	s.Helper()
	for _, pin := range s.glob("chains/*-%d/link", s.ns.Index(s, iface)) {
		if l, err := link.LoadPinnedLink(pin, nil); err == nil {
			_ = l.Detach() // its interface may be gone
			l.Close()
		}
	}
}

// removeSome removes some pin, but none of the chain of nettest.Dev, whose counts it could be.
func (s *soak) removeSome() {
	s.Helper()
	spared := filepath.Join(s.pins, s.device(nettest.Dev).folder()) + "/"
	all := slices.DeleteFunc(slices.Concat(s.glob("chains/*/*"), s.glob("chains/*/*/*"), s.glob("programs/*/maps/*"), s.glob("programs/*")),
		func(path string) bool { return strings.HasPrefix(path, spared) })
	if len(all) > 0 {
		_ = os.RemoveAll(all[s.rand.IntN(len(all))]) // it may be gone already
	}
}

// foreignFor takes the foreign program away that there is, or puts one in place of an interface's chain.
func (s *soak) foreignFor(iface string) {
	s.Helper()
	if s.takeAway != nil {
		s.takeAway()
		s.takeAway = nil
		return
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		s.Fatal(err)
	}
	defer p.Close()
	index := s.ns.Index(s, iface)
	s.detachSome(iface)
	nettest.RunIn(s.ns, func() {
		if l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: index}); err == nil { // else the daemon was quicker
			s.takeAway = func() { l.Close() }
		}
	})
}

// killLessee kills a process that holds a lease with a program.
func (s *soak) killLessee() {
	s.Helper()
	r, token := s.lessee()
	add := leased(token, add("rented", "goon", s.refs[s.rand.IntN(len(s.refs))]))
	add.Object = s.passing
	_, err := s.client.AddProgram(s.ctx(), add)
	s.judge("rent", err, false)
	if err := r.cmd.Process.Signal(unix.SIGKILL); err != nil {
		s.Error(err)
	}
	r.end()
}

// kernelCounts is how much in the kernel is of the programs of a test.
type kernelCounts struct{ programs, maps, links int }

// inKernel looks through everything in the kernel for the maps that only programs of this test have, for the programs that
// use them, and the links of these.
func (s *soak) inKernel() (n kernelCounts) {
	s.Helper()
	ours, ids := map[ebpf.MapID]bool{}, map[ebpf.ProgramID]bool{}
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		if m, err := ebpf.NewMapFromID(id); err == nil { // else it is gone
			info, err := m.Info()
			ours[id] = err == nil && info.Name == s.label
			m.Close()
			if ours[id] {
				n.maps++
			}
		}
	}
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue
		}
		if info, err := p.Info(); err == nil {
			used, _ := info.MapIDs()
			ids[id] = slices.ContainsFunc(used, func(m ebpf.MapID) bool { return ours[m] })
		}
		p.Close()
		if ids[id] {
			n.programs++
		}
	}
	var it link.Iterator
	defer it.Close()
	for it.Next() {
		if info, err := it.Link.Info(); err == nil && ids[info.Program] {
			n.links++
		}
	}
	if err := it.Err(); err != nil {
		s.Fatal(err)
	}
	return n
}
