// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/docs"
	"github.com/xdpd/xdpd/examples"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// block is a fenced block of a page.
type block struct {
	marks    []string // of the comments directly above it
	language string
	lines    []string
	at       int // the number of its first line
}

// blocks are the fenced blocks of a page.
func blocks(page string) (all []block) {
	var marks []string
	var open *block
	for i, line := range strings.Split(page, "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case open != nil && isFence:
			all = append(all, *open)
			open, marks = nil, nil
		case open != nil:
			open.lines = append(open.lines, line)
		case isFence:
			open = &block{marks: marks, language: fence, at: i + 2}
		case strings.HasPrefix(line, "<!-- ") && strings.HasSuffix(line, " -->"):
			marks = append(marks, strings.TrimSuffix(strings.TrimPrefix(line, "<!-- "), " -->"))
		case line != "":
			marks = nil
		}
	}
	return all
}

// step is a command of a session, and what it prints.
type step struct {
	command string
	prints  []string
	at      int
}

func (b block) steps() (steps []step) {
	for i, line := range b.lines {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			steps = append(steps, step{command: command, at: b.at + i})
		} else {
			steps[len(steps)-1].prints = append(steps[len(steps)-1].prints, line)
		}
	}
	return steps
}

// minutes is how a page tells the time until a change is undone; where the daemon is slow it is less.
var minutes = regexp.MustCompile(`, in \d+m0s,`)

// matches tells whether what a command printed is what the page says. … stands for anything in a line, and spaces
// for at least one: how wide columns are differs.
func (s step) matches(output string) bool {
	var pattern strings.Builder
	pattern.WriteString("^")
	for _, line := range s.prints {
		words := regexp.MustCompile(` +`).ReplaceAllString(regexp.QuoteMeta(minutes.ReplaceAllString(line, ", in …,")), " +")
		pattern.WriteString(strings.ReplaceAll(words, "…", ".*") + " *\n")
	}
	return regexp.MustCompile(pattern.String() + "\n*$").MatchString(output)
}

// guide is a session that follows a page.
type guide struct {
	*host
	dir    string
	status int // of the last command
}

// shell is a command of the session.
func (g *guide) shell(command string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", fmt.Sprintf("exec 2>&1; (exit %d)\n%s", g.status, command))
	cmd.Dir = g.dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") }),
		"XDPD_SOCKET="+g.socket, "PATH="+binDir+":"+os.Getenv("PATH"))
	return cmd
}

// session runs the commands of a block one after the other, and compares what they print.
func (g *guide) session(b block) {
	g.Helper()
	for _, s := range b.steps() {
		cmd := g.shell(s.command)
		var out buffer
		cmd.Stdout = &out
		nettest.RunIn(g.ns, func() { _ = cmd.Run() }) // what came of it is in ProcessState
		g.status = cmd.ProcessState.ExitCode()
		if !s.matches(out.String()) {
			g.Errorf("changing-safely.md:%d: $ %s\nprints\n%s\nand the page says\n%s", s.at, s.command, out.String(), strings.Join(s.prints, "\n"))
		}
	}
}

// background starts the one command of a block, and returns when it waits for something. The caller calls the
// function that it returns after the next block, which ends the command.
func (g *guide) background(b block) (end func()) {
	g.Helper()
	s := b.steps()[0]
	cmd := g.shell("exec " + s.command)
	var out buffer
	cmd.Stdout = &out
	says := func() string { return aside.ReplaceAllString(out.String(), "") }
	var err error
	nettest.RunIn(g.ns, func() { err = cmd.Start() })
	if err != nil {
		g.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // as above
		close(done)
	}()
	g.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, if all went well
		<-done
	})
	g.eventually("it waits: "+s.command, func() bool {
		if strings.Contains(s.command, "--confirm-within") {
			return strings.Contains(out.String(), "waiting for xdpctl confirm")
		}
		g.happen()
		return aside.MatchString(out.String())
	})
	return func() {
		g.Helper()
		defer func() { <-done }()
		for wait := true; wait; {
			g.eventually("it printed what the page says, or ended: "+s.command, func() bool {
				select {
				case <-done:
					wait = false
				default:
				}
				return !wait || s.matches(says())
			})
			if wait {
				_ = cmd.Process.Signal(os.Interrupt) // it may just be ending
				<-done
			}
		}
		if !s.matches(says()) {
			g.Errorf("changing-safely.md:%d: $ %s\nprints\n%s\nand the page says\n%s", s.at, s.command, says(), strings.Join(s.prints, "\n"))
		}
	}
}

// aside are lines about an interface that is not on the page.
var aside = regexp.MustCompile(`(?m)^.* ` + nettest.Dev + ` .*\n`)

// happen makes something happen, aside, and takes it back.
func (g *guide) happen() {
	g.Helper()
	if _, err := g.client.AddProgram(g.ctx(), add("aside", "pass", nettest.Dev)); err != nil {
		g.Fatal(err)
	}
	if _, err := g.client.RemoveProgram(g.ctx(), &xdpdv1.RemoveProgramRequest{Name: "aside"}); err != nil {
		g.Fatal(err)
	}
}

// TestGuide does what docs/changing-safely.md says, and sees what it says.
func TestGuide(t *testing.T) {
	h := newHost(t, "eth0", "eth1")
	g := &guide{host: h, dir: filepath.Join(h.dir, "guide")}
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"blocklist.o": examples.Blocklist, "ratelimit.o": examples.Ratelimit,
		"blocklist-2.o": append(slices.Clone(examples.Blocklist), '\n'), // another sha256, and else the same
		"capture.pcap":  capture(from("198.51.100.1"), from("192.0.2.7")),
	} {
		if err := os.WriteFile(filepath.Join(g.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	sessions := 0
	end := func() {}
	for _, b := range blocks(docs.ChangingSafely) {
		follow := func() {}
		background := false
		for _, mark := range b.marks {
			file, isFile := strings.CutPrefix(mark, "file: ")
			switch {
			case isFile:
				if err := os.WriteFile(filepath.Join(g.dir, file), []byte(strings.Join(b.lines, "\n")+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			case mark == "in the background":
				background = true
			case mark == "the blocklist denies 192.0.2.0/24":
				h.update("blocklist", "denied4", struct {
					Bits uint32
					Addr [4]byte
				}{24, [4]byte{192, 0, 2, 0}}, uint32(1))
			default:
				t.Errorf("line %d: what does the comment %q mean?", b.at, mark)
			}
		}
		switch {
		case b.language == "yaml":
			continue
		case b.language != "console":
			t.Errorf("line %d: a block of %q, which nobody tests", b.at, b.language)
		case background:
			follow = g.background(b)
		default:
			g.session(b)
		}
		sessions++
		end()
		end = follow
	}
	end()
	if sessions < 10 {
		t.Errorf("there are only %d sessions in the guide", sessions)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
