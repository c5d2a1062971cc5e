// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// patience is how long a daemon may take for anything; a VM without hardware help is slow.
const patience = 60 * time.Second

// host is what one daemon needs: a network namespace, folders and a configuration; and what is known of it.
type host struct {
	testing.TB
	ns     *nettest.NS
	dir    string // for everything but pins
	pins   string // the daemon's folder in BPF FS
	socket string
	config string
	model  *model
	ids    kernelIDs // that the daemon made and that are gone after a stop
	d      *daemon   // the one that was started last
	client *client.Client

	patience time.Duration // with calls, starts and stops of the daemon; 0: patience

	wires  map[string]wire
	others map[string]*nettest.NS // by what is before the colon in references
	moved  map[string]device      // where links were made of interfaces that are elsewhere now
	waits  uint64                 // the number of the change in the last answer that waits to be confirmed
}

// wire is the way of packets to one interface.
type wire struct {
	sender   *nettest.Sender
	receiver *nettest.Receiver
}

// newHost makes a host with the pair of nettest.New and more pairs.
func newHost(t testing.TB, more ...string) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	h := &host{
		TB: t, ns: nettest.New(t), dir: dir, pins: filepath.Join(bpffs, filepath.Base(dir)), socket: dir + "/run/sock", config: dir + "/config.yaml",
		model: newModel(), ids: newKernelIDs(), wires: map[string]wire{}, others: map[string]*nettest.NS{}, moved: map[string]device{},
	}
	t.Cleanup(h.cleanup)
	config := fmt.Sprintf("socket: %s\nstate_dir: %s/state\nbpffs: %s\nlog_level: debug\nlog_format: text\n", h.socket, dir, h.pins)
	if linker := os.Getenv("XDPD_TEST_LINKER"); linker != "" {
		config += "linker: " + linker + "\n"
	}
	if err := os.WriteFile(h.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	h.plug(nettest.Dev, nettest.Peer)
	for _, dev := range more {
		h.ns.AddPair(t, dev, dev+"p")
		h.plug(dev, dev+"p")
	}
	return h
}

// plug opens a sender and a receiver for packets that come in at dev.
func (h *host) plug(dev, peer string) {
	h.Helper()
	h.wires[dev] = wire{h.ns.Sender(h, peer), h.ns.Receiver(h, dev, nettest.EtherType)}
}

// cleanup ends what a test left, which a test that got to its end has not: it leaves nothing.
func (h *host) cleanup() {
	if h.client != nil {
		h.client.Close()
	}
	if h.d != nil {
		h.d.kill()
		if h.Failed() {
			h.Logf("the daemon's log:\n%s", h.d.log.String())
		}
	}
	if _, err := os.Lstat(h.pins); err == nil {
		if !h.Failed() {
			h.Errorf("the test ends with a daemon's folder %s", h.pins)
		}
		h.run("xdpd", "teardown", "--config", h.config)
		os.RemoveAll(h.pins)
	}
	os.RemoveAll(h.dir)
}

// daemon is a process of xdpd.
type daemon struct {
	testing.TB
	cmd     *exec.Cmd
	log     buffer
	ready   chan struct{}
	done    chan struct{} // closed when it ended
	notices *net.UnixConn
	ended   *os.ProcessState // after done

	patience time.Duration // with its end
}

// launch starts a daemon and does not wait for it.
func (h *host) launch(env ...string) *daemon {
	h.Helper()
	if h.client != nil {
		h.client.Close()
		h.client = nil
	}
	path := h.dir + "/notify"
	os.Remove(path)
	notices, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		h.Fatal(err)
	}
	d := &daemon{TB: h, ready: make(chan struct{}), done: make(chan struct{}), notices: notices, patience: cmp.Or(h.patience, patience)}
	d.cmd = exec.Command(filepath.Join(binDir, "xdpd"), "serve", "--config", h.config)
	d.cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+path), env...)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	nettest.RunIn(h.ns, func() { err = d.cmd.Start() })
	if err != nil {
		h.Fatalf("start the daemon: %v", err)
	}
	go d.listen()
	go func() {
		_ = d.cmd.Wait() // what counts of it is in ProcessState
		d.ended = d.cmd.ProcessState
		notices.Close()
		close(d.done)
	}()
	if h.d != nil {
		previous := h.d
		h.Cleanup(previous.kill)
		h.Cleanup(func() {
			if h.Failed() {
				h.Logf("the log of an earlier daemon:\n%s", previous.log.String())
			}
		})
	}
	h.d = d
	return d
}

