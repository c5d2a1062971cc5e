// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
)

// newLogger makes the logger that is configured. In format auto, where w goes to the journal, lines carry the
// priority in the journal's form and no time, which the journal has itself; else auto is text.
func newLogger(cfg config, w io.Writer, getenv func(string) string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.level()}
	switch {
	case cfg.logFormat == "json":
		return slog.New(slog.NewJSONHandler(w, opts))
	case cfg.logFormat == "auto" && isJournal(w, getenv("JOURNAL_STREAM")):
		return slog.New(newJournalHandler(w, opts))
	default:
		return slog.New(slog.NewTextHandler(w, opts))
	}
}

// isJournal tells whether w is the stream that systemd names in JOURNAL_STREAM as DEVICE:INODE. The variable
// alone says nothing: children inherit it, and their output may go elsewhere.
func isJournal(w io.Writer, stream string) bool {
	file, ok := w.(*os.File)
	if !ok || stream == "" {
		return false
	}
	info, err := file.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// journalHandler writes text lines with a priority as in sd-daemon(3) in front.
type journalHandler struct {
	slog.Handler // writes into line
	*journalSink
}

type journalSink struct {
	mu   sync.Mutex // protects line and the order of writes to w
	line bytes.Buffer
	w    io.Writer
}

func newJournalHandler(w io.Writer, opts *slog.HandlerOptions) journalHandler {
	s := &journalSink{w: w}
	without := *opts
	without.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	return journalHandler{Handler: slog.NewTextHandler(&s.line, &without), journalSink: s}
}

// Handle writes one line with one write.
func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.line.Reset()
	fmt.Fprintf(&h.line, "<%d>", priority(r.Level))
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	_, err := h.w.Write(h.line.Bytes())
	return err
}

// WithAttrs returns a handler with more attributes and the same sink.
func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return journalHandler{Handler: h.Handler.WithAttrs(attrs), journalSink: h.journalSink}
}

// WithGroup returns a handler with a group and the same sink.
func (h journalHandler) WithGroup(name string) slog.Handler {
	return journalHandler{Handler: h.Handler.WithGroup(name), journalSink: h.journalSink}
}

// priority gives a level its number in syslog(3).
func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	default:
		return 7
	}
}
