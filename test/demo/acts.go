// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/examples"
)

// The ports that the demo's packets go to. The blocklist is told to drop those to the second.
const (
	good    = 7
	blocked = 9
)

// welcome says where this runs.
func (s *stage) welcome() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	fmt.Printf("xdpd on Linux %s, in a network namespace of its own: a veth cable from %s to %s.\n",
		unix.ByteSliceToString(u.Release[:]), peer, device)
	fmt.Println("Nothing of this machine is touched.")
	return nil
}

// begin starts the daemon and says which linker it uses.
func (s *stage) begin() error {
	s.tell("Start the daemon. It looks at the kernel and chooses how it links programs.")
	if err := s.start(); err != nil {
		return err
	}
	if err := s.xdpctl("status"); err != nil {
		return err
	}
	status, err := s.client.GetStatus(context.Background(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	linker := strings.ToLower(strings.TrimPrefix(status.GetLinker().String(), "LINKER_"))
	note("The linker is %s: %s.", linker, status.GetLinkerReason())
	if len(status.GetProblems()) > 0 {
		return fmt.Errorf("the daemon has problems: %v", status.GetProblems())
	}
	return nil
}

// add adds three programs that know nothing of each other.
func (s *stage) add() error {
	s.tell("Three teams add their programs to one interface. None of them knows of the others.")
	for name, content := range map[string][]byte{"blocklist": examples.Blocklist, "ratelimit": examples.Ratelimit, "sampler": examples.Sampler} {
		if err := os.WriteFile(filepath.Join(s.dir, object(name)), content, 0o600); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"add", object("blocklist"), "--interface", device, "--priority", "10"},
		{"add", object("ratelimit"), "--interface", device},
		{"add", object("sampler"), "--interface", device, "--priority", "90"},
		{"ls"},
	} {
		if err := s.xdpctl(args...); err != nil {
			return err
		}
	}
	if id, err := attached(); err != nil || id == 0 {
		return fmt.Errorf("no XDP program is on %s: %v", device, err)
	}
	return s.chain(0, want{program: "blocklist"}, want{program: "ratelimit"}, want{program: "sampler"})
}

// object is the file of an example, in the folder that xdpctl is run in.
func object(name string) string { return name + ".bpf.o" }

// block tells the blocklist, through its pinned map, to drop what goes to the blocked port.
func (s *stage) block() error {
	answer, err := s.client.GetProgram(context.Background(), &xdpdv1.GetProgramRequest{Name: "blocklist"})
	if err != nil {
		return err
	}
	for _, m := range answer.GetProgram().GetMaps() {
		if m.GetName() != "denied_ports" {
			continue
		}
		pinned, err := ebpf.LoadPinnedMap(m.GetPin(), nil)
		if err != nil {
			return fmt.Errorf("open the blocklist's map: %w", err)
		}
		defer pinned.Close()
		key := binary.BigEndian.AppendUint16([]byte{unix.IPPROTO_UDP, 0}, blocked)
		if err := pinned.Put(key, uint32(1)); err != nil {
			return fmt.Errorf("write to the blocklist's map: %w", err)
		}
		note("UDP port %d is put into the blocklist's map, pinned as %s.", blocked, strings.TrimPrefix(m.GetPin(), s.dir+"/"))
		return nil
	}
	return errors.New("the blocklist has no map denied_ports")
}

// traffic sends packets and shows what each member did to them.
func (s *stage) traffic() error {
	s.tell("Send 100 packets that are fine and 50 that the blocklist is told to drop.\nEach member counts what it did; what it drops does not reach the next.")
	if err := s.block(); err != nil {
		return err
	}
	if err := s.burst(); err != nil {
		return err
	}
	return s.chain(150, want{"blocklist", 150, 100, 50}, want{"ratelimit", 100, 100, 0}, want{"sampler", 100, 100, 0})
}

// burst sends 100 good packets and 50 blocked ones.
func (s *stage) burst() error {
	before := s.wire.passed.Load()
	if err := errors.Join(s.wire.send(50, blocked, false), s.wire.send(100, good, true)); err != nil {
		return err
	}
	if got := s.wire.passed.Load() - before; got != 100 {
		return fmt.Errorf("%d packets arrived, want 100", got)
	}
	note("100 packets arrived behind the chain.")
	return nil
}

// reorder moves a member while packets are counted on.
func (s *stage) reorder() error {
	s.tell("Move the sampler to the front, so that it sees also what the blocklist drops, and send the same again.\nThat is one swap of the whole chain; the counts go on.")
	if err := s.xdpctl("set", "sampler", "--priority", "5"); err != nil {
		return err
	}
	if err := s.burst(); err != nil {
		return err
	}
	return s.chain(300, want{"sampler", 250, 250, 0}, want{"blocklist", 300, 200, 100}, want{"ratelimit", 200, 200, 0})
}

// replace puts another version of a program in its place, under a stream of packets.
func (s *stage) replace() error {
	s.tell("Replace the blocklist by a version with room for more addresses, while packets come in without a break.\nMaps of the same shape are carried over: what it was told to drop, it goes on dropping.")
	packets := s.wire.stream(good)
	err := errors.Join(
		packets.more(500),
		s.xdpctl("replace", "blocklist", "--max-entries", "denied4=131072"),
		packets.more(500),
	)
	sent, streamErr := packets.stop()
	if err := errors.Join(err, streamErr); err != nil {
		return err
	}
	note("%d packets were sent meanwhile, and all arrived.", sent)
	if err := s.burst(); err != nil {
		return err
	}
	return s.chain(450+sent, want{"sampler", 400 + sent, 400 + sent, 0}, want{"blocklist", 450 + sent, 300 + sent, 150}, want{"ratelimit", 300 + sent, 300 + sent, 0})
}

// undo makes a change that undoes itself, as nobody confirms it.
func (s *stage) undo() error {
	s.tell("Make a change that must be confirmed within a second, and do not confirm it. It undoes itself.")
	before, err := s.client.GetChain(context.Background(), &xdpdv1.GetChainRequest{Interface: device})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	events, err := s.client.Watch(ctx, &xdpdv1.WatchRequest{})
	if err != nil {
		return err
	}
	if _, err := events.Recv(); err != nil { // from here on all is told
		return err
	}
	if err := s.xdpctl("order", device, "ratelimit,blocklist,sampler", "--confirm-within", "1s", "--no-wait"); err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if err != nil {
			return fmt.Errorf("wait for the change to be undone: %w", err)
		}
		if event.GetReverted() != nil {
			break
		}
	}
	if err := s.xdpctl("history", device); err != nil {
		return err
	}
	now, err := s.client.GetChain(context.Background(), &xdpdv1.GetChainRequest{Interface: device})
	if err != nil {
		return err
	}
	for i, m := range now.GetChain().GetMembers() {
		if was := before.GetChain().GetMembers()[i]; m.GetProgram() != was.GetProgram() || m.GetPriority() != was.GetPriority() {
			return fmt.Errorf("the chain was not put back: it was %v and is %v", before.GetChain(), now.GetChain())
		}
	}
	note("The members are in the order that they had before.")
	return nil
}

