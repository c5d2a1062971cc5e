// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// stage is what the acts share.
type stage struct {
	bin, dir string
	bpffs    string
	pins     string
	socket   string
	config   string
	wire     *wire
	client   *client.Client
	daemon   *exec.Cmd
	exited   chan struct{} // of daemon
	step     int
}

// newStage mounts a BPF FS, makes a pair of interfaces, and writes the files. The caller closes the stage.
func newStage(bin, dir string) (*stage, error) {
	s := &stage{bin: bin, dir: dir, bpffs: dir + "/bpf", socket: dir + "/xdpd.sock", config: dir + "/config.yaml"}
	s.pins = s.bpffs + "/xdpd"
	if err := os.Mkdir(s.bpffs, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("bpf", s.bpffs, "bpf", 0, ""); err != nil {
		return nil, fmt.Errorf("mount a BPF FS: %w", err)
	}
	config := fmt.Sprintf("socket: %s\nstate_dir: %s/state\nbpffs: %s\n", s.socket, dir, s.pins)
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		return nil, err
	}
	var err error
	if s.wire, err = lay(); err != nil {
		return nil, err
	}
	if s.client, err = client.Dial(s.socket); err != nil {
		return nil, errors.Join(err, s.wire.close())
	}
	return s, nil
}

// close ends what an act left when it failed. The interfaces and the mount go with the process.
func (s *stage) close() {
	if s.exited != nil {
		_ = s.daemon.Process.Kill()
		<-s.exited
	}
	_ = errors.Join(s.client.Close(), s.wire.close())
}

// tell begins a step.
func (s *stage) tell(text string) {
	s.step++
	fmt.Printf("\n%d. %s\n", s.step, strings.ReplaceAll(text, "\n", "\n   "))
}

// note says a line about what was seen.
func note(format string, args ...any) { fmt.Printf("   -> "+format+"\n", args...) }

// start starts the daemon and waits until it says that it is ready.
func (s *stage) start() error {
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.dir + "/notify", Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { ready.Close(); os.Remove(s.dir + "/notify") }()
	log, err := os.OpenFile(s.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Printf("   $ xdpd serve --config %s &\n", s.config)
	s.daemon = exec.Command(filepath.Join(s.bin, "xdpd"), "serve", "--config", s.config)
	s.daemon.Env = append(os.Environ(), "NOTIFY_SOCKET="+s.dir+"/notify")
	s.daemon.Stdout, s.daemon.Stderr = log, log
	s.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := s.daemon.Start(); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait() // ProcessState has how it ended
		ready.Close()
		close(exited)
	}(s.daemon)
	if err := ready.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("the daemon did not start: %w", err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := ready.Read(buf)
		if err != nil {
			return fmt.Errorf("the daemon did not become ready: %w", err)
		}
		if bytes.Contains(buf[:n], []byte("READY=1")) {
			return nil
		}
	}
}

// ended waits for the end of the daemon and returns how it ended.
func (s *stage) ended() (*os.ProcessState, error) {
	select {
	case <-s.exited:
		s.exited = nil
		return s.daemon.ProcessState, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("the daemon did not end within %v", patience)
	}
}

func (s *stage) daemonLog() string {
	log, err := os.ReadFile(s.dir + "/log")
	if err != nil {
		return ""
	}
	return string(log[max(0, len(log)-4000):])
}

// xdpctl runs the command and shows it with what it prints. The daemon must grant what it asks for.
func (s *stage) xdpctl(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fmt.Printf("   $ xdpctl %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "xdpctl"), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "XDPD_SOCKET="+s.socket)
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		fmt.Print("     ", line)
	}
	if err != nil {
		return fmt.Errorf("xdpctl %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// want is what a member is expected to have counted.
type want struct {
	program            string
	seen, passed, drop uint64
}

// chain shows the chain and compares it with what is expected: these members in this order, with these counts.
// Packets that are dropped cannot be waited for where they arrive, so the counts are waited for.
func (s *stage) chain(packets uint64, wants ...want) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var got string
	expected := fmt.Sprint(packets, " packets ", wants)
	for got != expected && ctx.Err() == nil {
		answer, err := s.client.GetChain(ctx, &xdpdv1.GetChainRequest{Interface: device})
		if err != nil {
			return fmt.Errorf("ask for the chain: %w", err)
		}
		c := answer.GetChain()
		var members []want
		for _, m := range c.GetMembers() {
			n := m.GetCounters()
			members = append(members, want{m.GetProgram(), n.GetSeen(), n.GetPassedOn(), n.GetEndedDrop()})
		}
		got = fmt.Sprint(c.GetPackets(), " packets ", members)
		if c.GetPackets() >= packets {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := s.xdpctl("chain", device); err != nil {
		return err
	}
	if got != expected {
		return fmt.Errorf("the chain is not as it should be (program, seen, passed on, dropped):\n got %s\nwant %s", got, expected)
	}
	return nil
}

// attached is the id of the XDP program on the device; 0: none.
func attached() (uint32, error) {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return 0, err
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		return x.ProgId, nil
	}
	return 0, nil
}
