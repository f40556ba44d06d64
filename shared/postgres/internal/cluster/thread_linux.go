package cluster

import "syscall"

const kernelWatches = true

// dieWithThread has the kernel send sig when the thread that starts the process ends.
func dieWithThread(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }
