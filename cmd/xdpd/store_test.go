// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/store"
)

// storeRun runs xdpd store with arguments.
func storeRun(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), (&fake{}).daemon(), append([]string{"store"}, args...), noEnv, &out, &errs)
	return code, out.String(), errs.String()
}

// expectStore runs xdpd store and looks at what came of it.
func expectStore(t *testing.T, args []string, code int, wants ...string) {
	t.Helper()
	got, stdout, stderr := storeRun(t, args...)
	if got != code {
		t.Errorf("%q: exit code %d, want %d", args, got, code)
	}
	for _, want := range wants {
		if !strings.Contains(stdout+stderr, want) {
			t.Errorf("%q: %q is missing in\n%s\n%s", args, want, stdout, stderr)
		}
	}
}

func TestStore(t *testing.T) {
	dir, empty := t.TempDir(), emptyFile(t)
	path := filepath.Join(dir, store.FileName)
	st, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	object := bytes.Repeat([]byte("a program's object "), 1000)
	sum := sha256.Sum256(object)
	sha := hex.EncodeToString(sum[:])
	if err := st.Save(store.Change{
		PutPrograms: []store.Program{{ID: 1, Name: "a", Function: "f", Object: sha, Size: uint64(len(object)), Lifetime: "daemon"}},
		Objects:     map[string][]byte{sha: object}, PutChains: []store.Chain{{Interface: "eth0", Chain: chain.New()}},
	}); err != nil {
		t.Fatal(err)
	}
	config := []string{"--config", empty, "--state-dir", dir}
	in := func(args ...string) []string { return append(args, config...) }
	expectStore(t, in("check"), exitOK, "file: "+path, "schema: 3", "in use by: a process", "intact: 1 programs, 1 chains", "1 objects", "wrong: 0")
	archive := filepath.Join(dir, "archive")
	expectStore(t, in("export", archive), exitOK, "wrote: "+archive, "1 programs", "lost: 0")
	expectStore(t, in("export", archive), exitRuntime, "file exists")
	expectStore(t, in("import", archive), exitRuntime, "move it away first")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	expectStore(t, []string{"check", "--config", empty, "--file", path}, exitOK, "in use by: no process")
	copied := filepath.Join(dir, "copy", store.FileName)
	expectStore(t, []string{"import", archive, "--config", empty, "--file", copied}, exitOK, "wrote: "+copied, "1 programs, 1 chains")
	expectStore(t, []string{"check", "--config", empty, "--file", copied}, exitOK, "wrong: 0")
	// An object that is not what it was takes its program along.
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[bytes.LastIndex(content, []byte("program's"))] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	expectStore(t, in("check"), exitRuntime, "object "+sha+" has the sha256", "program a: its object "+sha+" is missing", "not as it should be")
	expectStore(t, in("export", archive+"2"), exitRuntime, "wrote: "+archive+"2", "- program a: the object of program a", "0 programs, 1 chains", "the archive has the rest")
	expectStore(t, []string{"import", archive + "2", "--config", empty, "--file", copied + "2"}, exitOK, "0 programs, 1 chains")
}

func TestStoreUsage(t *testing.T) {
	empty := emptyFile(t)
	none := filepath.Join(t.TempDir(), "none")
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, "no command"},
		{[]string{"repair"}, exitUsage, "repair"},
		{[]string{"check", "it"}, exitUsage, "it"},
		{[]string{"export"}, exitUsage, "arg"},
		{[]string{"import", "a", "b"}, exitUsage, "arg"},
		{[]string{"check", "--config", none}, exitUsage, none},
		{[]string{"check", "--config", empty, "--file", none}, exitRuntime, none},
		{[]string{"check", "--config", empty, "--state-dir", none}, exitRuntime, none + "/xdpd.db"},
		{[]string{"export", none + "2", "--config", empty, "--file", none}, exitRuntime, none},
		{[]string{"import", none, "--config", empty, "--file", none + "2"}, exitRuntime, none},
	} {
		expectStore(t, tc.args, tc.code, tc.want)
	}
	for _, path := range []string{none, none + "2"} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it left %s", path)
		}
	}
}
