// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// newReloadHost makes a host with binaries of its own, which a test can replace.
func newReloadHost(t *testing.T, more ...string) *host {
	t.Helper()
	h := newHost(t, more...)
	before := binDir
	t.Cleanup(func() { binDir = before })
	own := filepath.Join(h.dir, "bin")
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"xdpd", "xdpctl"} {
		if err := os.Link(filepath.Join(before, name), filepath.Join(own, name)); err == nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(before, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(own, name), data, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	binDir = own
	return h
}

// install puts another file in the place of the daemon's program by a rename, as a package does; nil: a copy of what
// is there.
func (h *host) install(program []byte) {
	h.Helper()
	h.prepare(program)()
}

// prepare is install up to the rename.
func (h *host) prepare(program []byte) (install func()) {
	h.Helper()
	path := filepath.Join(binDir, "xdpd")
	var err error
	if program == nil {
		if program, err = os.ReadFile(path); err != nil {
			h.Fatal(err)
		}
	}
	if err = os.WriteFile(path+".new", program, 0o700); err != nil {
		h.Fatal(err)
	}
	return func() {
		if err := os.Rename(path+".new", path); err != nil {
			h.Fatal(err)
		}
	}
}

// logged waits until the daemon's log has a text that many times.
func (h *host) logged(times int, text string) {
	h.Helper()
	h.eventually(fmt.Sprintf("the log has %d times %q", times, text), func() bool {
		select {
		case <-h.d.done:
			h.Fatalf("the daemon ended with %v", h.d.ended)
		default:
		}
		return strings.Count(h.d.log.String(), text) >= times
	})
}

// lateCheck is what the log says of a check that took too long.
const lateCheck = "did not answer within"

// reload reloads and waits until the next program is ready. A machine that has no time for the check refuses, and is
// asked again.
func (h *host) reload() {
	h.Helper()
	before := h.since()
	h.d.signal(unix.SIGHUP)
	h.reloading("another program serves", func() bool { return h.since() != before })
	h.model.started()
}

// reloading waits for what comes of a SIGHUP, as reload does.
func (h *host) reloading(what string, done func() bool) {
	h.Helper()
	refused := strings.Count(h.d.log.String(), lateCheck)
	h.eventually(what, func() bool {
		if n := strings.Count(h.d.log.String(), lateCheck); n > refused {
			refused = n
			h.d.signal(unix.SIGHUP)
		}
		return done()
	})
}

// since is when the program that serves began to.
func (h *host) since() time.Time {
	h.Helper()
	st, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		h.Fatal(err)
	}
	return st.GetStarted().AsTime()
}

// runsInstalled fails the test unless the daemon's process runs the file that is installed.
func (h *host) runsInstalled() {
	h.Helper()
	installed, err := os.Stat(filepath.Join(binDir, "xdpd"))
	if err != nil {
		h.Fatal(err)
	}
	runs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", h.d.cmd.Process.Pid))
	if err != nil {
		h.Fatal(err)
	}
	if !os.SameFile(installed, runs) {
		h.Error("the daemon does not run the program that is installed")
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", h.d.cmd.Process.Pid)); err != nil || string(comm) != "xdpd\n" {
		h.Errorf("the process is called %q, %v", comm, err)
	}
}

// descriptors are what the daemon has open at the moment, without numbers of sockets, and without what is BPF's.
func (h *host) descriptors() (open []string) {
	h.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", h.d.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		h.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		if kind, _, _ := strings.Cut(to, ":["); !strings.HasPrefix(kind, "anon_inode:bpf") { // for checkDescriptors
			open = append(open, kind)
		}
	}
	slices.Sort(open)
	return open
}

