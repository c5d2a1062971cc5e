// SPDX-License-Identifier: Apache-2.0

package server

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
)

// namer decodes a request that names an interface, and returns how the controller is asked for it.
type namer struct {
	field    string // where it is named
	patterns bool   // it may be one
	decode   func(ref string) (string, error)
}

func namers() []namer {
	first := func(refs []string, err error) (string, error) {
		if err != nil {
			return "", err
		}
		return refs[0], nil
	}
	expected := func(ref string) map[string]uint64 { return map[string]uint64{ref: 1} }
	return []namer{
		{"interfaces[0]", true, func(ref string) (string, error) {
			got, err := decodeAdd(add(ref), self())
			return first(got.Interfaces, err)
		}},
		{"interfaces[0]", true, func(ref string) (string, error) {
			got, err := decodeRemove(&xdpdv1.RemoveProgramRequest{Name: "p", Interfaces: []string{ref}}, self())
			return first(got.Interfaces, err)
		}},
		{"updates[0].interface", false, func(ref string) (string, error) {
			got, err := decodeUpdates(&xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "p", Interface: ref}}}, self())
			if err != nil {
				return "", err
			}
			return got.Updates[0].Interface, nil
		}},
		{"chains[0].interface", false, func(ref string) (string, error) {
			got, err := decodeSet(&xdpdv1.SetChainsRequest{Chains: []*xdpdv1.ChainSpec{{Interface: ref}}}, self())
			if err != nil {
				return "", err
			}
			return got.Chains[0].Interface, nil
		}},
		{"interface", false, func(ref string) (string, error) {
			got, err := decodeRollback(&xdpdv1.RollbackRequest{Interface: ref}, self())
			return got.Interface, err
		}},
		{"interface", false, func(ref string) (string, error) {
			got, err := decodeTest(&xdpdv1.TestRunRequest{Interface: ref, Packets: [][]byte{make([]byte, minPacket)}})
			return got.Interface, err
		}},
		{`options.expected_revisions[`, false, func(ref string) (string, error) {
			got, err := decodeOptions(&xdpdv1.ChangeOptions{ExpectedRevisions: expected(ref)}, self())
			for iface := range got.Expected {
				return iface, err
			}
			return "", err
		}},
	}
}

func TestInterfacesHaveOneSpelling(t *testing.T) {
	long := "/" + strings.Repeat("n", chain.MaxInterface-6) + ":eth0"
	for ref, want := range map[string]string{
		"eth0": "eth0", "blue:eth0": "blue:eth0", "/run/netns/blue:eth0": "blue:eth0", "/var/run/netns/blue:eth0": "blue:eth0",
		"/proc/7/ns/net:eth0": "/proc/7/ns/net:eth0", "a:b:eth0": "a:b:eth0", "/run/netns/a/b:eth0": "/run/netns/a/b:eth0", long: long,
	} {
		for _, n := range namers() {
			if got, err := n.decode(ref); err != nil || got != want {
				t.Errorf("%s of %q: %q, %v, want %q", n.field, ref, got, err, want)
			}
		}
	}
}

func TestInterfacesAreValidated(t *testing.T) {
	for _, ref := range []string{
		"a234567890123456", ":eth0", "blue:", "..:eth0", "a/b:eth0", "/a/../b:eth0", "/a/:eth0", "eth 0", "a/b", ".", "..", "eth0\n",
		"blue:a234567890123456", "/run/netns/:eth0", "/" + strings.Repeat("n", chain.MaxInterface) + ":eth0", "eth[", "blue:eth[0",
	} {
		for _, n := range namers() {
			got, err := n.decode(ref)
			if err == nil {
				t.Errorf("%s takes %q as %q", n.field, ref, got)
			} else if in := field(t, err); !strings.HasPrefix(in, n.field) {
				t.Errorf("%q: the refusal names %s, want %s", ref, in, n.field)
			}
		}
	}
}

