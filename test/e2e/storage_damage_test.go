// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// storeCommand runs xdpd store.
func (h *host) storeCommand(code int, args ...string) string {
	h.Helper()
	r := h.run("xdpd", append(append([]string{"store"}, args...), "--config", h.config)...)
	if r.code != code {
		h.Errorf("xdpd store %v: exit code %d, want %d\n%s\n%s", args, r.code, code, r.stdout, r.stderr)
	}
	return r.stdout + r.stderr
}

// TestStorageCommands checks and exports the store of a daemon that runs, cuts it off under the daemon, goes the way that the
// error names, and has all of it back.
func TestStorageCommands(t *testing.T) {
	once(t)
	h := newHost(t, second)
	h.start()
	h.furnish()
	path, archive := h.storePath(), h.dir+"/archive"
	if out := h.storeCommand(0, "check"); !strings.Contains(out, "in use by: a process") || !strings.Contains(out, "wrong: 0") {
		t.Errorf("check says\n%s", out)
	}
	h.storeCommand(0, "export", archive)
	end := h.stream()
	if err := os.Truncate(path, 8192); err != nil {
		t.Fatal(err)
	}
	facts := client.Facts(h.broken("damaged"))["error"]
	place := regexp.MustCompile(`put that in its place \((.*?)\)`).FindStringSubmatch(facts)
	if place == nil || !strings.Contains(facts, "xdpd store import ARCHIVE --file "+path+".new") {
		t.Fatalf("the error does not say what to do: %s", facts)
	}
	if out := h.storeCommand(1, "check"); !strings.Contains(out, "the end is missing") {
		t.Errorf("check says\n%s", out)
	}
	if out := h.storeCommand(1, "export", h.dir+"/nothing"); !strings.Contains(out, "0 programs, 0 chains") {
		t.Errorf("export says\n%s", out)
	}
	h.storeCommand(0, "import", archive, "--file", path+".new")
	h.d.kill()
	if r := h.run("xdpd", "serve", "--config", h.config); r.code != 1 || !strings.Contains(r.stderr, "damaged") {
		t.Errorf("a daemon with that file: %+v", r)
	}
	h.shell("%s", place[1])
	h.storeCommand(1, "import", archive)
	h.start()
	end()
	h.Check()
	h.mends(second)
	h.stop(unix.SIGTERM)
}

// TestStorageDeleted deletes the store's file under the daemon, and gets it back as the error says.
func TestStorageDeleted(t *testing.T) {
	once(t)
	h := newHost(t, second)
	h.start()
	h.furnish()
	end := h.stream()
	if err := os.Remove(h.storePath()); err != nil {
		t.Fatal(err)
	}
	facts := client.Facts(h.broken("it was deleted"))["error"]
	put := regexp.MustCompile(`put it back with: (cp .* && chmod 600 .*); then .*: (kill -9 \d+)`).FindStringSubmatch(facts)
	if put == nil {
		t.Fatalf("the error does not say what to do: %s", facts)
	}
	h.shell("%s", put[1])
	h.broken("another file was put in its place") // a copy is not what the daemon has open
	h.shell("%s", put[2])
	h.d.wait()
	h.start()
	end()
	h.Check()
	h.mends(second)
	h.stop(unix.SIGTERM)
}

// TestStorageReplaced puts another daemon's store in the place of the daemon's, whose lock that daemon could take: the first
// changes nothing any more, the second finds that it is not alone, and with the right file back all is well.
func TestStorageReplaced(t *testing.T) {
	once(t)
	h := newHost(t, second)
	h.start()
	h.furnish()
	end := h.stream()
	path := h.storePath()
	h.shell("mv %[1]s %[1]s.away", path)
	h.storeCommand(0, "export", h.dir+"/archive", "--file", path+".away")
	h.storeCommand(0, "import", h.dir+"/archive")
	h.broken("another file was put in its place")
	if r := h.run("xdpd", "serve", "--config", h.config, "--socket", h.dir+"/other.sock"); r.code != 1 || !strings.Contains(r.stderr, "locked") {
		t.Errorf("a second daemon: %+v", r)
	}
	h.broken("another file was put in its place")
	h.shell("mv %[1]s.away %[1]s", path)
	end()
	h.mends(second)
	h.d.kill()
	h.start()
	h.Check()
	h.stop(unix.SIGTERM)
}

