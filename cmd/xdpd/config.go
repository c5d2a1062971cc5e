// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/control"
)

// config is the daemon's configuration. Each field is a key; docs/operating.md tells what they mean.
type config struct {
	socket      string
	socketMode  os.FileMode
	socketGroup string
	stateDir    string
	bpffs       string
	linker      string
	history     int
	renewal     time.Duration
	logLevel    string
	logFormat   string
}

func defaults() config {
	return config{
		socket: "/run/xdpd/xdpd.sock", socketMode: 0o660, stateDir: "/var/lib/xdpd", bpffs: "/sys/fs/bpf/xdpd",
		linker: dispatcher.Auto, history: 32, renewal: 30 * time.Second, logLevel: "info", logFormat: "auto",
	}
}

func (c config) control() control.Config {
	return control.Config{StateDir: c.stateDir, BPFFS: c.bpffs, Linker: c.linker, History: c.history, LeaseRenewal: c.renewal}
}

// String writes the configuration as a file that loadConfig reads.
func (c config) String() string {
	var b strings.Builder
	for _, k := range keys() {
		fmt.Fprintf(&b, "%s: %s\n", k.name, strconv.Quote(k.get(c)))
	}
	return b.String()
}

// key is a key of the file, and a flag.
type key struct {
	name    string
	about   string
	allowed string
	get     func(config) string
	field   func(*config) *string           // where the value goes as it is, after check
	check   func(string) error              // nil: anything
	store   func(c *config, v string) error // instead of field and check
}

func (k key) flag() string { return strings.ReplaceAll(k.name, "_", "-") }

func (k key) usage() string {
	return fmt.Sprintf("%s: %s (default %q)", k.about, k.allowed, k.get(defaults()))
}

// set checks a value and stores it; the error says what is allowed.
func (k key) set(c *config, value string) error {
	var err error
	switch {
	case k.store != nil:
		err = k.store(c, value)
	case k.check != nil:
		err = k.check(value)
	}
	if err != nil {
		return fmt.Errorf("%q is not allowed: %w; it takes %s", value, err, k.allowed)
	}
	if k.store == nil {
		*k.field(c) = value
	}
	return nil
}

// keys returns all keys, in the order of the documentation.
func keys() []key {
	return []key{
		path("socket", "the unix socket to serve on", func(c *config) *string { return &c.socket }),
		{
			name: "socket_mode", about: "its permissions", allowed: "an octal mode for owner and group, from 0600 to 0770",
			get:   func(c config) string { return fmt.Sprintf("%04o", c.socketMode) },
			store: setSocketMode,
		},
		text("socket_group", "its group", "the name or number of a group; empty: the daemon's own", func(c *config) *string { return &c.socketGroup }),
		path("state_dir", "the folder for what outlives the daemon", func(c *config) *string { return &c.stateDir }),
		path("bpffs", "the folder for pins, in a BPF FS", func(c *config) *string { return &c.bpffs }),
		choice("linker", "how programs are linked", func(c *config) *string { return &c.linker }, dispatcher.Auto, dispatcher.Freplace, dispatcher.Inline),
		{
			name: "history", about: "how many earlier chains of an interface are kept", allowed: "a number from 0 to 1024",
			get:   func(c config) string { return strconv.Itoa(c.history) },
			store: setHistory,
		},
		{
			name: "lease_renewal", about: "how long clients have, after a start, to hold their leases again",
			allowed: "a time from 0s to 24h, such as 30s",
			get:     func(c config) string { return spell(c.renewal) },
			store:   setRenewal,
		},
		choice("log_level", "what is logged", func(c *config) *string { return &c.logLevel }, "debug", "info", "warn", "error"),
		choice("log_format", "how it is logged", func(c *config) *string { return &c.logFormat }, "auto", "text", "json"),
	}
}

func text(name, about, allowed string, field func(*config) *string) key {
	return key{name: name, about: about, allowed: allowed, field: field, get: func(c config) string { return *field(&c) }}
}

func path(name, about string, field func(*config) *string) key {
	k := text(name, about, "an absolute path", field)
	k.check = func(v string) error {
		switch {
		case v == "":
			return errors.New("it is empty")
		case !filepath.IsAbs(v):
			return errors.New("it is relative")
		case v != filepath.Clean(v):
			return fmt.Errorf("it is a detour to %s", filepath.Clean(v))
		case v == "/":
			return errors.New("it is the root")
		}
		return nil
	}
	return k
}

func choice(name, about string, field func(*config) *string, options ...string) key {
	last := len(options) - 1
	k := text(name, about, strings.Join(options[:last], ", ")+" or "+options[last], field)
	k.check = func(v string) error {
		if !slices.Contains(options, v) {
			return errors.New("there is no such choice")
		}
		return nil
	}
	return k
}

func setSocketMode(c *config, v string) error {
	mode, err := strconv.ParseUint(strings.TrimPrefix(v, "0o"), 8, 32)
	switch {
	case err != nil:
		return errors.New("it is not an octal number")
	case mode&^0o777 != 0:
		return errors.New("it has more than permissions")
	case mode&0o007 != 0:
		return errors.New("it lets everybody in, and the socket is as good as root")
	case mode&0o600 != 0o600:
		return errors.New("it locks the owner out")
	}
	c.socketMode = os.FileMode(mode)
	return nil
}

func setHistory(c *config, v string) error {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n > 1024 {
		return errors.New("it is not such a number")
	}
	c.history = int(n)
	return nil
}

func setRenewal(c *config, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > 24*time.Hour {
		return errors.New("it is not such a time")
	}
	c.renewal = d
	return nil
}

// spell writes a time without parts that are zero: 5m, not 5m0s.
func spell(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// level returns the level that is configured.
func (c config) level() slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.logLevel)); err != nil {
		return slog.LevelInfo
	}
	return l
}
