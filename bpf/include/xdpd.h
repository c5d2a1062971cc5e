// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// For authors of XDP programs that run as members of an xdpd chain. It needs no other header.
#ifndef XDPD_H
#define XDPD_H

// XDPD_CONTINUE is a return code that hands the packet to the next member whatever the proceed-on set says;
// behind the last member the packet gets the chain's final verdict. It is the number that libxdp uses too.
// Outside of a chain the kernel does not know it, and drops the packet as if it were XDP_ABORTED.
#define XDPD_CONTINUE 31

#endif