// crash kills the daemon under a stream of packets and starts it again.
func (s *stage) crash() error {
	s.tell("Kill the daemon with SIGKILL while packets come in, and start it again. The chain goes on without it.")
	before, err := s.client.GetChain(context.Background(), &xdpdv1.GetChainRequest{Interface: device})
	if err != nil {
		return err
	}
	packets := s.wire.stream(good)
	err = packets.more(500)
	fmt.Printf("   $ kill -9 %d\n", s.daemon.Process.Pid)
	err = errors.Join(err, s.daemon.Process.Kill())
	if _, ended := s.ended(); ended != nil {
		err = errors.Join(err, ended)
	}
	without := packets.sent.Load()
	err = errors.Join(err, packets.more(1000))
	without = packets.sent.Load() - without
	err = errors.Join(err, s.start(), packets.more(500))
	sent, streamErr := packets.stop()
	if err := errors.Join(err, streamErr); err != nil {
		return err
	}
	note("%d packets were sent, %d of them while there was no daemon, and all arrived.", sent, without)
	was := before.GetChain()
	if was.GetLinkId() == 0 || len(was.GetMembers()) != 3 {
		return fmt.Errorf("the chain before the kill: %v", was)
	}
	var wants []want
	for _, m := range was.GetMembers() {
		n := m.GetCounters()
		wants = append(wants, want{m.GetProgram(), n.GetSeen() + sent, n.GetPassedOn() + sent, n.GetEndedDrop()})
	}
	if err := s.reconnect(); err != nil {
		return err
	}
	if err := s.chain(was.GetPackets()+sent, wants...); err != nil {
		return err
	}
	now, err := s.client.GetChain(context.Background(), &xdpdv1.GetChainRequest{Interface: device})
	if err != nil {
		return err
	}
	if n := now.GetChain(); n.GetRevision() != was.GetRevision() || n.GetKernelId() != was.GetKernelId() || n.GetLinkId() != was.GetLinkId() {
		return fmt.Errorf("the chain was not adopted: it was %v and is %v", was, n)
	}
	note("It is the same revision in the kernel: nothing was loaded or attached anew.")
	return nil
}

