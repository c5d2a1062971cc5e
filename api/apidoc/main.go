// SPDX-License-Identifier: Apache-2.0

// Command apidoc writes the page about the API, from the comments in the .proto files:
//
//	apidoc DESCRIPTORS >PAGE
//
// DESCRIPTORS is a FileDescriptorSet with source code info, as `buf build` makes it.
// It imports protobuf's runtime only.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

const apiPrefix = "xdpd." // of the packages that are described; others are only referred to

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "apidoc:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: apidoc DESCRIPTORS")
	}
	encoded, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(encoded, &set); err != nil {
		return fmt.Errorf("decode %s: %w", args[0], err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return fmt.Errorf("read %s: %w", args[0], err)
	}
	w := bufio.NewWriter(stdout)
	fmt.Fprint(w, "# API\n\nMade from `api/proto` by `make generate`: changes belong there.\n")
	for _, f := range set.GetFile() { // in the order of the set: that of RangeFiles is random
		if !strings.HasPrefix(f.GetPackage(), apiPrefix) {
			continue
		}
		file, err := files.FindFileByPath(f.GetName())
		if err != nil {
			return err
		}
		page{w, file}.write()
	}
	return w.Flush()
}

// page writes what is said about one file. Errors of writing come up at w.Flush.
type page struct {
	w    *bufio.Writer
	file protoreflect.FileDescriptor
}

func (p page) write() {
	fmt.Fprintf(p.w, "\n%s\n", p.introduction())
	services := p.file.Services()
	for i := range services.Len() {
		p.service(services.Get(i))
	}
	messages := p.file.Messages()
	fmt.Fprint(p.w, "\n## Messages\n")
	for i := range messages.Len() {
		p.message(messages.Get(i))
	}
	enums := p.file.Enums()
	fmt.Fprint(p.w, "\n## Enums\n")
	for i := range enums.Len() {
		p.enum(enums.Get(i))
	}
}

// introduction is the comment above the syntax line.
func (p page) introduction() string {
	locations := p.file.SourceLocations()
	const syntax = 12 // field number of syntax in FileDescriptorProto
	head := locations.ByPath(protoreflect.SourcePath{syntax})
	return tidy(head.LeadingComments)
}

func (p page) service(s protoreflect.ServiceDescriptor) {
	fmt.Fprintf(p.w, "\n## %s\n\n%s\n", s.Name(), p.comment(s))
	methods := s.Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		fmt.Fprintf(p.w, "\n### %s\n\n`%s(%s%s) → %s%s`\n\n%s\n", m.Name(), m.Name(), stream(m.IsStreamingClient()), m.Input().Name(),
			stream(m.IsStreamingServer()), m.Output().Name(), p.comment(m))
		p.fields("Request", m.Input())
		p.fields("Response", m.Output())
	}
}

func stream(is bool) string {
	if is {
		return "stream "
	}
	return ""
}

// fields writes a table under a heading of its own, for the messages of a method.
func (p page) fields(what string, m protoreflect.MessageDescriptor) {
	if m.Fields().Len() == 0 {
		fmt.Fprintf(p.w, "\n%s: no fields.\n", what)
		return
	}
	fmt.Fprintf(p.w, "\n%s:\n\n", what)
	p.table(m)
}

// message writes a message that is not the request or response of a method, and those inside it.
func (p page) message(m protoreflect.MessageDescriptor) {
	if m.IsMapEntry() || p.ofMethod(m) {
		return
	}
	fmt.Fprintf(p.w, "\n### %s\n\n%s\n", m.Name(), p.comment(m))
	if m.Fields().Len() > 0 {
		fmt.Fprintln(p.w)
		p.table(m)
	}
	for i := range m.Messages().Len() {
		p.message(m.Messages().Get(i))
	}
	for i := range m.Enums().Len() {
		p.enum(m.Enums().Get(i))
	}
}

func (p page) ofMethod(m protoreflect.MessageDescriptor) bool {
	services := p.file.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			if methods.Get(j).Input() == m || methods.Get(j).Output() == m {
				return true
			}
		}
	}
	return false
}

func (p page) table(m protoreflect.MessageDescriptor) {
	fmt.Fprint(p.w, "| field | type | |\n| --- | --- | --- |\n")
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		note := ""
		if oneof := f.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() {
			note = fmt.Sprintf(" (one of `%s`)", oneof.Name())
		}
		fmt.Fprintf(p.w, "| `%s` | %s | %s%s |\n", f.Name(), p.typeOf(f), p.cell(f), note)
	}
}

func (p page) typeOf(f protoreflect.FieldDescriptor) string {
	if f.IsMap() {
		return "map of " + f.MapKey().Kind().String() + " to " + p.kind(f.MapValue())
	}
	switch kind := p.kind(f); {
	case f.IsList():
		return "repeated " + kind
	case f.HasOptionalKeyword():
		return "optional " + kind
	default:
		return kind
	}
}

func (p page) kind(f protoreflect.FieldDescriptor) string {
	var named protoreflect.Descriptor
	switch f.Kind() {
	case protoreflect.MessageKind:
		named = f.Message()
	case protoreflect.EnumKind:
		named = f.Enum()
	default:
		return f.Kind().String()
	}
	if named.ParentFile() != p.file {
		return string(named.FullName())
	}
	return fmt.Sprintf("[%s](#%s)", named.Name(), strings.ToLower(string(named.Name())))
}

func (p page) enum(e protoreflect.EnumDescriptor) {
	fmt.Fprintf(p.w, "\n### %s\n\n%s\n\n| value | number | |\n| --- | --- | --- |\n", e.Name(), p.comment(e))
	for i := range e.Values().Len() {
		v := e.Values().Get(i)
		fmt.Fprintf(p.w, "| `%s` | %d | %s |\n", v.Name(), v.Number(), p.cell(v))
	}
}

func (p page) comment(d protoreflect.Descriptor) string {
	return tidy(p.file.SourceLocations().ByDescriptor(d).LeadingComments)
}

// cell is a comment fit for a table.
func (p page) cell(d protoreflect.Descriptor) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(p.comment(d)), " "), "|", `\|`)
}

// tidy removes the space behind each // and empty lines at both ends.
func tidy(comment string) string {
	var lines []string
	for line := range strings.Lines(comment) {
		lines = append(lines, strings.TrimPrefix(strings.TrimRight(line, " \n"), " "))
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}
