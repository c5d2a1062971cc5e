# Builds the object of the end-to-end tests, which is committed, in the way of examples/build.mk.
.PHONY: test/e2e
test/e2e: test/e2e/testdata/verdict.bpf.o

test/e2e/%.bpf.o: test/e2e/%.bpf.c FORCE
	$(CLANG) $(EXAMPLE_CFLAGS) -c $< -o $@
	$(LLVM_STRIP) -g $@
