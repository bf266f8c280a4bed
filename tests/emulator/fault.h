// Names what faulted: device memory is closed while the host runs, so a host access ends here.
#pragma once

namespace emu {

// Installs the SIGSEGV handler, once; other faults go on to the handler before it.
void InstallFaultHandler();

}  // namespace emu
