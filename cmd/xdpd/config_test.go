// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEveryKeyIsTaken(t *testing.T) {
	cfg, err := parseConfig("f", []byte(`
# a comment
socket: /a/s          # another
socket_mode: 0600
socket_group: "20"
state_dir: '/b'
bpffs: "/c"
linker: inline
history: 7
lease_renewal: 5m
log_level: debug
log_format: json
`))
	want := config{
		socket: "/a/s", socketMode: 0o600, socketGroup: "20", stateDir: "/b", bpffs: "/c", linker: "inline", history: 7, renewal: 5 * time.Minute, logLevel: "debug", logFormat: "json",
	}
	if err != nil || cfg != want {
		t.Errorf("got %+v, %v, want %+v", cfg, err, want)
	}
	if again, err := parseConfig("f", []byte(cfg.String())); err != nil || again != cfg {
		t.Errorf("what String writes is read as %+v, %v", again, err)
	}
}

func TestNothingMeansTheDefaults(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "null", "# c\n---\n# d\n", "{}"} {
		if cfg, err := parseConfig("f", []byte(text)); err != nil || cfg != defaults() {
			t.Errorf("%q: %+v, %v", text, cfg, err)
		}
	}
}

func TestSocketModes(t *testing.T) {
	for text, want := range map[string]os.FileMode{"0660": 0o660, `"0660"`: 0o660, "660": 0o660, "0o600": 0o600, "'0770'": 0o770} {
		cfg, err := parseConfig("f", []byte("socket_mode: "+text))
		if err != nil || cfg.socketMode != want {
			t.Errorf("%s: %v, %v, want %v", text, cfg.socketMode, err, want)
		}
	}
}

func TestTimes(t *testing.T) {
	for text, want := range map[string]string{"0s": "0s", "90s": "1m30s", "300s": "5m", "60m": "1h", "24h": "24h", "1500ms": "1.5s", "1h5s": "1h0m5s"} {
		cfg, err := parseConfig("f", []byte("lease_renewal: "+text))
		if err != nil || spell(cfg.renewal) != want {
			t.Errorf("%s: %s, %v, want %s", text, spell(cfg.renewal), err, want)
		}
	}
}

func TestBadConfigSaysWhereAndWhat(t *testing.T) {
	for _, tc := range []struct{ text, line, want string }{
		{"socket: /s\nsocke: /s", "2", `no key "socke"; the keys are socket, socket_mode`},
		{"# c\n\nSocket: /s", "3", "the keys are"},
		{"1: 2", "1", "the keys are"},
		{"socket: s", "1", "an absolute path"},
		{"socket: ./s", "1", "an absolute path"},
		{"socket: /a/../s", "1", "detour to /s"},
		{"state_dir: ''", "1", "empty"},
		{"state_dir:", "1", "no plain value; it takes an absolute path"},
		{"state_dir: ~", "1", "no plain value"},
		{"bpffs: [/a]", "1", "no plain value"},
		{"bpffs: {a: b}", "1", "no plain value"},
		{"bpffs: |\n  /a\n", "1", "no plain value"},
		{"bpffs: &x /a\nstate_dir: *x", "1", "no plain value"},
		{"bpffs: !!str /a", "1", "no plain value"},
		{"bpffs: /", "1", "root"},
		{"linker: fast", "1", "auto, freplace or inline"},
		{"linker: yes", "1", "auto, freplace or inline"},
		{"linker: Auto", "1", "auto, freplace or inline"},
		{"history: -1", "1", "a number from 0 to 1024"},
		{"history: 1025", "1", "a number from 0 to 1024"},
		{"lease_renewal: 30", "1", "not such a time; it takes a time from 0s to 24h"},
		{"lease_renewal: -1s", "1", "a time from 0s to 24h"},
		{"lease_renewal: 25h", "1", "a time from 0s to 24h"},
		{"log_level: trace", "1", "debug, info, warn or error"},
		{"log_format: xml", "1", "auto, text or json"},
		{"socket_mode: 0666", "1", "as good as root"},
		{"socket_mode: 0661", "1", "as good as root"},
		{"socket_mode: 0060", "1", "locks the owner out"},
		{"socket_mode: 04770", "1", "more than permissions"},
		{"socket_mode: 0690", "1", "not an octal number"},
		{"socket_mode: rw", "1", "not an octal number; it takes an octal mode"},
		{"socket_mode: -1", "1", "not an octal number"},
		{"socket_mode: 1.5", "1", "not an octal number"},
		{"socket: /a\nlinker: auto\nsocket: /b", "3", "already defined"},
		{"socket: \"/a", "1", "end character"},
		{"socket: /a\n\tlinker: auto", "2", "cannot start"},
		{"socket: /a\n---\nlinker: auto", "3", "second document"},
		{"- socket: /a", "1", "key: value"},
		{"just words", "1", "key: value"},
		{"<<: {linker: auto}", "1", "the keys are"},
	} {
		cfg, err := parseConfig("f.yaml", []byte(tc.text))
		if err == nil {
			t.Errorf("%q is taken: %+v", tc.text, cfg)
		} else if text := err.Error(); !strings.HasPrefix(text, "f.yaml:"+tc.line+": ") || !strings.Contains(text, tc.want) {
			t.Errorf("%q: %q, want line %s and %q", tc.text, text, tc.line, tc.want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(defaults().String()))
	f.Add([]byte("a: &b [*b]\n? {c: d}\n: - e"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := parseConfig("f", data)
		if err != nil {
			return
		}
		if again, err := parseConfig("f", []byte(cfg.String())); err != nil || again != cfg {
			t.Errorf("%q gives %+v, which is read back as %+v, %v", data, cfg, again, err)
		}
	})
}

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := os.WriteFile(good, []byte("linker: inline"), 0o600); err != nil {
		t.Fatal(err)
	}
	if cfg, err := loadConfig(good, true); err != nil || cfg.linker != "inline" {
		t.Errorf("a good file: %+v, %v", cfg, err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(dir, "absent"), "", dir, big, "/dev/zero"} {
		if cfg, err := loadConfig(file, true); err == nil {
			t.Errorf("%q is taken: %+v", file, cfg)
		}
	}
}

// TestDocumentation looks for each key, with its default, in docs/operating.md, and reads deploy/config.yaml,
// which has to name every key with its default.
func TestDocumentation(t *testing.T) {
	manual, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	sample, err := os.ReadFile("../../deploy/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys() {
		value := k.get(defaults())
		if value == "" {
			value = `""`
		}
		if row := "| `" + k.name + "` | `" + value + "` |"; !strings.Contains(string(manual), row) {
			t.Errorf("docs/operating.md has no row %s", row)
		}
		if !strings.Contains("\n"+string(sample), "\n"+k.name+":") {
			t.Errorf("deploy/config.yaml does not have the key %s", k.name)
		}
	}
	if cfg, err := parseConfig("deploy/config.yaml", sample); err != nil || cfg != defaults() {
		t.Errorf("deploy/config.yaml is read as %+v, %v; want the defaults", cfg, err)
	}
}
