// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func noEnv(string) string { return "" }

func TestLogFormats(t *testing.T) {
	for format, want := range map[string]string{"json": `"msg":"hello"`, "text": "level=WARN msg=hello", "auto": "level=WARN msg=hello"} {
		var out bytes.Buffer
		log := newLogger(config{logFormat: format, logLevel: "warn"}, &out, noEnv)
		log.Info("too quiet")
		log.Warn("hello")
		if text := out.String(); !strings.Contains(text, want) || !strings.Contains(text, "time") || strings.Contains(text, "quiet") {
			t.Errorf("%s: %q, want %q and a time", format, text, want)
		}
	}
}

func TestLogLevels(t *testing.T) {
	for level, want := range map[string]int{"debug": 4, "info": 3, "warn": 2, "error": 1} {
		var out bytes.Buffer
		log := newLogger(config{logFormat: "text", logLevel: level}, &out, noEnv)
		log.Debug("x")
		log.Info("x")
		log.Warn("x")
		log.Error("x")
		if got := strings.Count(out.String(), "\n"); got != want {
			t.Errorf("%s writes %d lines of 4, want %d", level, got, want)
		}
	}
}

// TestJournal takes a pipe for the journal's stream.
func TestJournal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(w.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	env := func(stream string) func(string) string {
		return func(name string) string { return map[string]string{"JOURNAL_STREAM": stream}[name] }
	}
	log := newLogger(config{logFormat: "auto", logLevel: "debug"}, w, env(fmt.Sprintf("%d:%d", st.Dev, st.Ino)))
	log.Debug("one")
	log.With("a", 1).Info("two\nlines")
	log.WithGroup("g").Warn("three", "time", "mine")
	log.Error("four")
	newLogger(config{logFormat: "auto", logLevel: "info"}, w, env("1:2")).Info("elsewhere")
	newLogger(config{logFormat: "text", logLevel: "info"}, w, env(fmt.Sprintf("%d:%d", st.Dev, st.Ino))).Info("as told")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(out), "\n")
	want := []string{"<7>msg=one", `<6>msg="two\nlines" a=1`, "<4>msg=three g.time=mine", "<3>msg=four"}
	for i, w := range want {
		if lines[i] != w {
			t.Errorf("line %d: %q, want %q", i, lines[i], w)
		}
	}
	for i, msg := range []string{"elsewhere", `"as told"`} {
		if line := lines[len(want)+i]; !strings.HasPrefix(line, "time=") || !strings.HasSuffix(line, "msg="+msg) {
			t.Errorf("%s is written as %q, want a plain line with time", msg, line)
		}
	}
}

// chunks counts writes, and refuses the last.
type chunks struct{ all []string }

func (c *chunks) Write(p []byte) (int, error) {
	if c.all = append(c.all, string(p)); len(c.all) > 800 {
		return 0, errors.New("full")
	}
	return len(p), nil
}

func TestJournalLinesAreWhole(t *testing.T) {
	sink := &chunks{}
	h := newJournalHandler(sink, &slog.HandlerOptions{})
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			log := slog.New(h).With("writer", i)
			for range 100 {
				log.Info("line")
			}
		})
	}
	writers.Wait()
	for _, c := range sink.all {
		if !strings.HasPrefix(c, "<6>msg=line writer=") || !strings.HasSuffix(c, "\n") || strings.Count(c, "\n") != 1 {
			t.Fatalf("a write of %q", c)
		}
	}
	if len(sink.all) != 800 {
		t.Errorf("%d writes, want 800", len(sink.all))
	}
	if err := h.Handle(context.Background(), slog.Record{}); err == nil {
		t.Error("an error of the writer is lost")
	}
}
