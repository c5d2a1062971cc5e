# Builds the objects of the tests, which are committed; with clang 14 the result is the same bit for bit
# wherever it is built. Paths are relative to the project's root, so that none of a machine gets in.
DISPATCHER_CFLAGS := -O2 -g -target bpf -Wall -Wextra -Werror -ffile-prefix-map=$(CURDIR)=. \
	-idirafter /usr/include/$(shell uname -m)-linux-gnu

.PHONY: dispatcher/testdata
dispatcher/testdata: $(patsubst %.c,%.o,$(wildcard dispatcher/testdata/contract/*.c))

dispatcher/testdata/contract/%.o: dispatcher/testdata/contract/%.c FORCE
	clang $(DISPATCHER_CFLAGS) -mcpu=v2 -c $< -o $@
	llvm-strip -g $@
