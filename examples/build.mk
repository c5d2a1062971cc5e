# Builds the objects of the examples, which are committed; with clang 14 the result is the same bit for bit
# wherever it is built. Paths are relative to the project's root, so that none of a machine gets in.
CLANG ?= clang
LLVM_STRIP ?= llvm-strip
EXAMPLES := blocklist ratelimit sampler l4lb
EXAMPLE_CFLAGS := -O2 -g -target bpf -mcpu=v2 -Wall -Wextra -Werror -ffile-prefix-map=$(CURDIR)=. \
	-Ibpf/include -Iexamples/include -idirafter /usr/include/$(shell uname -m)-linux-gnu

.PHONY: examples
examples: $(foreach e,$(EXAMPLES),examples/$e/$e.bpf.o) \
	examples/testdata/slot.bpf.o examples/testdata/shield.bpf.o

examples/%.bpf.o: examples/%.bpf.c FORCE
	$(CLANG) $(EXAMPLE_CFLAGS) -c $< -o $@
	$(LLVM_STRIP) -g $@

.PHONY: FORCE
FORCE:
