# Builds the objects of the end-to-end tests, which are committed, in the way of examples/build.mk.
.PHONY: test/e2e
test/e2e: $(patsubst %.c,%.o,$(sort $(wildcard test/e2e/testdata/*.bpf.c)))

test/e2e/%.bpf.o: test/e2e/%.bpf.c FORCE
	$(CLANG) $(EXAMPLE_CFLAGS) -c $< -o $@
	$(LLVM_STRIP) -g $@
