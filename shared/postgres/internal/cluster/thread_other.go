//go:build !linux

package cluster

import "syscall"

const kernelWatches = false

func dieWithThread(*syscall.SysProcAttr, syscall.Signal) {}
