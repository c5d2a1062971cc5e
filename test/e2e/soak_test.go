// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// How long TestSoak goes on, unless XDPD_SOAK says it, and how often all is quiet meanwhile.
const (
	soakLong, soakShort   = 2 * time.Minute, 15 * time.Second
	quietEvery, quietSoon = 15 * time.Second, 5 * time.Second
)

// base is the program of TestSoak that stays in all chains.
const base = "base"

// soak is a host on which clients change things at random while other things go wrong at random.
type soak struct {
	*host
	rand     *rand.Rand        // of what goes wrong
	label    string            // the name of the maps of its programs, which none else in the kernel has
	passing  []byte            // programs whose verdicts let all packets pass
	settable []byte            // another version of them
	named    map[string]string // the interfaces that things go wrong with, as they are called; "": it is deleted
	refs     []string          // all interfaces
	sent     uint64            // packets to nettest.Dev
	takeAway func()            // what takes a foreign program away; nil: there is none

	gate    sync.RWMutex  // held for reading during a request, for writing when all is quiet
	outages atomic.Uint64 // odd: there is no daemon
	reloads atomic.Uint64 // odd: it is being reloaded
	mu      sync.Mutex    // protects done
	done    map[string]int
}

// TestSoak has clients make changes at random, and come and go, while interfaces flap, links are detached, pins removed, and
// the daemon is killed and reloaded; and packets come in on one interface, each of which has to arrive and to be counted. From
// time to time all is quiet. Then there is in the kernel, in the daemon's folder and open in the daemon exactly
// what there was the first time.
//
// XDPD_SOAK is how long it goes on, and XDPD_SEED makes it draw the same again.
func TestSoak(t *testing.T) {
	if inVM() {
		t.Log("it takes a machine that is not emulated: it is tried on this machine's kernel only")
		return
	}
	goOn, every := soakLong, quietEvery
	if testing.Short() {
		goOn, every = soakShort, quietSoon
	}
	seed := rand.Uint64()
	var err error
	if text := os.Getenv("XDPD_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("XDPD_SEED: %v", err)
		}
	}
	if text := os.Getenv("XDPD_SOAK"); text != "" {
		if goOn, err = time.ParseDuration(text); err != nil {
			t.Fatalf("XDPD_SOAK: %v", err)
		}
	}
	t.Logf("XDPD_SEED=%d repeats it", seed)
	s := newSoak(t, seed)
	s.start()
	s.populate()
	s.quiet() // the folders and the caches are there then
	first := s.quiet()
	t.Logf("at first: %s", first)
	for end := time.Now().Add(goOn); time.Now().Before(end) && !t.Failed(); {
		s.churn(min(every, max(time.Second, time.Until(end))))
		now := s.quiet()
		t.Logf("then: %s", now)
		s.same(first, now)
	}
	for _, iface := range s.refs {
		if _, has := s.wires[iface]; !has {
			s.plug(iface, iface+"p")
		}
	}
	t.Log(tallied(s.done))
	s.learn()
	s.Check()
	s.stop(unix.SIGTERM)
	if left := s.inKernel(); left != (kernelCounts{}) {
		t.Errorf("left in the kernel: %+v", left)
	}
}

func newSoak(t *testing.T, seed uint64) *soak {
	s := &soak{
		host: newHost(t), rand: rand.New(rand.NewPCG(seed, 0)), named: map[string]string{}, done: map[string]int{},
		label: "s" + strconv.FormatUint(36*36+rand.Uint64()%(35*36*36), 36),
	}
	s.configure("lease_renewal: 2s\n")
	for from, to := range map[*[]byte]*[]byte{&verdicts: &s.passing, &settable: &s.settable} {
		*to = bytes.ReplaceAll(*from, []byte("\x00runs\x00"), []byte("\x00"+s.label+"\x00"))
		if bytes.Equal(*from, *to) || len(*from) != len(*to) {
			t.Fatalf("the maps of the programs cannot be called %s", s.label)
		}
	}
	for i := 1; i < 4; i++ {
		iface := fmt.Sprint("xdev", i)
		s.ns.AddPair(t, iface, iface+"p")
		s.named[iface] = iface
	}
	s.refs = append([]string{nettest.Dev, s.beside() + ":" + eth0}, slices.Sorted(maps.Keys(s.named))...)
	return s
}

// populate gives each interface its chain.
func (s *soak) populate() {
	s.Helper()
	r := add(base, "goon", s.refs...)
	r.Object = s.passing
	if _, err := s.client.AddProgram(s.ctx(), persistent(r)); err != nil {
		s.Fatalf("%v %v", err, client.Facts(err))
	}
}

