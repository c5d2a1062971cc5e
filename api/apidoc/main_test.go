// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// TestPage renders the API, without its comments: the generated Go code holds none.
func TestPage(t *testing.T) {
	api := protodesc.ToFileDescriptorProto(xdpdv1.File_xdpd_v1_xdpd_proto)
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto),
		protodesc.ToFileDescriptorProto(timestamppb.File_google_protobuf_timestamp_proto), api,
	}}
	comment := " Adds | a program.\n"
	api.SourceCodeInfo = &descriptorpb.SourceCodeInfo{Location: []*descriptorpb.SourceCodeInfo_Location{
		{Path: []int32{6, 0, 2, 0}, Span: []int32{1, 0, 1}, LeadingComments: &comment}, // the first method
		{Path: []int32{4, 0, 2, 0}, Span: []int32{2, 0, 1}, LeadingComments: &comment}, // the first field
	}}
	encoded, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "set")
	if err := os.WriteFile(path, encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run([]string{path}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"## XdpdService\n",
		"### AddProgram\n\n`AddProgram(AddProgramRequest) → AddProgramResponse`\n\nAdds | a program.\n",
		"| `first` | bool | Adds \\| a program. (one of `place`) |\n",
		"| `priority` | optional int32 |  |\n",
		"| `chains` | repeated [Chain](#chain) |  |\n",
		"| `added` | google.protobuf.Timestamp |  |\n",
		"| `VERDICT_DROP` | 2 |  |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if strings.Contains(out.String(), "### AddProgramRequest") {
		t.Error("a request has a section of its own beside its method's")
	}
}