// reconnect waits until the client has found the new daemon.
func (s *stage) reconnect() error {
	deadline := time.Now().Add(patience)
	for {
		_, err := s.client.GetStatus(context.Background(), &xdpdv1.GetStatusRequest{})
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// end stops the daemon and shows that nothing is left.
func (s *stage) end() error {
	s.tell("Stop the daemon. It takes everything out of the kernel that it put there.")
	ids, err := s.programIDs()
	if err != nil {
		return err
	}
	fmt.Printf("   $ kill -TERM %d\n", s.daemon.Process.Pid)
	if err := s.daemon.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	ended, err := s.ended()
	if err != nil {
		return err
	}
	if ended.ExitCode() != 0 {
		return fmt.Errorf("the daemon ended with %v", ended)
	}
	if id, err := attached(); err != nil || id != 0 {
		return fmt.Errorf("%s still has XDP program %d (%v)", device, id, err)
	}
	for _, path := range []string{s.pins, s.socket} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is still there (%v)", path, err)
		}
	}
	for _, id := range ids {
		if err := gone(id); err != nil {
			return err
		}
	}
	if err := s.wire.send(100, blocked, true); err != nil {
		return err
	}
	note("It exited with 0. No program on %s, no pin, no socket; what it loaded is gone from the kernel.", device)
	note("Packets to port %d arrive again: nobody drops them any more.", blocked)
	fmt.Println("\nAll of this was checked on the way. The demo is over.")
	return nil
}

// programIDs are the kernel's ids of the programs that the daemon has pinned.
func (s *stage) programIDs() (ids []ebpf.ProgramID, err error) {
	var pins []string
	for _, pattern := range []string{"chains/*/rev-*/dispatcher", "programs/*/prog"} {
		found, err := filepath.Glob(filepath.Join(s.pins, pattern))
		if err != nil {
			return nil, err
		}
		pins = append(pins, found...)
	}
	if len(pins) == 0 {
		return nil, errors.New("no program is pinned")
	}
	for _, pin := range pins {
		p, err := ebpf.LoadPinnedProgram(pin, nil)
		if err != nil {
			return nil, err
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			return nil, err
		}
		id, _ := info.ID()
		ids = append(ids, id)
	}
	return ids, nil
}

// gone waits until a program is freed, which the kernel does after a grace period.
func gone(id ebpf.ProgramID) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for program %d: %w", id, err)
		}
		p.Close()
		if time.Now().After(deadline) {
			return fmt.Errorf("program %d is still in the kernel", id)
		}
	}
}
