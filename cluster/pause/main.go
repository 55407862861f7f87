// The sandbox ("pause") process that holds a pod's namespaces open.
//
// No image can be pulled here, so the sandbox image is this program on its own. Go and not C, because a Go
// toolchain is needed for everything else anyway and a C compiler is not.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		// With shareProcessNamespace this process is pid 1 of the pod and inherits its orphans.
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
