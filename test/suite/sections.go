// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"time"
)

// sections is a writer that takes the output of guest.sh apart, and calls done at the end of each run.
type sections struct {
	done    func(number int, out []byte, status string, elapsed time.Duration)
	line    []byte // what has come of the current line
	out     []byte // of the current run
	started time.Time
	ended   map[int]bool
}

func newSections(done func(number int, out []byte, status string, elapsed time.Duration)) *sections {
	return &sections{done: done, ended: map[int]bool{}}
}

// Write never fails.
func (s *sections) Write(p []byte) (int, error) {
	s.line = append(s.line, p...)
	for {
		end := bytes.IndexByte(s.line, '\n')
		if end < 0 {
			return len(p), nil
		}
		s.take(s.line[:end+1])
		s.line = s.line[end+1:]
	}
}

func (s *sections) take(line []byte) {
	var number, code int
	switch text := string(line); {
	case matches(text, "##suite begin %d\n", &number):
		s.out, s.started = nil, time.Now()
	case matches(text, "##suite end %d %d\n", &number, &code):
		status := ""
		if code != 0 {
			status = fmt.Sprintf("exit status %d", code)
		}
		s.ended[number] = true
		s.done(number, s.out, status, time.Since(s.started))
		s.out = nil
	default:
		s.out = append(s.out, line...)
	}
}

func matches(text, format string, values ...any) bool {
	n, err := fmt.Sscanf(text, format, values...)
	return err == nil && n == len(values)
}

// missing returns which of the runs 0 to n-1 did not end.
func (s *sections) missing(n int) []int {
	var missing []int
	for i := range n {
		if !s.ended[i] {
			missing = append(missing, i)
		}
	}
	return missing
}