// TestReload reloads several times, each time into another file, while packets come in on three interfaces and clients
// make calls: not a packet is lost or counted twice, no program of a chain is another, no call fails, and nothing
// is open afterwards that was not before.
func TestReload(t *testing.T) {
	h := newReloadHost(t, second, third)
	h.start()
	p := &parade{host: h, interfaces: []string{nettest.Dev, second, third}, order: []int{1, 2, 3}, version: 1}
	first := p.spec(nil)
	first.Objects = [][]byte{trails}
	if _, err := h.client.SetChains(h.ctx(), first); err != nil {
		t.Fatalf("%v %v\n%s", err, client.Facts(err), client.VerifierLog(err))
	}
	before := map[string]*xdpdv1.Chain{}
	for _, iface := range p.interfaces {
		before[iface] = h.chain(iface)
	}
	socket, err := os.Lstat(h.socket)
	if err != nil {
		t.Fatal(err)
	}
	atWork := len(h.descriptors())
	h.reload() // so that both are after one
	h.logged(2, "msg=ready ")
	h.checkDescriptors()
	var open []string
	h.eventually("the daemon has everything open", func() bool { open = h.descriptors(); return len(open) >= atWork })
	times, clients := 10, 20
	if testing.Short() {
		times, clients = 3, 5 // a slow machine has more to do with 20 than can be done in the time of a drain
	}
	stop := h.flows(p.interfaces)
	callers := h.callers(clients)
	for range times {
		callers.more(h, 50)
		h.install(nil)
		h.reload()
		h.runsInstalled()
	}
	callers.more(h, 50)
	callers.stop()
	sent := stop()
	if after, err := os.Lstat(h.socket); err != nil || !os.SameFile(socket, after) {
		t.Errorf("the socket's file is another one: %v", err)
	}
	var all uint64
	for iface, n := range sent {
		all += n
		c := h.chain(iface)
		if c.GetKernelId() != before[iface].GetKernelId() || c.GetLinkId() != before[iface].GetLinkId() || c.GetRevision() != before[iface].GetRevision() {
			t.Errorf("%s has another program or link:\n%v\n%v", iface, before[iface], c)
		}
		if c.GetPackets() != n || c.GetPacketsEnd() != n {
			t.Errorf("%s counted %d and %d packets at the end, want %d", iface, c.GetPackets(), c.GetPacketsEnd(), n)
		}
	}
	if got := h.tally("end"); got.Seen != all || got.Wrong != 0 {
		t.Errorf("of %d packets %d were seen and %d had a wrong trail: %+v", all, got.Seen, got.Wrong, got)
	}
	t.Logf("%d calls, %v packets", callers.calls.Load(), sent)
	h.eventually(fmt.Sprintf("the daemon has no more open than %v", open), func() bool {
		left := slices.Clone(open)
		for _, kind := range h.descriptors() {
			i := slices.Index(left, kind)
			if i < 0 {
				return false
			}
			left = slices.Delete(left, i, i+1)
		}
		return true
	})
	h.learn()
	h.checkAPI()
	h.checkStore()
	h.checkKernel()
	h.checkDescriptors()
	h.stop(unix.SIGTERM)
}

// TestReloadUnderChanges reloads while a client makes changes: each is made.
func TestReloadUnderChanges(t *testing.T) {
	h := newReloadHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "pass", nettest.Dev)))
	conn, err := grpc.NewClient("unix://"+h.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before := h.chain(nettest.Dev).GetRevision()
	ctx, cancel := context.WithCancel(t.Context())
	made := make(chan uint64, 1)
	go func() {
		var n uint64
		defer func() { made <- n }()
		for ; ctx.Err() == nil && !t.Failed(); n++ {
			r := &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: []string{"a", "b"}[n%2], Interface: nettest.Dev, Position: last}}}
			if _, err := xdpdv1.NewXdpdServiceClient(conn).UpdateMembers(h.ctx(), r); err != nil {
				t.Errorf("change %d: %v %v", n, err, client.Facts(err))
			}
		}
	}()
	for range 3 {
		h.reload()
	}
	cancel()
	n := <-made
	if got := h.chain(nettest.Dev).GetRevision() - before; got != n {
		t.Errorf("%d revisions came of %d changes", got, n)
	}
	t.Logf("%d changes", n)
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestReloadEndsStreams: a watcher is told that it is a reload, and calls again.
func TestReloadEndsStreams(t *testing.T) {
	h := newReloadHost(t)
	h.start()
	watch, err := h.client.Watch(h.ctx(), &xdpdv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	started, err := watch.Recv()
	if err != nil {
		t.Fatal(err)
	}
	h.reload()
	for err == nil {
		_, err = watch.Recv()
	}
	if errors.Is(err, io.EOF) || status.Code(err) != codes.Unavailable || client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_STOPPING ||
		!strings.Contains(err.Error(), "reload") {
		t.Errorf("the watcher got %v", err)
	}
	again, err := h.client.Watch(h.ctx(), &xdpdv1.WatchRequest{ResumeToken: started.GetResumeToken()})
	if err == nil {
		_, err = again.Recv()
	}
	if err != nil {
		t.Errorf("watch again: %v", err)
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestReloadSocket reloads with another mode of the socket, and without the socket's file, which is made anew.
func TestReloadSocket(t *testing.T) {
	h := newReloadHost(t)
	h.start()
	config, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Lstat(h.socket)
	if err != nil {
		t.Fatal(err)
	}
	h.rewrite(append(config, "socket_mode: \"0600\"\nsocket_group: 1234\n"...))
	h.reload()
	after, err := os.Lstat(h.socket)
	if err != nil {
		t.Fatal(err)
	}
	if st := after.Sys().(*syscall.Stat_t); !os.SameFile(before, after) || after.Mode().Perm() != 0o600 || st.Gid != 1234 {
		t.Errorf("the socket has mode %v and group %d", after.Mode(), st.Gid)
	}
	if err := os.Remove(h.socket); err != nil {
		t.Fatal(err)
	}
	h.d.signal(unix.SIGHUP)
	h.reloading("another reload", func() bool { return strings.Count(h.d.log.String(), "msg=ready ") == 3 })
	h.logged(1, "the socket that was handed over is of no use")
	if after, err := os.Lstat(h.socket); err != nil || after.Mode().Perm() != 0o600 {
		t.Errorf("the new socket: %v, %v", after, err)
	}
	h.model.started()
	h.Check()
	h.stop(unix.SIGTERM)
}