// listen waits for READY.
func (d *daemon) listen() {
	buf := make([]byte, 4096)
	told := false
	for {
		n, err := d.notices.Read(buf)
		if err != nil {
			return
		}
		if !told && bytes.Contains(buf[:n], []byte("READY=1")) {
			told = true
			close(d.ready)
		}
	}
}

// start starts a daemon and waits until it is ready.
func (h *host) start(env ...string) *daemon {
	h.Helper()
	d := h.launch(env...)
	select {
	case <-d.ready:
	case <-d.done:
		h.Fatalf("the daemon ended before it was ready: %v\n%s", d.ended, d.log.String())
	case <-time.After(d.patience):
		h.Fatalf("the daemon is not ready after %v", d.patience)
	}
	c, err := client.Dial(h.socket)
	if err != nil {
		h.Fatal(err)
	}
	h.client = c
	h.model.started()
	return d
}

// wait waits for the end of the daemon.
func (d *daemon) wait() *os.ProcessState {
	d.Helper()
	select {
	case <-d.done:
	case <-time.After(d.patience):
		d.Fatalf("the daemon did not end within %v\n%s", d.patience, d.log.String())
	}
	return d.ended
}

// kill ends the daemon the hard way; one that ended already is fine.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

func (d *daemon) signal(s os.Signal) {
	d.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.Fatalf("send %v to the daemon: %v", s, err)
	}
}

// killed fails the test unless the daemon ended, or ends now, by SIGKILL.
func (d *daemon) killed() {
	d.Helper()
	if status := d.wait().Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGKILL {
		d.Fatalf("the daemon ended with %v, want it killed", d.ended)
	}
}

// stop stops the daemon with a signal and fails the test unless nothing of it is left.
func (h *host) stop(s os.Signal) {
	h.Helper()
	h.d.signal(s)
	h.stopped()
}

// stopped waits for a daemon that was told to stop, and looks that nothing is left.
func (h *host) stopped() {
	h.Helper()
	if ended := h.d.wait(); ended.ExitCode() != 0 {
		h.Errorf("the daemon stopped with %v", ended)
	}
	if _, err := os.Lstat(h.socket); err == nil {
		h.Error("the daemon stopped and left its socket")
	}
	h.nothingLeft()
	h.model.stopped()
}

// nothingLeft fails the test if anything of the daemon is in the kernel.
func (h *host) nothingLeft() {
	h.Helper()
	if _, err := os.Lstat(h.pins); err == nil {
		h.Errorf("the folder %s is left", h.pins)
	}
	for _, l := range h.ids.alive(patience) {
		h.Errorf("left in the kernel: %s", l)
	}
	for dev := range h.wires {
		h.bare(dev)
	}
}

// result is what a command did.
type result struct {
	code           int
	stdout, stderr string
}

// run runs one of the binaries in the host's namespace.
func (h *host) run(name string, args ...string) result {
	h.Helper()
	return h.runWith(nil, name, args...)
}

func (h *host) runWith(stdin []byte, name string, args ...string) result {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, name), args...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	cmd.Env = append(os.Environ(), "XDPD_SOCKET="+h.socket, "NOTIFY_SOCKET=")
	var err error
	nettest.RunIn(h.ns, func() { err = cmd.Start() })
	if err != nil {
		h.Fatalf("start %s: %v", name, err)
	}
	_ = cmd.Wait() // the code is in ProcessState
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// buffer is a log that is written to and read at the same time.
type buffer struct {
	mu sync.Mutex // protects b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
