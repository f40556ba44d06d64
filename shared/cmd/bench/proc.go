package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// What a process has in memory.
const (
	residentMemory = "VmRSS"
	peakMemory     = "VmHWM" // the most it had
)

// memoryOf gives the bytes that a process has in memory, where the system has a /proc.
func memoryOf(pid int, kind string) (bytes int64, measured bool, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	_, rest, _ := strings.Cut(string(status), "\n"+kind+":")
	line, _, _ := strings.Cut(rest, " kB\n")
	if err == nil {
		bytes, err = strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	}
	return bytes << 10, true, err
}

// threadsCPU is the CPU time of a process's threads to the nanosecond; 0 where the system has no /proc.
func threadsCPU(pid int) (total time.Duration, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone
		}
		running, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(running, 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(n)
	}
	return total, err
}

// userHZ is the unit of CPU times in /proc: so many of them are a second.
const userHZ = 100

// A postmaster is the process of a PostgreSQL server whose children do its work.
type postmaster struct{ pid int }

// findPostmaster gives nil where the system has no /proc.
func findPostmaster(ctx context.Context, db *pgxpool.Pool) (*postmaster, error) {
	var backend int
	if err := db.QueryRow(ctx, `select pg_backend_pid()`).Scan(&backend); err != nil {
		return nil, err
	}
	stat, err := readStat(backend)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &postmaster{stat.parent}, nil
}

// cpu is what the server has taken until now, all its processes together.
func (p *postmaster) cpu() (time.Duration, error) {
	main, err := readStat(p.pid)
	if err != nil {
		return 0, err
	}
	total, err := threadsCPU(p.pid)
	if err != nil {
		return 0, err
	}
	total += main.ended
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if stat, err := readStat(pid); err == nil && stat.parent == p.pid { // else it is gone
			cpu, err := threadsCPU(pid)
			if err != nil {
				return 0, err
			}
			total += cpu
		}
	}
	return total, nil
}

// A stat is what /proc/PID/stat says of a process.
type stat struct {
	parent int
	ended  time.Duration // CPU time of its children that are gone
}

func readStat(pid int) (s stat, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ") // the name before it may hold anything
	var state string
	var skip, user, system int64
	_, err = fmt.Sscan(rest, &state, &s.parent, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &user, &system)
	s.ended = time.Duration(user+system) * time.Second / userHZ
	return s, err
}
