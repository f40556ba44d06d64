//go:build !linux

package cluster

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

const kernelWatches = false

func dieWithThread(*syscall.SysProcAttr, syscall.Signal) {}

func inMemory(string) bool { return false }

func mounted() []string { return nil }

// servers lists the PostgreSQL processes that run on the data folder.
func servers(data string) (pids []int) {
	list, _ := exec.Command("ps", "-axww", "-o", "pid=,args=").Output()
	for line := range strings.Lines(string(list)) {
		first, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		if pid, err := strconv.Atoi(first); err == nil && strings.Contains(args, "postgres -D "+data+" ") {
			pids = append(pids, pid)
		}
	}
	return pids
}