// flips returns a copy of a file with some bits flipped, mostly where they matter.
func flips(r *rand.Rand, file []byte) []byte {
	bad, page := bytes.Clone(file), os.Getpagesize()
	for range 1 + r.IntN(6) {
		at := r.IntN(len(bad))
		if r.IntN(3) > 0 {
			at = r.IntN(len(bad)/page)*page + r.IntN(200)
		}
		bad[at] ^= 1 << r.IntN(8)
	}
	return bad
}

// overwrite writes the bytes of a file that are to be others, into the same file.
func (h *host) overwrite(was, is []byte) {
	h.Helper()
	file, err := os.OpenFile(h.storePath(), os.O_WRONLY, 0)
	if err != nil {
		h.Fatal(err)
	}
	defer file.Close()
	for at := range was {
		if was[at] == is[at] {
			continue
		}
		if _, err := file.WriteAt(is[at:at+1], int64(at)); err != nil {
			h.Fatal(err)
		}
	}
}

// TestStorageFlips flips bits of the file at random places, under a daemon and before a start. Under it, each change is made
// or refused, and the daemon lives; a start works or is refused. What runs is never anything but what was asked for, and
// with a copy of the file all goes on.
func TestStorageFlips(t *testing.T) {
	once(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	h := newHost(t, second)
	h.start()
	h.furnish()
	made, refused, started, not := 0, 0, 0, 0
	for round := 0; (round < 12 || made == 0 || refused == 0 || not == 0) && round < 100 && !t.Failed(); round++ {
		end := h.stream()
		good := h.storeFile()
		h.overwrite(good, flips(r, good))
		if h.changes(fmt.Sprintf("seed %d, round %d", seed, round), fmt.Sprint("new", round)) {
			made++
		} else {
			refused++
		}
		if h.run("xdpd", "store", "check", "--config", h.config).code == 0 {
			good = h.storeFile()
		} else {
			end() // what was there before does not know of what was counted since
		}
		h.d.kill()
		picture := h.pinned()
		if err := os.WriteFile(h.storePath(), flips(r, good), 0o600); err != nil {
			t.Fatal(err)
		}
		d := h.launch()
		select {
		case <-d.ready:
			started++
			d.kill()
		case <-d.done:
			not++
			if !strings.Contains(d.log.String(), "damaged") && !strings.Contains(d.log.String(), "newer") {
				t.Errorf("seed %d, round %d: the start failed with\n%s", seed, round, d.log.String())
			}
			if now := h.pinned(); !slices.Equal(now, picture) {
				t.Errorf("seed %d, round %d: a start that was refused made the pins\n%q\nof\n%q", seed, round, now, picture)
			}
		}
		if err := os.WriteFile(h.storePath(), good, 0o600); err != nil {
			t.Fatal(err)
		}
		h.start()
		end()
	}
	t.Logf("%d changes made, %d refused; %d starts, %d refused", made, refused, started, not)
	if made == 0 || refused == 0 || not == 0 {
		t.Errorf("seed %d: the dice are loaded", seed)
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// changes tries to add a program, and sees to it that it is there or nothing else is than before.
func (h *host) changes(what, name string) bool {
	h.Helper()
	before := h.picture(true)
	err := h.request(add(name, "goon", second))
	if err == nil {
		if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: name}); err != nil {
			h.Errorf("%s: the change was made, and then: %v", what, err)
		}
	} else if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_STORE_FAILED {
		h.Errorf("%s: %v", what, err)
	}
	if now := h.picture(true); now != before {
		h.Errorf("%s: there is\n%s\nthere was\n%s", what, now, before)
	}
	return err == nil
}

// TestStorageStop stops a daemon whose store is lost: it takes everything out of the kernel, and tells that it could not note
// what is to come back.
func TestStorageStop(t *testing.T) {
	once(t)
	h := newHost(t, second)
	h.start()
	h.furnish()
	h.learn()
	h.checkKernel() // notes what is to go
	if err := os.Truncate(h.storePath(), 0); err != nil {
		t.Fatal(err)
	}
	h.d.signal(unix.SIGTERM)
	if ended := h.d.wait(); ended.ExitCode() != 1 || !strings.Contains(h.d.log.String(), "damaged") {
		t.Errorf("the daemon stopped with %v\n%s", ended, h.d.log.String())
	}
	h.nothingLeft()
}
