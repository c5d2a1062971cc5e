// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdpd/xdpd/internal/control"
)

// emptyFile makes a configuration file that leaves all as it is, in place of the one that this machine may have.
func emptyFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestExitCodes(t *testing.T) {
	empty := emptyFile(t)
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("linker: auto\nlog_level: loud\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"version"}, exitOK, "xdpd dev (go1", ""},
		{[]string{"--help"}, exitOK, "check-config", ""},
		{[]string{"serve", "--help"}, exitOK, "--socket-mode", ""},
		{[]string{"check-config", "--config", empty}, exitOK, "linker: \"auto\"\n", ""},
		{[]string{"check-config", "--config", empty, "--linker", "inline", "--socket-group=5"}, exitOK, "linker: \"inline\"\n", ""},
		{nil, exitUsage, "", "no command"},
		{[]string{"sreve"}, exitUsage, "", "sreve"},
		{[]string{"serve", "now"}, exitUsage, "", "now"},
		{[]string{"version", "now"}, exitUsage, "", "now"},
		{[]string{"serve", "--colour"}, exitUsage, "", "--colour"},
		{[]string{"serve", "--config", empty, "--linker", "fast"}, exitUsage, "", "--linker: \"fast\" is not allowed"},
		{[]string{"check-config", "--config", empty, "--socket", "s"}, exitUsage, "", "--socket: "},
		{[]string{"check-config", "--config", bad}, exitUsage, "", bad + ":2: log_level: \"loud\" is not allowed"},
		{[]string{"serve", "--config", bad}, exitUsage, "", bad + ":2: "},
		{[]string{"teardown", "--config", bad}, exitUsage, "", bad + ":2: "},
		{[]string{"check-config", "--config", bad + "2"}, exitUsage, "", "bad.yaml2"},
		{[]string{"check-config", "--config="}, exitUsage, "", "read the configuration"},
	} {
		var stdout, stderr bytes.Buffer
		f := &fake{}
		code := run(t.Context(), f.daemon(), tc.args, noEnv, &stdout, &stderr)
		if code != tc.code || !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
			t.Errorf("%q: exit %d, stdout %q, stderr %q; want %d, %q, %q", tc.args, code, stdout.String(), stderr.String(), tc.code, tc.stdout, tc.stderr)
		}
		if (code == exitOK) != (stderr.Len() == 0) {
			t.Errorf("%q: exit %d with stderr %q", tc.args, code, stderr.String())
		}
		f.did(t)
	}
}

func TestFlagsOverrideTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c")
	if err := os.WriteFile(file, []byte("state_dir: /from/file\nlinker: inline\nbpffs: /b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	var out bytes.Buffer
	code := run(t.Context(), f.daemon(), []string{"teardown", "--config", file, "--state-dir", "/from/flag"}, noEnv, &out, &out)
	if want := (control.Config{StateDir: "/from/flag", BPFFS: "/b", Linker: "inline", History: 32, LeaseRenewal: 30 * time.Second}); code != exitOK || f.cfg != want {
		t.Errorf("exit %d, teardown of %+v, want %+v; %s", code, f.cfg, want, out.String())
	}
	f.did(t, "teardown")
}

func TestTeardownThatIsRefused(t *testing.T) {
	f := &fake{stopErr: errors.New("another xdpd is running")}
	var out bytes.Buffer
	if code := run(t.Context(), f.daemon(), []string{"teardown", "--config", emptyFile(t)}, noEnv, &out, &out); code != exitRuntime || !strings.Contains(out.String(), "another xdpd") {
		t.Errorf("exit %d: %s", code, out.String())
	}
}

func TestArgumentsOfTheCheck(t *testing.T) {
	serve := []string{"serve", "--config", "/c", "--linker=inline"}
	got, err := checkArgs(serve, running{Version: "1", Schema: 2, Socket: "/s", StateDir: "/d", BPFFS: "/b"})
	want := []string{
		"check-takeover", "--config", "/c", "--linker=inline",
		"--running", `{"version":"1","schema":2,"socket":"/s","state_dir":"/d","bpffs":"/b"}`,
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if serve[0] != "serve" {
		t.Error("the own arguments were changed")
	}
}
