// Package daemon runs a process: it reads its settings, sets up its log, and ends it cleanly.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log" //nolint:depguard // to silence what libraries write with it
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// ErrUsage marks errors in the command line or the environment. The exit code is 2.
var ErrUsage = errors.New("usage")

type usageError struct{ error }

func (usageError) Is(target error) bool { return target == ErrUsage }
func (e usageError) Unwrap() error      { return e.error }

// Usagef is like fmt.Errorf, for an error that matches ErrUsage.
func Usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

// ExitWith returns err with an exit code of the program's own, 3 to 125.
func ExitWith(code int, err error) error { return exitError{err, code} }

// Main runs a program and exits: 0 when run returns nil, flag.ErrHelp or, once ctx is cancelled, context.Canceled; 2
// when it returns ErrUsage; as ExitWith says; else 1. The error goes to stderr, without passwords in URLs and tokens.
//
// SIGINT, SIGTERM, SIGHUP (unless ignored, as under nohup) and the end of the parent where it is watched (see parent)
// cancel ctx. A second signal ends the process at once, unless it is the first one again within a second; so do 20 s
// without run returning.
func Main(run Run) {
	// A heap of a few megabytes is collected again and again. This allocation is never touched, so it takes no memory,
	// but delays collections until the heap has doubled.
	untouched := make([]byte, 16<<20)
	live(run, 20*time.Second)
	runtime.KeepAlive(untouched)
}

// repeatTime is for how long the same signal is the same request to stop: timeout(1) sends it to the process and to its
// group.
const repeatTime = time.Second

// Run is a program. It gets everything of its process by its arguments.
type Run = func(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error

func live(run Run, stopTimeout time.Duration) {
	log.SetOutput(io.Discard) // net/http logs bytes behind an answer with a wrong length, which may be entries
	name, env := filepath.Base(os.Args[0]), environ(os.Environ())
	stderr := &patientWriter{w: os.Stderr}
	die := func(code int, format string, args ...any) {
		fmt.Fprintln(stderr, name+": "+redact(fmt.Sprintf(format, args...)))
		os.Exit(code)
	}
	parentGone, err := parent(env)
	if err != nil {
		die(2, "%v", err)
	}
	stop := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		stop = append(stop, syscall.SIGHUP)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, stop...)
	if env[StopWithParent] != "" {
		// A closed log must not kill the process before its clean end: writes fail instead.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}

	ctx, cancel := context.WithCancel(context.Background())
	returned := make(chan struct{})
	go func() {
		var first os.Signal
		select {
		case first = <-signals:
		case <-parentGone:
			fmt.Fprintln(stderr, name+": the process that started this one is gone: stopping")
		}
		cancel()
		asked, late := time.Now(), time.After(stopTimeout)
		for {
			select {
			case <-returned:
				return
			case s := <-signals:
				if s == first && time.Since(asked) < repeatTime {
					continue
				}
				die(1, "second signal (%v): not waiting for a clean stop", s)
			case <-late:
				die(1, "not stopped within %v: exiting anyway", stopTimeout)
			}
		}
	}()

	err = run(ctx, os.Args[1:], env, os.Stdout)
	close(returned)
	code := ExitCode(err)
	if code == 0 || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		os.Exit(0)
	}
	die(code, "%v", err)
}

// ExitCode returns the exit code of a program that returns err, unless it was stopped: see [Main].
func ExitCode(err error) int {
	special, coded := errors.AsType[exitError](err)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, ErrUsage):
		return 2
	case coded:
		return special.code
	}
	return 1
}

func environ(list []string) map[string]string {
	env := make(map[string]string, len(list))
	for _, kv := range list {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}
