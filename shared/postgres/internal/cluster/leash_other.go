//go:build !linux

package cluster

import "syscall"

const canDieWithThread = false

func dieWithThread(*syscall.SysProcAttr, syscall.Signal) {}
