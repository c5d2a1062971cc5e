// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpd/xdpd/store"
)

func TestCheckTakeover(t *testing.T) {
	dir := t.TempDir()
	files := map[string]func(path string) error{
		"good": func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"gone": func(string) error { return nil },
		"link": func(path string) error { return os.Symlink("/dev/null", path) },
		"open": func(path string) error { return os.WriteFile(path, nil, 0o644) },
	}
	for name, make := range files {
		if err := errors.Join(os.Mkdir(dir+"/"+name, 0o700), make(dir+"/"+name+"/xdpd.db")); err != nil {
			t.Fatal(err)
		}
	}
	like := `{"version":"1","schema":%d,"socket":"/s","state_dir":"` + dir + `/%s","bpffs":"/b","more":[1]}`
	of := func(schema int, name string) string { return fmt.Sprintf(like, schema, name) }
	same := of(store.Schema, "good")
	for _, tc := range []struct {
		running string
		more    []string
		probe   error
		says    string // "": it can
	}{
		{running: same},
		{running: of(1, "good")},
		{running: same, more: []string{"--linker=inline", "--socket-mode=0600", "--history=7"}},
		{running: of(store.Schema+1, "good"), says: fmt.Sprintf("downgrade: version dev reads stores up to schema %d", store.Schema)},
		{running: same, more: []string{"--socket=/t"}, says: "socket is /s now and /t in the configuration"},
		{running: same, more: []string{"--state-dir=/t"}, says: "state_dir is " + dir + "/good now"},
		{running: of(store.Schema, "gone"), more: []string{"--state-dir=" + dir + "/gone"}, says: dir + "/gone/xdpd.db: no such file"},
		{running: of(store.Schema, "link"), more: []string{"--state-dir=" + dir + "/link"}, says: "it is a symbolic link"},
		{running: of(store.Schema, "open"), more: []string{"--state-dir=" + dir + "/open"}, says: "chmod 600"},
		{running: same, more: []string{"--bpffs=/t"}, says: "a stop and a start"},
		{running: same, more: []string{"--socket-group=no-such-group"}, says: "no-such-group"},
		{running: same, more: []string{"--linker=fast"}, says: "--linker"},
		{running: same, probe: errors.New("the kernel is too old"), says: "the kernel is too old"},
		{running: "{", says: "read --running"},
		{running: "", says: "read --running"},
	} {
		args := append([]string{"check-takeover", "--config", emptyFile(t), "--socket=/s", "--state-dir=" + dir + "/good", "--bpffs=/b", "--running", tc.running}, tc.more...)
		var stdout, stderr bytes.Buffer
		f := &fake{probeErr: tc.probe}
		code := run(t.Context(), f.daemon(), args, noEnv, &stdout, &stderr)
		want := fmt.Sprintf("{\"can_take_over\":true,\"version\":\"dev\",\"schema\":%d}\n", store.Schema)
		if tc.says != "" {
			want = ""
		}
		if stdout.String() != want || (code == exitOK) != (tc.says == "") || !strings.Contains(stderr.String(), tc.says) {
			t.Errorf("%s %q: exit %d, %q, %q; want %q", tc.running, tc.more, code, stdout.String(), stderr.String(), tc.says)
		}
		f.did(t)
	}
	var help bytes.Buffer
	if code := run(t.Context(), (&fake{}).daemon(), []string{"--help"}, noEnv, &help, &help); code != exitOK || strings.Contains(help.String(), checkCommand) {
		t.Errorf("people are told of it: %s", help.String())
	}
}

func TestAsk(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/not/for/a/check")
	r := running{Version: "1", Schema: 2}
	of := func(ctx context.Context, script string) (*successor, string, error) {
		path := filepath.Join(t.TempDir(), "next")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := ask(ctx, path, []string{"an argument"}, r)
		return s, path, err
	}
	good := `{"can_take_over":true,"version":"2","schema":3,"more":null}`
	s, path, err := of(t.Context(), `test "$*" = "an argument" -a -z "$NOTIFY_SOCKET" && echo '`+good+`'; echo noise >&2`)
	if err != nil {
		t.Fatal(err)
	}
	if s.version != "2" || s.way() != path {
		t.Errorf("%+v by %s, want version 2 by %s", s, s.way(), path)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if way := s.way(); !strings.HasPrefix(way, "/proc/self/fd/") {
		t.Errorf("another file is there, and the way to the one that was checked is %s", way)
	} else if text, err := os.ReadFile(way); err != nil || !strings.Contains(string(text), good) {
		t.Errorf("%s has %q, %v", way, text, err)
	}
	s.Close()
	for script, want := range map[string]string{
		"exit 1":                       "exit status 1",
		"echo 'xdpd: why' >&2; exit 2": "next: exit status 2: why",
		"kill $$":                      "signal: terminated",
		"true":                         `does not say that it can take over: ""`,
		"echo no":                      `does not say that it can take over: "no"`,
		"echo '{}'":                    "does not say",
		`echo '{"can_take_over":false,"version":"2","schema":3}'`: "does not say",
		"echo '" + good + "'; echo and":                           "more than that",
		"echo '" + good + "'; exit 3":                             "exit status 3",
		`echo '{"can_take_over":true,"version":"2","schema":1}'`:  "version 2 reads stores up to schema 1, and the store of the daemon that runs, version 1, has schema 2",
	} {
		if _, _, err := of(t.Context(), script); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", script, err, want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("told to stop"))
	if _, _, err := of(ctx, "sleep 60"); err == nil || err.Error() != "told to stop" {
		t.Errorf("cut off: %v", err)
	}
	if _, err := ask(t.Context(), filepath.Join(t.TempDir(), "absent"), nil, r); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no program: %v", err)
	}
}
