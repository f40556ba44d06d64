package cluster

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

const (
	kernelWatches = true
	tmpfs         = 0x01021994 // statfs(2)
	ramfs         = 0x858458f6
)

// dieWithThread makes the kernel send sig when the thread that starts the process ends.
func dieWithThread(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// inMemory reports whether the folder's content is lost when the machine stops.
func inMemory(folder string) bool {
	var fs syscall.Statfs_t
	err := syscall.Statfs(folder, &fs)
	return err == nil && (uint32(fs.Type) == tmpfs || uint32(fs.Type) == ramfs)
}

// mounted lists the mount points, or nothing if they are unknown.
func mounted() []string {
	table, _ := os.ReadFile("/proc/self/mountinfo")
	return mountPoints(string(table), 4)
}

// servers lists the PostgreSQL processes that run on the data folder, without zombies.
func servers(data string) (pids []int) {
	folder, err := os.Stat(data)
	if err != nil {
		return nil
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		if name, _ := os.ReadFile(p + "/comm"); string(name) != "postgres\n" {
			continue
		}
		cwd, err := os.Stat(p + "/cwd")
		runs := err == nil && os.SameFile(cwd, folder)
		if err != nil { // of another user: the command line is readable by all
			line, _ := os.ReadFile(p + "/cmdline")
			runs = bytes.Contains(line, []byte("\x00-D\x00"+data+"\x00"))
		}
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil && runs {
			pids = append(pids, pid)
		}
	}
	return pids
}
