package main

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/procfs"
)

// memory returns the bytes that the process has in memory, and the most it had; 0 where the system has no /proc.
func (p *process) memory() (now, most int64, err error) {
	proc, err := procfs.NewProc(p.cmd.Process.Pid)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	} else if err != nil {
		return 0, 0, err
	}
	status, err := proc.NewStatus()
	return int64(status.VmRSS), int64(status.VmHWM), err
}

// cpu returns the CPU time that the process has taken until now; 0 where the system has no /proc.
func (p *process) cpu() (time.Duration, error) { return threadsCPU(p.cmd.Process.Pid) }

// threadsCPU returns the CPU time of a process's threads to the nanosecond.
func threadsCPU(pid int) (total time.Duration, err error) {
	threads, err := procfs.AllThreads(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, thread := range threads {
		if stat, err := thread.Schedstat(); err == nil { // else it is gone
			total += time.Duration(stat.RunningNanoseconds)
		}
	}
	return total, err
}

// userHZ is the unit of CPU times in /proc: so many of them are a second.
const userHZ = 100

// A postmaster is the process of a PostgreSQL server whose children do its work; 0 where the system has no /proc.
type postmaster int

func findPostmaster(ctx context.Context, db *pgxpool.Pool) (postmaster, error) {
	var backend int
	if err := db.QueryRow(ctx, `select pg_backend_pid()`).Scan(&backend); err != nil {
		return 0, err
	}
	proc, err := procfs.NewProc(backend)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	stat, err := proc.Stat()
	return postmaster(stat.PPID), err
}

// cpu returns what the server has taken until now, all its processes together.
func (p postmaster) cpu() (total time.Duration, err error) {
	if p == 0 {
		return 0, nil
	}
	all, err := procfs.AllProcs()
	if err != nil {
		return 0, err
	}
	for _, proc := range all {
		stat, err := proc.Stat()
		switch {
		case err != nil: // it is gone
			continue
		case proc.PID == int(p):
			total += time.Duration(stat.CUTime+stat.CSTime) * time.Second / userHZ // of children that are gone
		case stat.PPID != int(p):
			continue
		}
		cpu, err := threadsCPU(proc.PID)
		if err != nil {
			return 0, err
		}
		total += cpu
	}
	return total, nil
}
