// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// entry is one of the journal.
type entry struct {
	Message  string `json:"MESSAGE"`
	Priority string `json:"PRIORITY"`
	Unit     string `json:"_SYSTEMD_UNIT"` // of the process that wrote it
	Comm     string `json:"_COMM"`
	Cursor   string `json:"__CURSOR"`
}

// entries reads the journal; the arguments say what of it.
func entries(t testing.TB, args ...string) []entry {
	t.Helper()
	out, err := run("journalctl", append([]string{"--output=json", "--no-pager", "--quiet"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	var all []entry
	for line := range strings.Lines(out) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("the journal has %q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// journalEnd is the cursor of the last entry.
func journalEnd(t testing.TB) string {
	t.Helper()
	last := entries(t, "--lines=1")
	if len(last) != 1 {
		t.Fatal("the journal is empty")
	}
	return last[0].Cursor
}

// log is what the units wrote since the test began, and systemd about them.
func (h *host) log() []entry {
	h.Helper()
	if _, err := run("journalctl", "--sync"); err != nil {
		h.Fatal(err)
	}
	return entries(h, h.since, "--unit="+mainUnit, "--unit="+daemonUnit)
}

func (h *host) journal() string {
	var b strings.Builder
	for _, e := range h.log() {
		b.WriteString("<" + e.Priority + "> " + e.Comm + ": " + e.Message + "\n")
	}
	return b.String()
}

// wantLog waits until the journal has an entry with all these texts, and returns it.
func (h *host) wantLog(texts ...string) (found entry) {
	h.Helper()
	h.wait("an entry with "+strings.Join(texts, " and "), func() bool {
		var ok bool
		found, ok = findEntry(h.log(), texts...)
		return ok
	}, func() string { return "not in the journal" })
	return found
}

// findEntry returns the first entry with all these texts.
func findEntry(log []entry, texts ...string) (entry, bool) {
	for _, e := range log {
		has := true
		for _, text := range texts {
			has = has && strings.Contains(e.Message, text)
		}
		if has {
			return e, true
		}
	}
	return entry{}, false
}

// runAs runs a command as somebody else, or as root if that is nil.
func runAs(who *syscall.Credential, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), commandError{strings.Join(cmd.Args, " "), out.String(), err}
	}
	return out.String(), nil
}

// commandError is how a command failed, with what it printed.
type commandError struct {
	command, out string
	err          error
}

func (e commandError) Error() string { return e.command + ": " + e.err.Error() + "\n" + e.out }
func (e commandError) Unwrap() error { return e.err }
