// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestBadConfiguration starts a daemon with configurations that are wrong: it exits with 2, names file and line,
// and does nothing.
func TestBadConfiguration(t *testing.T) {
	h := newHost(t)
	good, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	good = bytes.ReplaceAll(good, []byte("log_level: debug\n"), nil)
	line := bytes.Count(good, []byte("\n")) + 1
	for _, c := range []struct{ add, says string }{
		{"linkr: auto\n", `no key "linkr"`},
		{"log_level: loud\n", "debug, info, warn or error"},
		{"socket_mode: \"0666\"\n", "lets everybody in"},
		{"log_level: [a]\n", "no plain value"},
	} {
		if err := os.WriteFile(h.config, append(bytes.Clone(good), c.add...), 0o600); err != nil {
			t.Fatal(err)
		}
		r := h.run("xdpd", "serve", "--config", h.config)
		if where := strings.ReplaceAll("FILE:LINE: ", "FILE", h.config); r.code != 2 || !strings.Contains(r.stderr, c.says) ||
			!strings.Contains(r.stderr, strings.ReplaceAll(where, "LINE", strconv.Itoa(line))) {
			t.Errorf("configuration with %q: %+v", c.add, r)
		}
	}
	if err := os.WriteFile(h.config, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"serve", "--config", h.config + ".nosuch"}, {"serve", "--linker", "magic"}, {"serve", "--bpffs", "relative"}, {"serve", "surplus"}, {},
	} {
		if r := h.run("xdpd", args...); r.code != 2 || r.stderr == "" {
			t.Errorf("xdpd %v: %+v", args, r)
		}
	}
	for _, path := range []string{h.pins, h.socket, filepath.Join(h.dir, "state")} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("a daemon that was not to start made %s", path)
		}
	}
}

// TestBadPlaces starts a daemon whose folders cannot be used: it says why, and touches nothing.
func TestBadPlaces(t *testing.T) {
	h := newHost(t)
	stranger := filepath.Join(bpffs, "stranger")
	if err := os.MkdirAll(filepath.Join(stranger, "theirs"), 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(stranger)
	for _, c := range []struct{ flag, value, says string }{
		{"--bpffs", h.dir + "/pins", "not in a BPF FS"},
		{"--bpffs", stranger, "foreign entry"},
		{"--bpffs", bpffs, ""},
		{"--socket", h.config, "not a socket"},
		{"--socket", h.dir + "/" + strings.Repeat("x", 120), "at most 107"},
	} {
		r := h.run("xdpd", "serve", "--config", h.config, c.flag, c.value)
		if r.code != 1 || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%s %s: %+v", c.flag, c.value, r)
		}
		os.RemoveAll(h.pins)
	}
	if _, err := os.Stat(filepath.Join(stranger, "theirs")); err != nil {
		t.Errorf("the stranger's folder: %v", err)
	}
}

// TestDamagedStore starts a daemon whose store is damaged or of a newer version: it refuses and says what to do,
// changes nothing in the file, and the chain that runs goes on.
func TestDamagedStore(t *testing.T) {
	for name, harm := range map[string]func(file []byte) []byte{
		"no store":    func([]byte) []byte { return []byte("this was never a store") },
		"empty":       func([]byte) []byte { return nil },
		"cut off":     func(file []byte) []byte { return file[:3*4096] },
		"overwritten": func(file []byte) []byte { return append(bytes.Repeat([]byte{0xa5}, 8192), file[8192:]...) },
		"a flipped bit": func(file []byte) []byte {
			at := bytes.LastIndex(file, []byte(`"priority":50`))
			file[at+12] ^= 1
			return file
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.start()
			h.do(adding(add("a", "pass", nettest.Dev)))
			h.Check()
			h.d.kill()
			path := filepath.Join(h.dir, "state", "xdpd.db")
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bad := harm(bytes.Clone(good))
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			r := h.run("xdpd", "serve", "--config", h.config)
			if r.code != 1 || !strings.Contains(r.stderr, path) || !strings.Contains(r.stderr, "damaged") || !strings.Contains(r.stderr, "teardown") {
				t.Errorf("start: %+v", r)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
				t.Errorf("the file was changed: %v", err)
			}
			h.send(nettest.Dev, 5)
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
			h.start()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}