// churn is what goes on between two times of quiet.
func (s *soak) churn(long time.Duration) {
	s.Helper()
	stop := s.flows([]string{nettest.Dev})
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	var clients sync.WaitGroup
	for i := range uint64(4) {
		d := newDraw(s.rand.Uint64(), i, s.refs...)
		clients.Go(func() { s.clients(ctx, d) })
	}
	for ctx.Err() == nil && !s.Failed() {
		s.wrong()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(s.rand.IntN(400)) * time.Millisecond):
		}
	}
	clients.Wait()
	s.sent += stop()[nettest.Dev]
}

// during makes a counter odd while f runs.
func during(n *atomic.Uint64, f func()) {
	n.Add(1)
	f()
	n.Add(1)
}

// quiet undoes all that was done and went wrong, and tells what there is then.
func (s *soak) quiet() usage {
	s.Helper()
	s.gate.Lock()
	defer s.gate.Unlock()
	s.mend()
	var why string
	for deadline := time.Now().Add(3 * patience); ; time.Sleep(20 * time.Millisecond) {
		if why = s.tidy(); why == "" {
			break
		}
		if time.Now().After(deadline) {
			s.Fatalf("it never became quiet: %s", why)
		}
	}
	for _, priority := range []int32{60, 50} { // so that each chain has one revision before the live one, and no more
		_, err := s.client.UpdateMembers(s.ctx(), &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: base, Priority: ptr(priority)}}})
		if err != nil {
			s.Fatalf("%v %v", err, client.Facts(err))
		}
	}
	if c := s.chain(nettest.Dev); c.GetPackets() != s.sent || c.GetMembers()[0].GetCounters().GetSeen() != s.sent {
		s.Errorf("%d packets were sent, and the daemon counts %v", s.sent, c)
	}
	return s.use()
}

// tidy takes away what clients left, and says what still is not as it was in the beginning.
func (s *soak) tidy() string {
	s.Helper()
	problems := []error{}
	do := func(_ any, err error) { problems = append(problems, err) }
	chains, err := s.client.ListChains(s.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		s.Fatal(err)
	}
	for _, c := range chains.GetChains() {
		if p := c.GetPending(); p != nil {
			do(s.client.Cancel(s.ctx(), &xdpdv1.CancelRequest{Id: p.GetId()}))
		}
		if !slices.Contains(s.refs, c.GetInterface()) { // a name that one had for a while
			do(s.client.SetChains(s.ctx(), &xdpdv1.SetChainsRequest{Chains: []*xdpdv1.ChainSpec{chainOf(c.GetInterface())}}))
		}
	}
	do(s.client.SetChains(s.ctx(), s.declare(s.refs)))
	programs, err := s.client.ListPrograms(s.ctx(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		s.Fatal(err)
	}
	for _, p := range programs.GetPrograms() { // those that patterns keep
		if p.GetName() != base {
			do(s.client.RemoveProgram(s.ctx(), &xdpdv1.RemoveProgramRequest{Name: p.GetName()}))
		}
	}
	for i, err := range problems {
		if err != nil && client.Reason(err) == 0 {
			s.Errorf("request %d: %v", i, err)
		}
	}
	status, err := s.client.GetStatus(s.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		s.Fatal(err)
	}
	if len(status.GetProblems()) > 0 || len(status.GetLeases()) > 0 || status.GetPrograms() != 1 || int(status.GetChains()) != len(s.refs) {
		return fmt.Sprintf("%v, %v", problems, status)
	}
	return ""
}

// usage is what a daemon at rest has.
type usage struct {
	open    string // in the process
	pins    string
	kernel  kernelCounts
	threads float64
	memory  float64 // MiB
}

func (u usage) String() string {
	return fmt.Sprintf("open %s, pins %s, in the kernel %+v, %v threads, %.1f MiB", u.open, u.pins, u.kernel, u.threads, u.memory)
}

// use is what there is when the daemon is at rest, which some things take some time to come to.
func (s *soak) use() (u usage) {
	s.Helper()
	m := &measured{host: s.host}
	s.checkDescriptors()
	u = usage{
		open: counted(s.descriptors()), pins: counted(s.pinned()), kernel: s.inKernel(),
		threads: m.inStatus("Threads:"), memory: m.inStatus("VmRSS:") / 1024,
	}
	return u
}

// same fails the test unless there is what there was.
func (s *soak) same(first, now usage) {
	s.Helper()
	like := func() bool {
		return now.open == first.open && now.pins == first.pins && now.kernel == first.kernel &&
			now.memory <= first.memory+32 && now.threads <= first.threads+64
	}
	for deadline := time.Now().Add(3 * patience); !like() && !s.Failed(); now = s.use() { // Go gives memory back after minutes
		if time.Now().After(deadline) {
			s.Fatalf("there was %s, there is %s", first, now)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

var numbers = regexp.MustCompile(`[0-9]+`)

// counted is how many there are of each, whatever numbers are in it.
func counted(things []string) string {
	n := map[string]int{}
	for _, thing := range things {
		n[numbers.ReplaceAllString(filepath.Base(filepath.Dir(thing))+"/"+filepath.Base(thing), "N")]++
	}
	return tallied(n)
}
