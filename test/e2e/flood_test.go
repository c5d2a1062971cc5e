// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// mostMemory is what the daemon may take of the host's memory whatever its clients do, as docs/operating.md says, in
// KiB; restMemory is what it may keep of it when they are gone.
const (
	mostMemory = 1 << 20
	restMemory = 100 << 10
)

// memory is what a daemon takes of the host's memory now, and took at most, in KiB.
func (d *daemon) memory() (now, most int) {
	d.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "VmRSS: %d", &now)
		fmt.Sscanf(line, "VmHWM: %d", &most)
	}
	return now, most
}

// bounded fails the test if the daemon took more memory than it may, or does not give it back.
func (d *daemon) bounded(h *host) {
	h.Helper()
	h.eventually("memory is given back", func() bool {
		now, _ := d.memory()
		return now < restMemory
	})
	now, most := d.memory()
	h.Logf("memory: %d MiB at most, %d MiB after", most>>10, now>>10)
	if most > mostMemory {
		h.Errorf("the daemon took %d MiB", most>>10)
	}
}

// sockets is how many of the daemon's descriptors are sockets.
func (d *daemon) sockets() (n int) {
	dir := fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		d.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// aside makes changes of one interface and reads, as an ordinary client does, as long as f runs. Each call is to be
// answered in time.
func (h *host) aside(f func()) {
	h.Helper()
	ordinary, err := client.Dial(h.socket)
	if err != nil {
		h.Fatal(err)
	}
	defer ordinary.Close()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	rounds, slowest := 0, time.Duration(0)
	for ended := false; !ended && !h.Failed(); rounds++ {
		select {
		case <-done:
			ended = true
		default:
		}
		for what, call := range map[string]func(ctx context.Context) error{
			"add": func(ctx context.Context) error {
				_, err := ordinary.AddProgram(ctx, add("aside", "goon", second))
				return err
			},
			"list programs": func(ctx context.Context) error {
				_, err := ordinary.ListPrograms(ctx, &xdpdv1.ListProgramsRequest{})
				return err
			},
			"list chains": func(ctx context.Context) error {
				_, err := ordinary.ListChains(ctx, &xdpdv1.ListChainsRequest{})
				return err
			},
			"chain": func(ctx context.Context) error {
				_, err := ordinary.GetChain(ctx, &xdpdv1.GetChainRequest{Interface: second})
				if client.Reason(err) == xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND {
					err = nil
				}
				return err
			},
			"status": func(ctx context.Context) error {
				_, err := ordinary.GetStatus(ctx, &xdpdv1.GetStatusRequest{})
				return err
			},
		} {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			start := time.Now()
			if err := call(ctx); err != nil {
				h.Errorf("an ordinary client: %s: %v", what, err)
			}
			slowest = max(slowest, time.Since(start))
			cancel()
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := ordinary.RemoveProgram(ctx, &xdpdv1.RemoveProgramRequest{Name: "aside"}); err != nil {
			h.Errorf("an ordinary client: remove: %v", err)
		}
		cancel()
	}
	<-done
	h.Logf("%d rounds of an ordinary client meanwhile, the slowest call took %v", rounds, slowest)
}

// census counts what calls of many clients came to.
type census struct {
	mu sync.Mutex // protects n
	n  map[string]int
}

// note counts an error by its reason, else by its code. Both have to be among those that may be.
func (c *census) note(t testing.TB, err error, may ...any) {
	var got any = status.Code(err)
	if r := client.Reason(err); r != 0 {
		got = r
	}
	if !slices.Contains(may, got) {
		t.Errorf("a call came to %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[fmt.Sprint(got)]++
}

// raw is a connection that is used without the client. The caller closes it.
func (h *host) raw() *grpc.ClientConn {
	h.Helper()
	conn, err := grpc.NewClient("unix:"+h.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		h.Error(err)
	}
	return conn
}

// halt has the next daemon stop a change when it comes to a point for the nth time. It returns the daemon's environment,
// and what waits until the point is reached and returns what lets the change go on.
func (h *host) halt(point string, nth int) (env []string, reached func() (release func())) {
	h.Helper()
	fifo := filepath.Join(h.dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		h.Fatal(err)
	}
	return []string{fmt.Sprintf("XDPD_FAILPOINT=%s=wait@%d", point, nth), "XDPD_FAILPOINT_FIFO=" + fifo}, func() func() {
		opened := make(chan *os.File, 1)
		go func() {
			f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
			if err != nil {
				h.Error(err)
			}
			opened <- f
		}()
		select {
		case f := <-opened:
			return func() { f.Close() }
		case <-time.After(patience):
			h.Fatalf("%s is not reached within %v", point, patience)
			return nil
		}
	}
}

// circling is an object whose program runs in a circle n times, of three instructions that the verifier looks at each
// time.
func circling(t testing.TB, n uint32) []byte {
	t.Helper()
	return withSection(t, "refused", "xdp", slices.Concat(
		[]byte{0xb7, 6, 0, 0, 0, 0, 0, 0},                                // r6 = 0
		[]byte{0x07, 6, 0, 0, 1, 0, 0, 0},                                // r6 += 1
		[]byte{0x85, 0, 0, 0, 7, 0, 0, 0},                                // call bpf_get_prandom_u32
		binary.LittleEndian.AppendUint32([]byte{0xa5, 6, 0xfd, 0xff}, n), // if r6 < n goto -3
		[]byte{0xb7, 0, 0, 0, 2, 0, 0, 0},                                // r0 = XDP_PASS
		[]byte{0x95, 0, 0, 0, 0, 0, 0, 0},                                // exit
	))
}

// withSection is an object of the tests with other content in a section.
func withSection(t testing.TB, object, section string, content []byte) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", object+".bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Sections, func(s *elf.Section) bool { return s.Name == section })
	data = append(data, make([]byte, -len(data)&7)...)
	header := data[binary.LittleEndian.Uint64(data[40:])+64*uint64(i):] // an Elf64_Shdr
	binary.LittleEndian.PutUint64(header[24:], uint64(len(data)))
	binary.LittleEndian.PutUint64(header[32:], uint64(len(content)))
	return append(data, content...)
}

// halfRequest is the beginning of a call of AddProgram with a message of size bytes, of which some come.
func halfRequest(size int) []byte {
	var sent bytes.Buffer
	sent.WriteString(http2.ClientPreface)
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", xdpdv1.XdpdService_AddProgram_FullMethodName},
		{":authority", "localhost"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // to memory
	}
	w := http2.NewFramer(&sent, nil)
	_ = w.WriteSettings()
	_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	_ = w.WriteData(1, false, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(size)), make([]byte, min(size/2, 10_000))...))
	return sent.Bytes()
}