// Only where a program is placed and removed there may be a pattern.
func TestPatterns(t *testing.T) {
	for ref, want := range map[string]string{
		"eth*": "eth*", "veth[0-9]?": "veth[0-9]?", "*": "*", "blue:*": "blue:*", "/var/run/netns/blue:eth?": "blue:eth?",
		"enp[0-9]s[0-9]f[0-9]np[0-9]": "enp[0-9]s[0-9]f[0-9]np[0-9]",
	} {
		for _, n := range namers() {
			got, err := n.decode(ref)
			switch {
			case n.patterns && (err != nil || got != want):
				t.Errorf("%s of %q: %q, %v, want %q", n.field, ref, got, err, want)
			case n.patterns:
			case err == nil:
				t.Errorf("%s takes the pattern %q", n.field, ref)
			case !strings.HasPrefix(field(t, err), n.field) || !strings.Contains(err.Error(), "is a pattern"):
				t.Errorf("%s of %q: %v", n.field, ref, err)
			}
		}
	}
	if got, err := namers()[0].decode("blue*:eth0"); err != nil || got != "blue*:eth0" {
		t.Errorf("a namespace with a star is a name: %q, %v", got, err)
	}
}

// Two spellings of one interface are the same interface.
func TestInterfacesAreNamedOnce(t *testing.T) {
	twice := []string{"blue:eth0", "/run/netns/blue:eth0"}
	type request = *xdpdv1.AddProgramRequest
	refuses(t, func() request { return add("eth0") }, decodeAdd, []bad[request]{
		{"interfaces[1]", func(r request) { r.Interfaces = twice }},
		{`options.expected_revisions["blue:eth0"]`, func(r request) {
			r.Options = &xdpdv1.ChangeOptions{ExpectedRevisions: map[string]uint64{twice[0]: 1, twice[1]: 1}}
		}},
	})
	chains := &xdpdv1.SetChainsRequest{Chains: []*xdpdv1.ChainSpec{{Interface: twice[0]}, {Interface: twice[1]}}}
	if _, err := decodeSet(chains, self()); err == nil || field(t, err) != "chains[1].interface" {
		t.Errorf("two chains of one interface: %v", err)
	}
}

// The calls that read are asked for the one spelling, and refuse patterns too.
func TestReadersOfInterfaces(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	for name, call := range map[string]func(ref string) error{
		"GetChain": func(ref string) error {
			_, err := r.api.GetChain(t.Context(), &xdpdv1.GetChainRequest{Interface: ref})
			return err
		},
		"ListHistory": func(ref string) error {
			_, err := r.api.ListHistory(t.Context(), &xdpdv1.ListHistoryRequest{Interface: ref})
			return err
		},
	} {
		before := len(f.requests())
		if err := call("/run/netns/blue:eth0"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, ref := range []string{"eth*", "", "a/b:eth0"} {
			if err := call(ref); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s of %q: %v", name, ref, err)
			}
		}
		if got := f.requests()[before:]; !slices.Equal(got, []any{"blue:eth0"}) {
			t.Errorf("%s asked for %v", name, got)
		}
	}
}

func TestLeasesAndTakeovers(t *testing.T) {
	type request = *xdpdv1.AddProgramRequest
	leased := func(token string) func(request) {
		return func(r request) { r.Lifetime, r.Lease = xdpdv1.Lifetime_LIFETIME_LEASE, token }
	}
	fresh := func() request { return add("eth0") }
	refuses(t, fresh, decodeAdd, []bad[request]{
		{"lease", leased("")},
		{"lease", leased(long(maxString + 1))},
		{"lease", func(r request) { r.Lease = "t" }},
		{"lease", func(r request) { r.Lease, r.Lifetime = "t", xdpdv1.Lifetime_LIFETIME_PERSISTENT }},
		{"lifetime", func(r request) { r.Lifetime = xdpdv1.Lifetime_LIFETIME_LEASE + 1 }},
	})
	takes(t, fresh, decodeAdd, map[string]func(request){"the longest token": leased(long(maxString))})
	f := &fake{}
	r := start(t, f)
	req := add("eth*", "blue:eth0")
	leased("t")(req)
	req.Takeover = true
	if _, err := r.api.AddProgram(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	asked(t, f, control.AddRequest{
		Name: "p", Object: control.Object{Data: []byte("elf")}, Interfaces: []string{"eth*", "blue:eth0"},
		Lifetime: control.Leased, Lease: "t", Takeover: true, Options: control.Options{Caller: self()},
	})
}

// A spec of a leased program says so; which lease it is of stays as it is.
func TestLeasedSpecs(t *testing.T) {
	specs := []*xdpdv1.ProgramSpec{{Name: "a", Lifetime: xdpdv1.Lifetime_LIFETIME_LEASE}}
	got, err := decodePrograms(specs)
	if want := []control.ProgramSpec{{Name: "a", Lifetime: control.Leased}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
